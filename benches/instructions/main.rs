//! How many instructions a byte takes, from one end's writer to the other end's
//! reader: evermux beside the QUIC below it, as callgrind counts them. Unlike time,
//! that is the same on a busy machine. What the kernel does is not counted; it is
//! the same for both.
//!
//! ```text
//! cargo bench --bench instructions                 # a table
//! cargo bench --bench instructions -- --check      # fails if a ratio has grown by 3 %
//! cargo bench --bench instructions -- --record     # writes what --check compares with
//! ```
//!
//! To see what they are spent on:
//!
//! ```text
//! valgrind --tool=callgrind --collect-atstart=no '--toggle-collect=*transfer_counted*' \
//!   target/release/deps/instructions-* work evermux 64k
//! callgrind_annotate callgrind.out.*
//! ```

#[path = "../twins/mod.rs"]
mod twins;
mod work;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;

use twins::{Evermux, Quinn, Twin};
use work::{CASES, COUNTED, Case};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["work", twin, case] => work::run(twin, case),
        [] => measure().map(|_| ()),
        ["--check"] => check(),
        ["--record"] => record(),
        _ => Err("usage: instructions [--check | --record]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The ratio of each case, evermux to quinn; prints them.
fn measure() -> Result<BTreeMap<&'static str, f64>, String> {
    println!("| writes of | evermux, instructions a byte | quinn | ratio |");
    println!("|---|---|---|---|");
    let mut ratios = BTreeMap::new();
    for case in CASES {
        ratios.insert(case.name, ratio(case)?);
    }
    Ok(ratios)
}

/// The ratio of one case; prints it.
fn ratio(case: &Case) -> Result<f64, String> {
    // At once: the counts do not mind.
    let (evermux, quinn) = thread::scope(|scope| {
        let quinn = scope.spawn(|| per_byte(Quinn::NAME, case));
        (per_byte(Evermux::NAME, case), quinn.join())
    });
    let (evermux, quinn) = (evermux?, quinn.map_err(|_| "a thread panicked")??);
    let ratio = evermux / quinn;
    println!("| {} | {evermux:.2} | {quinn:.2} | {ratio:.3} |", case.name);
    Ok(ratio)
}

/// Those of a transfer, without those of the handshake: aws-lc spends hundreds of
/// millions on its random numbers.
fn per_byte(twin: &str, case: &Case) -> Result<f64, String> {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg(format!("--toggle-collect=*{COUNTED}*"))
        .arg(env::current_exe().map_err(|error| format!("our own path: {error}"))?)
        .args(["work", twin, case.name])
        .output()
        .map_err(|error| format!("valgrind does not start, is it installed? {error}"))?;
    let said = String::from_utf8_lossy(&run.stderr);
    let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1));
    match collected.and_then(|count| count.trim().parse::<f64>().ok()) {
        Some(count) if run.status.success() && count > 0.0 => Ok(count / case.bytes as f64),
        _ => Err(format!("{twin}, {}: {}\n{said}", case.name, run.status)),
    }
}

/// More is a step back: the ratios of two runs are closer than this. But for short
/// writes: how many of them share a packet depends on when acks come. What looks worse
/// is measured again.
const TOLERANCE: f64 = 1.03;
const TRIES: usize = 4;

fn check() -> Result<(), String> {
    let baseline = fs::read_to_string(baseline_file()).map_err(|error| error.to_string())?;
    let recorded: BTreeMap<&str, f64> = baseline
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, ratio)| Some((name, ratio.parse().ok()?)))
        .collect();
    let mut worse = String::new();
    let mut ratios = measure()?;
    for case in CASES {
        let Some(was) = recorded.get(case.name) else {
            return Err(format!("no baseline for {}: use --record", case.name));
        };
        let least = ratios.entry(case.name).or_insert(f64::MAX);
        for _ in 1..TRIES {
            if *least > was * TOLERANCE {
                *least = least.min(ratio(case)?);
            }
        }
        if *least > was * TOLERANCE {
            let _ = write!(worse, "\n{}: {least:.3}, was {was:.3}", case.name);
        }
    }
    if worse.is_empty() { Ok(()) } else { Err(format!("more instructions than before:{worse}")) }
}

fn record() -> Result<(), String> {
    let lines: Vec<_> =
        measure()?.into_iter().map(|(name, ratio)| format!("{name} {ratio:.3}\n")).collect();
    fs::write(baseline_file(), lines.concat()).map_err(|error| error.to_string())
}

fn baseline_file() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "benches", "instructions", "baseline.txt"].iter().collect()
}
