//! A file in which each trial is noted as soon as it is through: a run that is
//! interrupted goes on where it was, and several runs can share what there is to do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::time::Duration;

use crate::scenarios::{Length, Scenario};
use crate::trial::{Measured, Trial};

/// What a line holds, in nanoseconds and bytes; `-` for what there is not.
const COLUMNS: &str = "scenario\ttraffic\tlasted\tstall\tnoticed\tfirst\treplayed\tresumed";

pub struct Record(File);

impl Record {
    /// Opens or begins the one at `path`, and says what it holds of trials of this
    /// length. Others have one of their own.
    pub fn open(path: &str, length: Length) -> io::Result<(Self, Vec<(Trial, Measured)>)> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let mut lines = text.lines();
        if lines.next().is_some_and(|first| first != COLUMNS) {
            return Err(io::Error::other(format!("{path} is something else")));
        }
        // The last line may have been cut off.
        let trials = lines.filter_map(|line| parse(line, length)).collect();
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        if text.is_empty() {
            writeln!(file, "{COLUMNS}")?;
        } else if !text.ends_with('\n') {
            writeln!(file)?;
        }
        Ok((Self(file), trials))
    }

    pub fn note(&mut self, trial: &Trial, measured: &Measured) -> io::Result<()> {
        let time = |time: Option<Duration>| match time {
            Some(time) => time.as_nanos().to_string(),
            None => "-".into(),
        };
        let Measured { lasted, stall, noticed, first, replayed, resumed } = measured;
        let [lasted, stall, noticed, first] = [Some(*lasted), *stall, *noticed, *first].map(time);
        // In one piece: others may write as well.
        let line = format!(
            "{}\t{}\t{lasted}\t{stall}\t{noticed}\t{first}\t{replayed}\t{resumed}\n",
            trial.scenario, trial.traffic
        );
        self.0.write_all(line.as_bytes())
    }
}

fn parse(line: &str, length: Length) -> Option<(Trial, Measured)> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [scenario, traffic, times @ .., replayed, resumed] = &fields[..] else { return None };
    let time = |field: &&str| match *field {
        "-" => Some(None),
        nanos => nanos.parse().ok().map(|nanos| Some(Duration::from_nanos(nanos))),
    };
    let times: Vec<Option<Duration>> = times.iter().map(time).collect::<Option<_>>()?;
    let [Some(lasted), stall, noticed, first] = times[..] else { return None };
    let scenario = Scenario::ALL.into_iter().find(|known| known.to_string() == *scenario)?;
    let trial = Trial { scenario, traffic: traffic.parse().ok()?, length };
    let (replayed, resumed) = (replayed.parse().ok()?, resumed.parse().ok()?);
    Some((trial, Measured { lasted, stall, noticed, first, replayed, resumed }))
}
