//! Two sides, their applications and a bad network, in any order of steps: the
//! [`Laws`](crate::proto::tests::laws::Laws) hold after each, and once the
//! network is good everything comes to its end.

use crate::fuzzing::Input;
use crate::id::Side;
use crate::proto::tests::exchange::Reading;
use crate::proto::tests::pair::{Pair, Setup};
use crate::proto::tests::schedule::Op;

/// Each step makes one connection at most, and a [`Pair`] has names for 255.
const STEPS_MAX: usize = 250;

/// Takes a setup of two bytes, and steps.
pub fn resume(data: &[u8]) {
    let mut input = Input::new(data);
    let mut pair = Pair::new(setup(&mut input));
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        pair.run(&step(&mut input));
    }
    pair.heal_and_finish();
}

/// Three bits for each side's capacity, two for how many pipes it allows: few,
/// since the laws look at each after each step.
fn setup(input: &mut Input<'_>) -> Setup {
    const CAPACITIES: [u64; 8] = [1, 2, 7, 100, 1000, 5000, 64 * 1024, 128 * 1024];
    const MAX_PIPES: [u64; 4] = [8, 1, 2, 3];
    let (capacities, max_pipes) = (usize::from(input.byte()), usize::from(input.byte()));
    Setup {
        capacity: [CAPACITIES[capacities & 7], CAPACITIES[capacities >> 3 & 7]],
        max_pipes: [MAX_PIPES[max_pipes & 3], MAX_PIPES[max_pipes >> 2 & 3]],
    }
}

/// A byte says what happens and to whom: five bits choose a kind, one the side,
/// one is a choice of the step's own. What else there is to know follows.
fn step(input: &mut Input<'_>) -> Op {
    let byte = input.byte();
    let side = if byte & 0x20 == 0 { Side::Client } else { Side::Server };
    let choice = byte & 0x40 != 0;
    let pick = |input: &mut Input<'_>| usize::from(input.byte());
    let code = |input: &mut Input<'_>| u32::from(input.byte());
    match byte & 0x1f {
        0..3 => Op::Open(side),
        3..6 => Op::Write { side, pick: pick(input), len: input.len() },
        6..9 => Op::Read { side, pick: pick(input), max: input.len() },
        9 => Op::Finish { side, pick: pick(input) },
        10 => Op::Reset { side, pick: pick(input), code: code(input) },
        11 => Op::Stop { side, pick: pick(input), code: code(input) },
        12..14 => Op::OpenStream { side, pick: pick(input) },
        14..17 => Op::Pump { side, pick: pick(input), max: input.len() },
        17..19 => Op::Flush { side, all_acks: choice },
        19 => Op::Notice(side),
        20..22 => Op::Control { to: side, frames: 1 + usize::from(choice) },
        22..25 => Op::Stream { to: side, pick: pick(input), max: input.len() },
        25 => Op::Late { link: pick(input), to: side, pick: pick(input), max: input.len() },
        26 => Op::Cut { link: usize::from(choice) },
        27 => Op::Claim,
        28..30 => Op::Step { steps: 1 + 4 * usize::from(choice) },
        30 if choice => Op::GrantLate { link: pick(input) },
        30 => Op::Resume,
        _ => Op::Settle(if choice { Reading::Yes } else { Reading::No }),
    }
}
