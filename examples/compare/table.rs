//! The table.

use std::fmt;
use std::time::Duration;

use crate::BoxError;
use crate::contender::Contender;
use crate::measure::{self, Speed};
use crate::outages::{AfterCut, PATIENCE};

pub struct Row {
    pub contender: Contender,
    rounds: Vec<Speed>,
    pub cut: Option<AfterCut>,
}

impl Row {
    pub fn new(contender: Contender) -> Self {
        Self { contender, rounds: Vec::new(), cut: None }
    }

    pub async fn take_turn(&mut self) -> Result<(), BoxError> {
        self.rounds.push(measure::speed(self.contender).await?);
        Ok(())
    }

    fn of_rounds(&self, digits: usize, value: impl Fn(&Speed) -> Option<f64>) -> Spread {
        Spread::new(self.rounds.iter().filter_map(value), digits)
    }
}

pub fn print(rows: &[Row]) {
    println!(
        "| | MiB/s | CPU s/GiB | 64 B round trip, p50 us | p99 us | its connection is cut |\n\
         |---|---|---|---|---|---|"
    );
    for row in rows {
        println!("{row}");
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |time: Duration| Some(time.as_secs_f64() * 1e6);
        write!(
            f,
            "| {} | {} | {} | {} | {} | {} |",
            self.contender.name(),
            self.of_rounds(0, |speed| Some(speed.mib_per_second)),
            self.of_rounds(2, |speed| speed.cpu_seconds_per_gib),
            self.of_rounds(0, |speed| micros(speed.p50)),
            self.of_rounds(0, |speed| micros(speed.p99)),
            match &self.cut {
                Some(cut) => cut.to_string(),
                None => String::new(),
            },
        )
    }
}

impl fmt::Display for AfterCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GoesOn(gaps) => {
                let millis = gaps.iter().map(|gap| gap.as_secs_f64() * 1e3);
                write!(f, "goes on after {} ms", Spread::new(millis, 0))
            }
            Self::Fails(after, error) => {
                write!(f, "fails after {:.0} s: {error}", after.as_secs_f64())
            }
            Self::Silent => {
                write!(f, "nothing, and no error, for {} s", PATIENCE.as_secs())
            }
        }
    }
}

/// The median of some values, and the least and the most of them.
struct Spread {
    sorted: Vec<f64>,
    digits: usize,
}

impl Spread {
    fn new(values: impl Iterator<Item = f64>, digits: usize) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted, digits }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sorted, digits } = self;
        match &sorted[..] {
            [] => f.write_str("not known"),
            [only] => write!(f, "{only:.digits$}"),
            [least, .., most] => {
                let median = sorted[sorted.len() / 2];
                write!(f, "{median:.digits$} ({least:.digits$} to {most:.digits$})")
            }
        }
    }
}
