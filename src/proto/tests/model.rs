//! Arbitrary schedules. Whatever two applications, two sides and a bad network
//! do in whatever order, the [`Laws`](super::laws::Laws) hold after every step;
//! and once the network is good and every pipe was ended, nothing is left.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

use super::exchange::Reading;
use super::laws::Tally;
use super::pair::{LinkId, Pair, Setup};
use super::schedule::Op;
use crate::id::Side;

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Client), Just(Side::Server)]
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0usize..8, 2 => 0usize..200, 1 => 0usize..6000]
}

fn op() -> impl Strategy<Value = Op> {
    let pick = || 0usize..8;
    prop_oneof![
        4 => side().prop_map(Op::Open),
        12 => (side(), pick(), len()).prop_map(|(side, pick, len)| Op::Write { side, pick, len }),
        12 => (side(), pick(), len()).prop_map(|(side, pick, max)| Op::Read { side, pick, max }),
        3 => (side(), pick()).prop_map(|(side, pick)| Op::Finish { side, pick }),
        2 => (side(), pick(), 10u32..14)
            .prop_map(|(side, pick, code)| Op::Reset { side, pick, code }),
        2 => (side(), pick(), 20u32..24).prop_map(|(side, pick, code)| Op::Stop { side, pick, code }),
        8 => (side(), pick()).prop_map(|(side, pick)| Op::OpenStream { side, pick }),
        10 => (side(), pick(), len()).prop_map(|(side, pick, max)| Op::Pump { side, pick, max }),
        8 => (side(), any::<bool>()).prop_map(|(side, all_acks)| Op::Flush { side, all_acks }),
        2 => side().prop_map(Op::Notice),
        8 => (side(), 1usize..4).prop_map(|(to, frames)| Op::Control { to, frames }),
        10 => (side(), pick(), len()).prop_map(|(to, pick, max)| Op::Stream { to, pick, max }),
        3 => (pick(), side(), pick(), len())
            .prop_map(|(link, to, pick, max)| Op::Late { link, to, pick, max }),
        2 => (0usize..2).prop_map(|link| Op::Cut { link }),
        3 => Just(Op::Claim),
        6 => (1usize..12).prop_map(|steps| Op::Step { steps }),
        1 => pick().prop_map(|link| Op::GrantLate { link }),
        3 => Just(Op::Resume),
        2 => prop_oneof![Just(Reading::Yes), Just(Reading::No)].prop_map(Op::Settle),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let capacity =
        || prop_oneof![Just(1u64), Just(2), Just(7), Just(100), Just(5000), Just(1 << 17)];
    let max_pipes = || prop_oneof![1u64..4, Just(1000)];
    ([capacity(), capacity()], [max_pipes(), max_pipes()])
        .prop_map(|(capacity, max_pipes)| Setup { capacity, max_pipes })
}

#[test]
fn no_schedule_loses_doubles_or_leaks_anything() {
    let total = RefCell::new(Tally::default());
    // PROPTEST_CASES in the environment asks for more than the usual 256.
    let config = Config { failure_persistence: None, ..Config::default() };
    let input = (setup(), prop::collection::vec(op(), 1..250));
    let result = TestRunner::new(config).run(&input, |(setup, ops)| {
        let mut pair = Pair::new(setup);
        ops.iter().for_each(|op| pair.run(op));
        pair.heal_and_finish();
        total.borrow_mut().add(&pair.laws.tally);
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, (setup, ops))) => panic!("{why}\nafter {ops:#?}\nin {setup:?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
    // Nothing of this is worth much if the schedules do not get anywhere.
    let total = total.into_inner();
    let reached = [
        total.resumed,
        total.accepted,
        total.retired,
        total.tombstones,
        total.unseen,
        total.refused,
        total.early,
        total.never_shown,
        total.both_opened,
    ];
    assert!(reached.iter().all(|count| *count > 0), "{total:?}");
    assert!(total.replayed > 0 && total.late > 0, "{total:?}");
}

#[test]
fn a_writer_at_its_capacity_goes_on_without_the_acks_that_wait_for_company() {
    for capacity in [1, 2, 3, 7, 100, 70_000] {
        let mut pair = Pair::new(Setup { capacity: [capacity; 2], ..Setup::default() });
        let id = pair.open(Side::Client).unwrap();
        let total = 8 * capacity;
        for _ in 0..100 {
            pair.write(Side::Client, id, usize::MAX);
            pair.open_stream(Side::Client, id);
            pair.pump(Side::Client, id, usize::MAX);
            pair.deliver_stream(LinkId(0), Side::Server, id, usize::MAX);
            pair.read(Side::Server, id, capacity as usize / 2 + 1);
            pair.flush(Side::Server, false);
            pair.deliver_control(LinkId(0), Side::Client);
        }
        assert!(pair.pipe(Side::Client, id).send.acked() >= total, "capacity {capacity}");
    }
}
