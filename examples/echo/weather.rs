//! When which fault strikes.

use std::sync::Arc;
use std::time::Duration;

use crate::args::Args;
use crate::progress::Progress;
use crate::relay::{Direction, Faults, Relay};

/// How long a freeze lasts: longer than it takes to notice.
const FREEZE: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy)]
enum Fault {
    Cut,
    Freeze,
    Renumber,
}

/// Lets all faults strike, evenly spread over the bytes, in an order that the
/// seed decides. Says what it did.
pub async fn rage(relay: Arc<Relay>, progress: Arc<Progress>, args: Args) -> String {
    let share = args.loss / 100.0;
    let faults = Faults {
        loss: share,
        reorder: share,
        reorder_by: Duration::from_millis(3),
        ..Faults::default()
    };
    relay.set_faults(Direction::ToServer, faults);
    relay.set_faults(Direction::ToClient, faults);

    let kinds =
        [(Fault::Cut, args.cuts), (Fault::Freeze, args.freezes), (Fault::Renumber, args.renumbers)];
    let mut faults: Vec<Fault> =
        kinds.iter().flat_map(|(fault, times)| vec![*fault; *times as usize]).collect();
    shuffle(&mut faults, args.seed);
    for (number, fault) in faults.iter().enumerate() {
        progress.reach((number as f64 + 1.0) / (faults.len() as f64 + 1.0)).await;
        match fault {
            Fault::Cut => {
                progress.say("the connection is cut dead");
                relay.cut();
            }
            Fault::Freeze => {
                progress.say("the network freezes");
                relay.freeze();
                tokio::time::sleep(FREEZE).await;
                relay.thaw();
                progress.say("the network is back");
            }
            Fault::Renumber => {
                progress.say("the client gets another port");
                relay.renumber();
            }
        }
    }
    format!("{} cuts, {} freezes, {} renumberings", args.cuts, args.freezes, args.renumbers)
}

/// Fisher and Yates's shuffle, with a linear congruential generator.
fn shuffle(faults: &mut [Fault], seed: u64) {
    let mut state = seed;
    for last in (1..faults.len()).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        faults.swap(last, (state >> 33) as usize % (last + 1));
    }
}
