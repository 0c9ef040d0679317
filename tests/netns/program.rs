//! Which trials are played, and what must come of them.

use std::env;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{self, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::hosts::ROLE;
use crate::lab::{self, DELAY};
use crate::record::Record;
use crate::scenarios::{Length, Scenario};
use crate::table::{HEAD, Row, waits};
use crate::timetable::Timetable;
use crate::traffic::Traffic;
use crate::trial::{Measured, Trial};
use crate::{line, roles};

/// How often to play everything, in full length.
const REPEAT: &str = "EVERMUX_NETNS_REPEAT";

/// Where to note what each trial has shown.
const RECORD: &str = "EVERMUX_NETNS_RECORD";

/// How many labs at a time, if not [`LABS`].
const LABS_AT_A_TIME: &str = "EVERMUX_NETNS_LABS";

/// The bar, on top of two round trips.
const GRACE: Duration = Duration::from_millis(50);

/// What no noise of a machine explains: something waits for a timer.
const BROKEN: Duration = Duration::from_millis(1_500);

/// Labs at a time. They mostly wait for outages to end.
const LABS: usize = 16;

pub fn main() -> ExitCode {
    match env::var(ROLE) {
        Ok(role) => {
            play(&role);
            ExitCode::SUCCESS
        }
        Err(_) => test(),
    }
}

/// A host's process.
fn play(role: &str) {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match (role, &args[..]) {
        ("line", [delay]) => {
            line::run(Duration::from_millis(delay.parse().expect("milliseconds")));
        }
        ("server", [listen]) => {
            runtime().block_on(roles::server(listen.parse().expect("an address")));
        }
        ("phone", [server, pin, traffic]) => {
            let (server, traffic) = (server.parse(), traffic.parse());
            let (server, traffic) = (server.expect("an address"), traffic.expect("traffic"));
            runtime().block_on(roles::phone(server, pin, traffic));
        }
        _ => panic!("no host plays {role} with {args:?}"),
    }
}

/// A host has one thread, as if it were alone.
fn runtime() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn test() -> ExitCode {
    let repeat = env::var(REPEAT).ok().map(|repeat| repeat.parse().expect("a number"));
    // Of libtest's arguments only those that everybody uses.
    let filters: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let trials = choose(repeat, &filters);
    if trials.is_empty() {
        println!("netns: nothing to do");
        return ExitCode::SUCCESS;
    }
    if let Some(missing) = lab::missing() {
        println!("netns: skipped, needs Linux, root, iproute2 and nftables: {missing}");
        return ExitCode::SUCCESS;
    }
    let length = length(repeat);
    let record = env::var(RECORD).ok().map(|path| Record::open(&path, length));
    let (record, measured) = match record {
        Some(Ok((record, measured))) => (Some(record), measured),
        Some(Err(error)) => {
            println!("netns: {RECORD}: {error}");
            return ExitCode::FAILURE;
        }
        None => (None, Vec::new()),
    };
    let at_a_time = env::var(LABS_AT_A_TIME).ok();
    let at_a_time = at_a_time.map_or(LABS, |labs| labs.parse().expect("a number"));
    lab::sweep();
    let begun = Instant::now();
    // While one lab is built, no other waits for its orders.
    let labs = runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let labs = labs.expect("a runtime");
    let run = Run { at_a_time, record, measured, failures: 0 };
    let (rows, failures) = labs.block_on(run.play(trials));
    println!("{HEAD}");
    rows.iter().for_each(|row| println!("{row}"));
    println!("p50 / p95 (least-most), in {:?}. What the user waits, in ms:\n", begun.elapsed());
    println!("{}", waits(&rows));
    let bar = GRACE + 4 * DELAY;
    let mut broken = failures > 0;
    for row in &rows {
        let median = row.median_wait().filter(|_| row.scenario != Scenario::Loss);
        let Some(median) = median.filter(|median| *median > bar) else { continue };
        println!("above {bar:?}: {}, {}: {median:?}", row.scenario, row.traffic);
        broken |= median > BROKEN;
    }
    println!("netns: {}", if broken { "FAILED" } else { "ok" });
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// All trials of all scenarios in all weathers, or one of each in some.
fn choose(repeat: Option<usize>, filters: &[String]) -> Vec<Trial> {
    let (length, repeat) = (length(repeat), repeat.unwrap_or(1));
    let mut trials = Vec::new();
    for (number, scenario) in Scenario::ALL.into_iter().enumerate() {
        for (kind, traffic) in Traffic::ALL.into_iter().enumerate() {
            let name = format!("{scenario}, {traffic}");
            let chosen = if filters.is_empty() {
                // Each scenario with something small and something large.
                length == Length::Full || kind % 2 == number % 2
            } else {
                filters.iter().any(|filter| name.contains(filter))
            };
            if chosen {
                trials.extend(std::iter::repeat_n(Trial { scenario, traffic, length }, repeat));
            }
        }
    }
    trials
}

/// How long things last if they are played so often.
fn length(repeat: Option<usize>) -> Length {
    if repeat.is_some() { Length::Full } else { Length::Short }
}

/// Trials that are played, and what came of those that are through.
struct Run {
    at_a_time: usize,
    record: Option<Record>,
    measured: Vec<(Trial, Measured)>,
    failures: usize,
}

impl Run {
    /// Plays what has not been measured yet, or as many as there is time for until it is
    /// interrupted, and says how many have failed.
    async fn play(mut self, trials: Vec<Trial>) -> (Vec<Row>, usize) {
        // Long ones first; of one kind not all at the same time.
        let mut queue = self.left(&trials);
        queue.sort_by_key(|trial| std::cmp::Reverse(trial.scenario.lasts(trial.length)));
        let (timetable, labs) = (Timetable::default(), Arc::new(Semaphore::new(self.at_a_time)));
        let mut playing = JoinSet::new();
        for trial in queue {
            let (timetable, labs) = (timetable.clone(), labs.clone());
            playing.spawn(async move {
                let _lab = labs.acquire().await.expect("it is never closed");
                let outcome = tokio::spawn(async move { trial.run(&timetable).await }).await;
                (trial, outcome.ok())
            });
        }
        loop {
            let (trial, outcome) = tokio::select! {
                played = playing.join_next() => match played {
                    Some(Ok(played)) => played,
                    // All are through.
                    Some(Err(_)) | None => break,
                },
                _ = tokio::signal::ctrl_c() => {
                    println!("interrupted: so far");
                    break;
                }
            };
            self.note(trial, outcome);
        }
        (self.rows(trials), self.failures)
    }

    /// Those of `trials` that have not been measured yet.
    fn left(&self, trials: &[Trial]) -> Vec<Trial> {
        let mut done: Vec<Trial> = self.measured.iter().map(|(trial, _)| *trial).collect();
        let mut left = trials.to_vec();
        left.retain(|trial| match done.iter().position(|done| done == trial) {
            Some(found) => {
                done.swap_remove(found);
                false
            }
            None => true,
        });
        left
    }

    fn note(&mut self, trial: Trial, outcome: Option<Measured>) {
        let Some(measured) = outcome else {
            println!("failed: {}, {}", trial.scenario, trial.traffic);
            self.failures += 1;
            return;
        };
        self.measured.push((trial, measured));
        if let Some(record) = &mut self.record
            && let Err(error) = record.note(&trial, &measured)
        {
            println!("not noted: {error}");
        }
    }

    fn rows(&self, trials: Vec<Trial>) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for Trial { scenario, traffic, .. } in trials {
            if rows.last().is_some_and(|row| (row.scenario, row.traffic) == (scenario, traffic)) {
                continue;
            }
            let of_row = self
                .measured
                .iter()
                .filter(|(trial, _)| (trial.scenario, trial.traffic) == (scenario, traffic));
            let trials: Vec<Measured> = of_row.map(|(_, outcome)| *outcome).collect();
            if !trials.is_empty() {
                rows.push(Row { scenario, traffic, trials });
            }
        }
        rows
    }
}
