//! evermux beside what else there is, on this machine: a Markdown table, and a picture.
//!
//! ```text
//! cargo run --release --example compare
//! cargo run --release --example compare -- --svg target
//! ```
//!
//! You should see one row for each contender after some two minutes: throughput and
//! processor time of one stream in bulk (64 KiB writes and reads), the round trip of
//! 64 bytes, both on loopback with both ends in this process, and when the bytes of a
//! steady flow go on after its connection was cut off for good (by a relay, as by a NAT
//! that was restarted). Figures are medians of seven rounds, least and most behind them;
//! in each round everybody has a turn, so that all see the same weather.
//!
//! With `--svg DIR` the same flows meet three outages: nothing passes for two seconds;
//! the client gets another address; the connection is cut. `DIR/outages.svg` shows what
//! has arrived by when.

mod contender;
mod evermux;
mod measure;
mod outages;
mod picture;
mod quinn;
#[path = "../relay/mod.rs"]
mod relay;
mod road;
mod table;
mod tcp;
mod tls;
mod yamux;

use std::error::Error;
use std::path::PathBuf;

use contender::Contender;
use table::Row;

type BoxError = Box<dyn Error + Send + Sync>;

const ROUNDS: usize = 7;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let picture = match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--svg", dir] => Some(PathBuf::from(dir).join("outages.svg")),
        _ => return Err("usage: compare [--svg DIR]".into()),
    };
    let mut rows = Contender::ALL.map(Row::new);
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        for row in &mut rows {
            row.take_turn().await?;
        }
    }
    eprintln!("cuts, {} s", outages::PATIENCE.as_secs());
    for (contender, outcome) in Contender::IN_OUTAGES.into_iter().zip(outages::cut_all().await?) {
        if let Some(row) = rows.iter_mut().find(|row| row.contender == contender) {
            row.cut = Some(outcome);
        }
    }
    table::print(&rows);
    if let Some(path) = picture {
        eprintln!("the picture, {} s", outages::LASTS.as_secs());
        picture::draw(&path, &outages::watch_all().await?)?;
        println!("\n{}", path.display());
    }
    Ok(())
}
