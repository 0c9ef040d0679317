//! Arbitrary schedules. Whatever two applications, two sides and a bad network
//! do in whatever order, the [`Laws`](super::laws::Laws) hold after every step;
//! and once the network is good and every pipe was ended, nothing is left.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

use super::exchange::Reading;
use super::laws::Tally;
use super::pair::{LinkId, Pair, Setup};
use crate::id::{PipeId, Side};

/// A step; a `pick` chooses among what there is.
#[derive(Clone, Debug)]
enum Op {
    // Applications. They do not care whether there is a connection.
    Open(Side),
    Write {
        side: Side,
        pick: usize,
        len: usize,
    },
    Read {
        side: Side,
        pick: usize,
        max: usize,
    },
    Finish {
        side: Side,
        pick: usize,
    },
    Reset {
        side: Side,
        pick: usize,
        code: u32,
    },
    Stop {
        side: Side,
        pick: usize,
        code: u32,
    },
    // Drivers.
    OpenStream {
        side: Side,
        pick: usize,
    },
    Pump {
        side: Side,
        pick: usize,
        max: usize,
    },
    Flush {
        side: Side,
        all_acks: bool,
    },
    /// Hears that its connection is gone, or gives it up.
    Notice(Side),
    // The attached connection.
    Control {
        to: Side,
        frames: usize,
    },
    Stream {
        to: Side,
        pick: usize,
        max: usize,
    },
    // Any connection that there ever was.
    Late {
        link: usize,
        to: Side,
        pick: usize,
        max: usize,
    },
    Cut {
        link: usize,
    },
    // The resume exchange.
    Claim,
    Step {
        steps: usize,
    },
    GrantLate {
        link: usize,
    },
    Resume,
    Settle(Reading),
}

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

impl Pair {
    fn pick(&mut self, side: Side, pick: usize) -> Option<PipeId> {
        let ids = self.peer(side).ids();
        ids.get(pick.checked_rem(ids.len())?).copied()
    }

    /// The `pick`-th connection, counted from the newest.
    fn pick_link(&self, pick: usize) -> LinkId {
        LinkId(self.links.len() - 1 - pick % self.links.len())
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Open(side) => {
                // At the limit it opens none.
                let _ = self.open(side);
            }
            Op::Write { side, pick, len } => {
                self.pick(side, pick).map(|id| self.write(side, id, len));
            }
            Op::Read { side, pick, max } => {
                self.pick(side, pick).map(|id| self.read(side, id, max + 1));
            }
            Op::Finish { side, pick } => {
                self.pick(side, pick).into_iter().for_each(|id| self.finish(side, id));
            }
            Op::Reset { side, pick, code } => {
                self.pick(side, pick).into_iter().for_each(|id| self.reset(side, id, code));
            }
            Op::Stop { side, pick, code } => {
                self.pick(side, pick).into_iter().for_each(|id| self.stop(side, id, code));
            }
            Op::OpenStream { side, pick } => {
                self.pick(side, pick).map(|id| self.open_stream(side, id));
            }
            Op::Pump { side, pick, max } => {
                self.pick(side, pick).map(|id| self.pump(side, id, max));
            }
            Op::Flush { side, all_acks } => {
                self.flush(side, all_acks);
            }
            Op::Notice(side) if self.attached(side).is_some() => self.notice(side),
            Op::Notice(_) => {}
            Op::Control { to, frames } => {
                for _ in 0..frames {
                    self.attached(to).map(|link| self.deliver_control(link, to));
                }
            }
            Op::Stream { to, pick, max } => {
                if let (Some(link), Some(id)) = (self.attached(to), self.pick(to.peer(), pick)) {
                    self.deliver_stream(link, to, id, max + 1);
                }
            }
            Op::Late { link, to, pick, max } => {
                let link = self.pick_link(link);
                self.deliver_control(link, to);
                let ids = self.links[link.0].stream_ids();
                if let Some(id) = ids.get(pick.checked_rem(ids.len()).unwrap_or(0)) {
                    self.deliver_stream(link, to, *id, max);
                }
            }
            Op::Cut { link } => {
                let link = self.pick_link(link);
                self.cut(link);
            }
            Op::Claim => {
                self.claim();
            }
            Op::Step { steps } => {
                for _ in 0..steps {
                    self.step();
                }
            }
            Op::GrantLate { link } => {
                let link = self.pick_link(link);
                if self.grant.is_none() && self.is_ready(link) {
                    self.grant(link);
                }
            }
            Op::Resume => {
                while self.grant.is_some() {
                    self.go_on_granting();
                }
                self.resume();
            }
            Op::Settle(reading) => self.settle(reading),
        }
    }
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
