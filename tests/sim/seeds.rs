//! Many runs, each from its own seed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::random::{self, Report};
use crate::weather::Fault;
use crate::world::{self, Outcome};

/// Lines of a failing run's course that are printed; the rest is in the file.
const LAST_LINES: usize = 40;

/// A run from `seed`.
pub fn run(seed: u64, readable: bool) -> Outcome<Report> {
    world::run(seed, readable, |world| random::play(world, seed))
}

/// Runs `count` seeds from `first` on, on all cores; panics with what a person
/// needs to know of the first failure.
pub fn run_all(first: u64, count: u64) -> Summary {
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let summary = Mutex::new(Summary::default());
    let failures = Mutex::new(BTreeMap::new());
    let work = || {
        while failures.lock().unwrap().is_empty() {
            let index = next.fetch_add(1, Relaxed);
            if index >= count {
                return;
            }
            let seed = first + index;
            let outcome = run(seed, false);
            match outcome.result {
                Ok(report) => summary.lock().unwrap().add(&report, outcome.lasted),
                Err(reason) => drop(failures.lock().unwrap().insert(seed, reason)),
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    if let Some((seed, reason)) = failures.into_inner().unwrap().pop_first() {
        panic!("{}", explain(seed, &reason));
    }
    let mut summary = summary.into_inner().unwrap();
    summary.took = begun.elapsed();
    summary
}

/// What a person needs to know of a run that failed: it is run once more, for
/// its course.
pub fn explain(seed: u64, reason: &str) -> String {
    let course = course(&seed.to_string(), reason, run(seed, true));
    format!(
        "seed {seed}: {course}\nto replay it:\n  \
         EVERMUX_SIM_FIRST_SEED={seed} EVERMUX_SIM_SEEDS=1 EVERMUX_SIM_TRACE=1 \
         cargo test --release --test sim any_run -- --nocapture\n"
    )
}

/// Why a run failed, and the end of its course; all of it goes to a file of this
/// name. `again`: the same run, readable.
pub fn course<T>(name: &str, reason: &str, again: Outcome<T>) -> String {
    let course = again.trace.unwrap_or_default();
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("sim-{name}.txt"));
    let kept = match fs::write(&path, &course) {
        Ok(()) => format!("the whole course is in {}", path.display()),
        Err(error) => format!("the course cannot be written to {}: {error}", path.display()),
    };
    let lines: Vec<&str> = course.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    let same = match &again.result {
        Err(again) if again == reason => "",
        _ => "\nIT WENT ANOTHER WAY THE SECOND TIME: the run is not deterministic",
    };
    format!("{reason}{same}\n\n{last}\n\n{kept}")
}

/// A number from the environment.
pub fn from_env(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value}: not a number")))
}

/// What all runs together have seen.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    runs: u64,
    sum: Report,
    lasted: Duration,
    took: Duration,
}

impl Summary {
    fn add(&mut self, report: &Report, lasted: Duration) {
        let sum = &mut self.sum;
        sum.sessions += report.sessions;
        sum.pipes += report.pipes;
        sum.resumes += report.resumes;
        for (fault, count) in &report.faults {
            *sum.faults.entry(*fault).or_default() += count;
        }
        sum.killed += report.killed;
        sum.delivered += report.delivered;
        sum.ends += report.ends;
        sum.lost += report.lost;
        sum.doubled += report.doubled;
        sum.datagrams += report.datagrams;
        self.runs += 1;
        self.lasted += lasted;
    }

    fn faults(&self) -> u64 {
        self.sum.faults.values().sum::<u64>() + self.sum.killed
    }

    /// Faults by kind, for those who want to know.
    pub fn by_fault(&self) -> &BTreeMap<Fault, u64> {
        &self.sum.faults
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { sessions, pipes, resumes, delivered, ends, lost, doubled, datagrams, .. } =
            &self.sum;
        write!(
            f,
            "{} runs, {} faults, {:.1} virtual hours, {sessions} sessions, {pipes} pipes, {resumes} \
             resumes, {datagrams} datagrams, {ends} ends of streams, {delivered} bytes delivered, \
             {lost} lost, {doubled} doubled, {:.1} runs per wall second",
            self.runs,
            self.faults(),
            self.lasted.as_secs_f64() / 3600.0,
            self.runs as f64 / self.took.as_secs_f64(),
        )
    }
}
