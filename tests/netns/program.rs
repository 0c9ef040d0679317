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
use crate::scenarios::{Length, Scenario};
use crate::table::{HEAD, Row, waits};
use crate::traffic::Traffic;
use crate::trial::{Machine, Measured, Trial};
use crate::{line, roles};

/// How often to play everything, in full length.
const REPEAT: &str = "EVERMUX_NETNS_REPEAT";

/// The bar, on top of two round trips.
const GRACE: Duration = Duration::from_millis(50);

/// What no noise of a machine explains: something waits for a timer.
const BROKEN: Duration = Duration::from_millis(1_500);

/// Labs at a time. They mostly wait for outages to end, and take turns otherwise.
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
    // Of libtest's arguments only the one that everybody uses.
    let filter = env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let trials = choose(repeat, filter.as_deref());
    if trials.is_empty() {
        println!("netns: nothing to do");
        return ExitCode::SUCCESS;
    }
    if let Some(missing) = lab::missing() {
        println!("netns: skipped, needs Linux, root, iproute2 and nftables: {missing}");
        return ExitCode::SUCCESS;
    }
    lab::sweep();
    let begun = Instant::now();
    // While one lab is built, no other waits for its orders.
    let labs = runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let labs = labs.expect("a runtime");
    let (rows, failures) = labs.block_on(run(trials));
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
fn choose(repeat: Option<usize>, filter: Option<&str>) -> Vec<Trial> {
    let (length, repeat) = repeat.map_or((Length::Short, 1), |repeat| (Length::Full, repeat));
    let mut trials = Vec::new();
    for (number, scenario) in Scenario::ALL.into_iter().enumerate() {
        for (kind, traffic) in Traffic::ALL.into_iter().enumerate() {
            let chosen = match filter {
                Some(filter) => scenario.to_string().contains(filter),
                // Each scenario with something small and something large.
                None => length == Length::Full || kind % 2 == number % 2,
            };
            if chosen {
                trials.extend(std::iter::repeat_n(Trial { scenario, traffic, length }, repeat));
            }
        }
    }
    trials
}

/// Plays them, or as many as there is time for until it is interrupted, and says how many
/// have failed.
async fn run(trials: Vec<Trial>) -> (Vec<Row>, usize) {
    // Long ones first; of one kind not all at the same time.
    let mut queue = trials.clone();
    queue.sort_by_key(|trial| std::cmp::Reverse(trial.scenario.lasts(trial.length)));
    let (machine, labs) = (Machine::new(), Arc::new(Semaphore::new(LABS)));
    let mut playing = JoinSet::new();
    for trial in queue {
        let (machine, labs) = (machine.clone(), labs.clone());
        playing.spawn(async move {
            let _lab = labs.acquire().await.expect("it is never closed");
            let outcome = tokio::spawn(async move { trial.run(&machine).await }).await;
            (trial, outcome)
        });
    }
    let mut measured: Vec<(Trial, Measured)> = Vec::new();
    let mut failures = 0;
    loop {
        let played = tokio::select! {
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
        match played {
            (trial, Ok(outcome)) => measured.push((trial, outcome)),
            (trial, Err(_)) => {
                println!("failed: {}, {}", trial.scenario, trial.traffic);
                failures += 1;
            }
        }
    }
    let mut rows: Vec<Row> = Vec::new();
    for Trial { scenario, traffic, .. } in trials {
        if rows.last().is_some_and(|row| (row.scenario, row.traffic) == (scenario, traffic)) {
            continue;
        }
        let of_row = measured
            .iter()
            .filter(|(trial, _)| (trial.scenario, trial.traffic) == (scenario, traffic));
        let trials: Vec<Measured> = of_row.map(|(_, outcome)| *outcome).collect();
        if !trials.is_empty() {
            rows.push(Row { scenario, traffic, trials });
        }
    }
    (rows, failures)
}
