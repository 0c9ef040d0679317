//! What a relay has counted.

/// The counters of a relay at one moment; see `Relay::stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayStats {
    /// What clients sent.
    pub to_server: LaneStats,
    /// What the server sent.
    pub to_client: LaneStats,
    /// Client addresses seen since the start; one that comes back after its
    /// flow was evicted counts again.
    pub flows: u64,
    /// Flows that got a new upstream port (a flow counts each time).
    pub renumberings: u64,
}

/// One direction's share of [`RelayStats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Datagrams sent on, copies included.
    pub datagrams: u64,
    /// Payload bytes of those datagrams.
    pub bytes: u64,
    /// Datagrams that were sent on twice.
    pub duplicated: u64,
    /// Datagrams held back, so that later ones overtake them.
    pub reordered: u64,
    /// Datagrams in the delay line now, released ones too: a level, not a count.
    pub under_way: u64,
    /// Datagrams that wait for `Relay::release` now: a level, not a count.
    pub held: u64,
    /// Datagrams that went nowhere.
    pub dropped: Dropped,
}

/// Why datagrams went nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The dice said so (`Faults::loss`).
    pub loss: u64,
    /// Their flow was cut.
    pub cut: u64,
    /// The relay was frozen.
    pub frozen: u64,
    /// Their direction was blocked.
    pub blocked: u64,
    /// Sent to a port that a renumbering had given up, or not by the server.
    pub stray: u64,
    /// The hold or the delay line was full.
    pub overflow: u64,
    /// The operating system refused to send them, or to open a socket for
    /// their flow.
    pub unsent: u64,
}

impl Dropped {
    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        let Self { loss, cut, frozen, blocked, stray, overflow, unsent } = *self;
        loss + cut + frozen + blocked + stray + overflow + unsent
    }
}
