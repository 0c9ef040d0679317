//! What many trials have shown, as a table in Markdown.

use std::fmt;
use std::time::Duration;

use crate::scenarios::Scenario;
use crate::traffic::Traffic;
use crate::trial::Measured;

/// All trials of one kind.
pub struct Row {
    pub scenario: Scenario,
    pub traffic: Traffic,
    pub trials: Vec<Measured>,
}

impl Row {
    /// Half of the users wait no longer than so.
    pub fn median_wait(&self) -> Option<Duration> {
        let mut waits = self.waits();
        (!waits.is_empty()).then(|| quantile(&mut waits, 50))
    }

    fn waits(&self) -> Vec<Duration> {
        self.all(|trial| trial.waited(self.scenario))
    }

    fn all(&self, of: impl Fn(&Measured) -> Option<Duration>) -> Vec<Duration> {
        self.trials.iter().filter_map(of).collect()
    }
}

/// The head of the table that [`Row`]s are lines of.
pub const HEAD: &str = "\
| the network | meanwhile | lasted | noticed after | first byte after the return | longest stall | replayed | resumed |
|---|---|---|---|---|---|---|---|";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, traffic, trials } = self;
        let lasted = self.all(|trial| Some(trial.lasted));
        let [least, most] = [lasted.iter().min(), lasted.iter().max()]
            .map(|lasted| lasted.map_or(0.0, Duration::as_secs_f64));
        let lasted = if most < 0.1 { "-".into() } else { format!("{least:.0}-{most:.0} s") };
        let noticed = Spread(self.all(|trial| trial.noticed));
        let first = Spread(self.all(|trial| trial.first.filter(|_| *scenario != Scenario::Loss)));
        let stall = Spread(self.all(|trial| trial.stall));
        let mut replayed: Vec<u64> = trials.iter().map(|trial| trial.replayed / 1024).collect();
        let [half, most] = [50, 95].map(|percent| quantile(&mut replayed, percent));
        let resumed = trials.iter().filter(|trial| trial.resumed).count();
        write!(
            f,
            "| {scenario} | {traffic} | {lasted} | {noticed} | {first} | {stall} \
             | {half} / {most} KiB | {resumed} of {} |",
            trials.len(),
        )
    }
}

/// What users wait, as a table with a line for each scenario.
pub fn waits(rows: &[Row]) -> String {
    let head = Traffic::ALL.map(|traffic| format!(" {traffic} |")).concat();
    let mut table = format!("| the network |{head}\n|---|---|---|---|---|\n");
    for rows in rows.chunk_by(|one, other| one.scenario == other.scenario) {
        let cell = |traffic: Traffic| {
            let row = rows.iter().find(|row| row.traffic == traffic);
            let mut waits = row.map(Row::waits).filter(|waits| !waits.is_empty())?;
            let [half, most] = [50, 95].map(|percent| quantile(&mut waits, percent).as_millis());
            Some(format!("{half} / {most}"))
        };
        let cells = Traffic::ALL.map(|traffic| cell(traffic).unwrap_or_else(|| "-".into()));
        table += &format!("| {} | {} |\n", rows[0].scenario, cells.join(" | "));
    }
    table
}

/// Median, 95th percentile, least and most, in milliseconds.
struct Spread(Vec<Duration>);

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut times = self.0.clone();
        if times.is_empty() {
            return f.write_str("-");
        }
        let [half, most] = [50, 95].map(|percent| quantile(&mut times, percent).as_millis());
        let [first, last] = [times[0], times[times.len() - 1]].map(|time| time.as_millis());
        write!(f, "{half} / {most} ({first}-{last}) ms")
    }
}

/// The least of `values` that so many percent of them do not exceed; sorts them.
fn quantile<T: Ord + Copy>(values: &mut [T], percent: usize) -> T {
    values.sort();
    values[(values.len() * percent).div_ceil(100).max(1) - 1]
}
