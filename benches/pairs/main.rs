//! How fast evermux is beside the QUIC below it, with the same settings, in the same
//! process: a Markdown table.
//!
//! ```text
//! cargo bench --bench pairs                  # everything, 9 rounds
//! cargo bench --bench pairs -- 15 bulk       # 15 rounds of what has "bulk" in its name
//! ```
//!
//! One measures both in turn, round by round, and gives the median of the ratios: on
//! a machine that others use as well, two numbers that were taken one minute apart
//! compare the minutes. All figures are medians (least-most).

mod rounds;
mod tasks;
#[path = "../twins/mod.rs"]
mod twins;

use std::env;

use evermux::SessionConfig;
use rounds::Rounds;
use tasks::Mix;
use twins::{Evermux, INTERNET, LOOPBACK, Quinn, Settings, Twin};

fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let count = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(9);
    let wanted = args.into_iter().find(|arg| arg.parse::<usize>().is_err()).unwrap_or_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure(Rounds::new(count, wanted)));
}

/// Bytes of one bulk transfer, in each direction.
const BULK: usize = 256 << 20;

async fn measure(rounds: Rounds) {
    rounds.begin();
    for datagram in [INTERNET, LOOPBACK] {
        let settings = Settings { datagram, ..Settings::default() };
        for streams in [1, 100] {
            for both in [false, true] {
                let ways = if both { "both directions" } else { "one direction" };
                let name = format!("bulk, {streams} pipes, {ways}, by {datagram} B; MiB/s");
                rounds
                    .pair(
                        &name,
                        async || {
                            let twin = Evermux::connect(settings).await;
                            tasks::bulk(twin, streams, both, BULK).await
                        },
                        async || {
                            let twin = Quinn::connect(settings).await;
                            tasks::bulk(twin, streams, both, BULK).await
                        },
                    )
                    .await;
            }
        }
    }
    for (packets, datagram) in [("", None), (", by 1452 B", Some(INTERNET))] {
        rounds
            .pair(
                &format!("bulk, both out of the box{packets}; MiB/s"),
                async || {
                    let twin = Evermux::with(SessionConfig::default(), datagram).await;
                    tasks::bulk(twin, 1, false, BULK).await
                },
                async || {
                    let (transport, endpoint) = Default::default();
                    let twin = Quinn::with(transport, endpoint, None).await;
                    tasks::bulk(twin, 1, false, BULK).await
                },
            )
            .await;
    }
    rounds
        .pair(
            "round trip of 64 B, p50, us",
            async || tasks::round_trip::<Evermux>().await,
            async || tasks::round_trip::<Quinn>().await,
        )
        .await;
    for at_once in [1, 32] {
        let name = format!("open, echo 64 B, close; {at_once} at a time; a second");
        rounds
            .pair(
                &name,
                async || tasks::open_echo_close::<Evermux>(at_once).await,
                async || tasks::open_echo_close::<Quinn>(at_once).await,
            )
            .await;
    }
    for pipes in [1, 100, 1_000, 10_000] {
        for mix in [Mix::Idle, Mix::Active] {
            let name = format!("resume with {pipes} {mix} pipes; connect and open them; ms");
            rounds
                .pair(
                    &name,
                    async || tasks::resume(pipes, mix).await,
                    async || tasks::start_over(pipes, mix).await,
                )
                .await;
        }
    }
    for mib in [1, 16, 64] {
        let name = format!("replay of {mib} MiB; connect and send them; ms");
        rounds
            .pair(
                &name,
                async || tasks::replay(mib << 20).await,
                async || tasks::send_again(mib << 20).await,
            )
            .await;
    }
}
