//! The command line of the example.

use std::path::PathBuf;

pub const HELP: &str = "\
An echo over a link that keeps breaking. Options (and their defaults):
  --pipes N       pipes at the same time (8)
  --mib N         MiB that each sends there and back (32)
  --file PATH     send this file through each pipe instead
  --cuts N        times that the connection is cut dead (5)
  --freezes N     times that nothing passes for 1.5 seconds (2)
  --renumbers N   times that the client gets another port (2)
  --loss PERCENT  packets lost, in both directions (0.5)
  --seed N        for payload and faults (1)
";

#[derive(Clone, Debug)]
pub struct Args {
    pub pipes: usize,
    pub mib: u64,
    pub file: Option<PathBuf>,
    pub cuts: u32,
    pub freezes: u32,
    pub renumbers: u32,
    pub loss: f64,
    pub seed: u64,
}

impl Args {
    /// `None` if help is wanted.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut args = Self {
            pipes: 8,
            mib: 32,
            file: None,
            cuts: 5,
            freezes: 2,
            renumbers: 2,
            loss: 0.5,
            seed: 1,
        };
        let mut words = words;
        while let Some(flag) = words.next() {
            if flag == "--help" || flag == "-h" {
                return Ok(None);
            }
            let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--pipes" => args.pipes = number(&flag, &value)?,
                "--mib" => args.mib = number(&flag, &value)?,
                "--file" => args.file = Some(value.into()),
                "--cuts" => args.cuts = number(&flag, &value)?,
                "--freezes" => args.freezes = number(&flag, &value)?,
                "--renumbers" => args.renumbers = number(&flag, &value)?,
                "--loss" => args.loss = number(&flag, &value)?,
                "--seed" => args.seed = number(&flag, &value)?,
                _ => return Err(format!("unknown option {flag}")),
            }
        }
        if args.pipes == 0 || args.pipes > 1000 {
            return Err("--pipes must be between 1 and 1000".into());
        }
        if !(0.0..=50.0).contains(&args.loss) {
            return Err("--loss must be between 0 and 50 percent".into());
        }
        Ok(Some(args))
    }
}

fn number<T: std::str::FromStr>(flag: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{flag} needs a number, not {value:?}"))
}
