//! Rounds of two measurements that are compared.

use std::fmt;

pub struct Rounds {
    count: usize,
    /// Part of the name of what is measured.
    wanted: String,
}

impl Rounds {
    pub fn new(count: usize, wanted: String) -> Self {
        Self { count: count.max(1), wanted }
    }

    pub fn begin(&self) {
        println!("| what ({} rounds) | evermux | quinn | ratio |", self.count);
        println!("|---|---|---|---|");
    }

    /// Measures both, one after the other, in each round, and prints a row.
    pub async fn pair(
        &self,
        name: &str,
        evermux: impl AsyncFn() -> f64,
        quinn: impl AsyncFn() -> f64,
    ) {
        if !name.contains(&self.wanted) {
            return;
        }
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.count {
            // Neither is always the first.
            let (of_evermux, of_quinn) = if round % 2 == 0 {
                let first = evermux().await;
                (first, quinn().await)
            } else {
                let first = quinn().await;
                (evermux().await, first)
            };
            ours.push(of_evermux);
            theirs.push(of_quinn);
            ratios.push(of_evermux / of_quinn);
        }
        let [ours, theirs, ratios] = [ours, theirs, ratios].map(Spread::of);
        println!("| {name} | {ours} | {theirs} | {ratios} |");
    }
}

/// Median, least and most.
struct Spread([f64; 3]);

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self([values.len() / 2, 0, values.len() - 1].map(|at| values[at]))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([median, least, most]) = self;
        let digits = match *most {
            most if most < 20.0 => 2,
            most if most < 200.0 => 1,
            _ => 0,
        };
        write!(f, "{median:.digits$} ({least:.digits$}-{most:.digits$})")
    }
}
