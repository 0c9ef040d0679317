//! `evermux ping`: round trips to an agent and back, through a pipe.

use std::time::Duration;

use tokio::time::Instant;

use crate::args::PingArgs;
use crate::connect::{Agent, connect};
use crate::exit::{Code, Failure};
use crate::known_links;
use crate::request::Request;
use crate::signals;

/// As much as `ping` sends.
const LEN: usize = 64;

pub async fn run(args: PingArgs) -> Result<(), Failure> {
    let link = known_links::find(args.link.as_deref())?;
    let begun = Instant::now();
    let mut end = std::pin::pin!(signals::asked_to_end());
    let agent = tokio::select! {
        asked = &mut end => return asked,
        agent = connect(&link, &args.reach) => agent?,
    };
    say!("{}: connected in {:.1} ms", agent.address, millis(begun.elapsed()));
    let mut times = Vec::new();
    let outcome = tokio::select! {
        asked = end => asked,
        outcome = ping(&agent, &args, &mut times) => outcome,
    };
    agent.leave().await;
    if let Some(summary) = summary(times) {
        say!("{summary}");
    }
    outcome
}

async fn ping(agent: &Agent, args: &PingArgs, times: &mut Vec<Duration>) -> Result<(), Failure> {
    let mut pipe = agent.open(&Request::Echo).await?;
    for number in 1..=args.count {
        let sent = Instant::now();
        round_trip(agent, &mut pipe, LEN).await?;
        let time = sent.elapsed();
        times.push(time);
        say!("{LEN} bytes there and back: number {number}, {:.3} ms", millis(time));
        if number < args.count {
            tokio::time::sleep_until(sent + args.interval.into()).await;
        }
    }
    Ok(())
}

/// Sends `len` bytes and waits until they are back.
pub async fn round_trip(
    agent: &Agent,
    pipe: &mut evermux::BackedPipe,
    len: usize,
) -> Result<(), Failure> {
    let lost = || Failure::new(Code::Protocol, "the agent does not send back what it gets");
    if pipe.writer().write_all(&vec![0; len]).await.is_err() {
        return Err(agent.lost().await);
    }
    let mut missing = len;
    while missing > 0 {
        match pipe.reader().read_chunk(missing).await {
            Ok(Some(chunk)) => missing -= chunk.len(),
            Ok(None) | Err(evermux::ReadError::Reset { .. }) => return Err(lost()),
            Err(_) => return Err(agent.lost().await),
        }
    }
    Ok(())
}

fn summary(mut times: Vec<Duration>) -> Option<String> {
    times.sort();
    let (least, most) = (times.first()?, times.last()?);
    let median = times.get(times.len() / 2)?;
    Some(format!(
        "{} round trips: least {:.3} ms, median {:.3} ms, most {:.3} ms",
        times.len(),
        millis(*least),
        millis(*median),
        millis(*most)
    ))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
