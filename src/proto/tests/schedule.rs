//! Steps of a schedule: what applications, drivers and a bad network do to a
//! [`Pair`].

use super::exchange::Reading;
use super::pair::{LinkId, Pair};
use crate::id::{PipeId, Side};

/// A step; a `pick` chooses among what there is.
#[derive(Clone, Debug)]
pub(super) enum Op {
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

impl Pair {
    fn pick(&mut self, side: Side, pick: usize) -> Option<PipeId> {
        let ids = self.peer(side).ids();
        ids.get(pick.checked_rem(ids.len())?).copied()
    }

    /// The `pick`-th connection, counted from the newest.
    fn pick_link(&self, pick: usize) -> LinkId {
        LinkId(self.links.len() - 1 - pick % self.links.len())
    }

    pub(super) fn run(&mut self, op: &Op) {
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
