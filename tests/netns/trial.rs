//! One lab, one session, one thing that happens to it; and what that took.

use std::time::Duration;

use evermux::Identity;
use tokio::time::sleep;

use crate::hosts::Host;
use crate::lab::Lab;
use crate::moment::Moment;
use crate::scenarios::{Length, Scenario};
use crate::timetable::Timetable;
use crate::traffic::Traffic;

/// How long everything goes well before something happens: the windows are open.
const WARM_UP: Duration = Duration::from_secs(1);

/// How long bytes flow again until the end.
const SETTLE: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    pub scenario: Scenario,
    pub traffic: Traffic,
    pub length: Length,
}

/// What a trial has shown. Nothing was lost and nothing doubled, or there is none.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// How long it lasted.
    pub lasted: Duration,
    /// The longest time between two reads, from the beginning on.
    pub stall: Option<Duration>,
    /// From the beginning to the first event of either side's session.
    pub noticed: Option<Duration>,
    /// From the path's return to the first read; to `UnknownSession` if the server has
    /// forgotten the session.
    pub first: Option<Duration>,
    /// Bytes sent again by the sessions, both ways.
    pub replayed: u64,
    /// Whether it went on on another connection.
    pub resumed: bool,
}

impl Measured {
    /// What the user waits although there is a path: until the first byte comes after
    /// its return, or for the longest stall if it is there all the time.
    pub fn waited(&self, scenario: Scenario) -> Option<Duration> {
        match scenario {
            Scenario::Loss => self.stall,
            _ if scenario.is_instant() => self.stall.max(self.first),
            _ => self.first,
        }
    }
}

impl Trial {
    /// # Panics
    ///
    /// If anything is not as it should be.
    pub async fn run(self, timetable: &Timetable) -> Measured {
        let Self { scenario, traffic, length } = self;
        let identity = Identity::self_signed(&[]).expect("a key");
        let mut lab = Lab::build().await;
        if scenario.needs_lte() {
            lab.lte_up().run().await;
        }
        let (server, _) = Host::server(&lab, &identity).await;
        let booked = timetable.begin(traffic, scenario.lasts(length)).await;
        let phone = Host::phone(&lab, &identity, traffic).await;
        let mut pair = Pair { phone, server, traffic };
        pair.reader().hear("flowing").await;
        sleep(WARM_UP).await;
        if scenario == Scenario::Restart {
            return pair.restart(&lab, &identity, length).await;
        }

        let mut struck = None;
        for script in scenario.strike(&mut lab) {
            let begun = script.run().await;
            struck.get_or_insert(begun);
        }
        let struck = struck.expect("something happens");
        if let Some(what) = scenario.told() {
            pair.phone.tell(what).await;
        }
        let mut back = struck;
        if let Some(lasts) = scenario.lasts(length) {
            sleep(lasts).await;
            if let Some(relief) = scenario.relieve(&lab).await {
                back = relief.run().await;
            }
        }
        if traffic == Traffic::Idle {
            pair.phone.tell("write").await;
        }
        pair.reader().tell(&format!("first {back}")).await;
        let [first] = pair.reader().hear("first").await.numbers();
        let first = Moment::from_nanos(first);
        sleep(SETTLE).await;

        pair.end().await;
        pair.reader().tell(&format!("longest {struck}")).await;
        let [stall] = pair.reader().hear("longest").await.numbers();
        let mut counts = [0; 2];
        for host in [&mut pair.phone, &mut pair.server] {
            host.tell("counts").await;
            let [replayed, resumes] = host.hear("counts").await.numbers();
            counts = [counts[0] + replayed, counts[1] + resumes];
        }
        drop(booked);
        Measured {
            lasted: back.since(struck),
            stall: (traffic != Traffic::Idle).then_some(Duration::from_nanos(stall)),
            noticed: pair.noticed(struck),
            first: Some(first.since(back)),
            replayed: counts[0],
            resumed: counts[1] > 0,
        }
    }
}

/// The two ends of the session.
struct Pair {
    phone: Host,
    server: Host,
    traffic: Traffic,
}

impl Pair {
    /// The one that reads.
    fn reader(&mut self) -> &mut Host {
        if self.traffic == Traffic::Download { &mut self.phone } else { &mut self.server }
    }

    fn writer(&mut self) -> &mut Host {
        if self.traffic == Traffic::Download { &mut self.server } else { &mut self.phone }
    }

    /// All that was written is read, and no more.
    async fn end(&mut self) {
        self.writer().tell("finish").await;
        let [wrote]: [u64; 1] = self.writer().hear("wrote").await.numbers();
        let [read] = self.reader().hear("read").await.numbers();
        assert_eq!(read, wrote, "read, and written");
    }

    fn noticed(&self, struck: Moment) -> Option<Duration> {
        let events = self.phone.events().chain(self.server.events());
        let first = events.map(|said| said.at).filter(|at| *at > struck).min();
        first.map(|at| at.since(struck))
    }

    /// The server crashes. The client is told as soon as there is another that knows
    /// nothing of the session.
    async fn restart(self, lab: &Lab, identity: &Identity, length: Length) -> Measured {
        let Self { mut phone, server, traffic } = self;
        let struck = Moment::now();
        server.kill().await;
        sleep(Scenario::Restart.lasts(length).unwrap_or_default()).await;
        let (_server, listening) = Host::server(lab, identity).await;
        if traffic == Traffic::Idle {
            phone.tell("write").await;
        }
        let ended = phone.hear("ended").await;
        assert_eq!(ended.what, "ended unknown");
        let noticed = phone.events().map(|said| said.at).find(|at| *at > struck);
        Measured {
            lasted: listening.since(struck),
            stall: None,
            noticed: Some(noticed.unwrap_or(ended.at).since(struck)),
            first: Some(ended.at.since(listening)),
            replayed: 0,
            resumed: false,
        }
    }
}
