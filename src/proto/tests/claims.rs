//! Situations about who holds the session: lost answers, other holders,
//! captured claims, drops during the exchange itself.

use super::exchange::{Door, Reading};
use super::pair::{Got, Link, LinkId, Pair, Setup};
use crate::code::{LinkCode, RefuseCode};
use crate::id::{Epoch, HolderId, PipeId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::wire::{Frame, Resumed};

const CLIENT: Side = Side::Client;
const SERVER: Side = Side::Server;
const SIDES: [Side; 2] = [CLIENT, SERVER];

/// A pair with a pipe of each side, and bytes on their way in each direction.
fn busy_pair() -> (Pair, [PipeId; 2]) {
    let mut pair = Pair::new(Setup::default());
    let ids = SIDES.map(|side| pair.open(side).unwrap());
    pair.settle(Reading::Yes);
    for side in SIDES {
        for id in ids {
            assert_eq!(pair.write(side, id, 30), 30);
            assert!(pair.pump(side, id, 30));
        }
    }
    (pair, ids)
}

/// Lets the server come to its answer, and take the connection as attached.
fn answer(pair: &mut Pair, link: LinkId) {
    while pair.attached(SERVER) != Some(link) {
        assert!(pair.step());
    }
}

/// The claim on `link`, brought to the server by whoever: the code of the
/// refusal, or `None` if it waits to be granted.
fn knock(pair: &mut Pair, link: LinkId) -> Option<RefuseCode> {
    while pair.deliver_control(link, SERVER) {}
    match &pair.links[link.0].door {
        Door::Refused(refused) => Some(refused.code),
        Door::Ready(..) => None,
        door => panic!("the claim is complete: {door:?}"),
    }
}

fn state(pair: &Pair, side: Side) -> String {
    format!("{:?} {:?}", pair.peers[side as usize], pair.attached(side))
}

#[test]
fn situation_08_any_number_of_lost_answers_locks_nobody_out() {
    // How many frames of the answer arrive before the connection dies.
    for arrived in 0..4 {
        let (mut pair, ids) = busy_pair();
        for round in 2..40 {
            let link = pair.claim();
            answer(&mut pair, link);
            for _ in 0..arrived {
                assert!(pair.deliver_control(link, CLIENT));
            }
            assert!(pair.attempt.is_some() && pair.attached(CLIENT).is_none());
            assert_eq!(pair.peer(SERVER).core.epoch(), Epoch::from_wire(round));
            // The server may have begun to replay, and does not know.
            pair.open_stream(SERVER, ids[1]);
            pair.cut(link);
        }
        pair.resume();
        assert_eq!(pair.peer(CLIENT).core.epoch(), Epoch::from_wire(40));
        pair.settle(Reading::Yes);
        for side in SIDES {
            assert!(ids.iter().all(|id| pair.pipe(side, *id).recv.read() == 30));
        }
        pair.heal_and_finish();
    }
}

#[test]
fn situation_08_an_attempt_that_was_given_up_comes_too_late_to_disturb_its_successor() {
    let (mut pair, ids) = busy_pair();
    let slow = pair.claim();
    pair.ask();
    pair.resume();
    pair.settle(Reading::Yes);
    pair.write(CLIENT, ids[0], 10);
    let before = SIDES.map(|side| state(&pair, side));
    assert_eq!(knock(&mut pair, slow), Some(RefuseCode::STALE_EPOCH));
    assert_eq!(SIDES.map(|side| state(&pair, side)), before);
    // With the proof of a secret that has been used up since.
    let slower = pair.claim();
    pair.ask();
    pair.resume();
    pair.resume();
    let before = SIDES.map(|side| state(&pair, side));
    assert_eq!(knock(&mut pair, slower), Some(RefuseCode::BAD_PROOF));
    assert_eq!(SIDES.map(|side| state(&pair, side)), before);
    pair.heal_and_finish();
}

#[test]
fn situation_08_of_two_attempts_at_the_door_the_older_gives_way_whichever_is_let_in_first() {
    for older_first in [true, false] {
        let (mut pair, _) = busy_pair();
        let older = pair.claim();
        pair.ask();
        let newer = pair.claim();
        pair.ask();
        assert_eq!((knock(&mut pair, older), knock(&mut pair, newer)), (None, None));
        if older_first {
            pair.grant(older);
            while pair.grant.is_some() {
                pair.go_on_granting();
            }
        }
        pair.grant(newer);
        while pair.step() {}
        assert_eq!(pair.attached, [Some(newer); 2]);
        if !older_first {
            let before = state(&pair, SERVER);
            pair.grant(older);
            assert_eq!(knock(&mut pair, older), Some(RefuseCode::STALE_EPOCH));
            assert_eq!(state(&pair, SERVER), before);
        }
        pair.heal_and_finish();
    }
}

#[test]
fn situation_08_a_client_that_fell_behind_goes_above_the_epoch_it_is_told() {
    // Restored from an older state, say, and with the right secret: its next
    // claim is for an epoch of the past, or for the attached one.
    for behind in [1, 2, 5] {
        let (mut pair, _) = busy_pair();
        for _ in 0..5 {
            let link = pair.claim();
            answer(&mut pair, link);
        }
        let attached = pair.peer(CLIENT).core.epoch();
        pair.peer(CLIENT).core.epoch = Epoch::from_wire(attached.get() - behind);
        pair.laws.forget_client_epoch();
        let before = state(&pair, SERVER);
        pair.claim();
        while pair.step() {}
        assert_eq!(state(&pair, SERVER), before);
        assert_eq!(pair.hear_refusal(), Some(RefuseCode::STALE_EPOCH));
        pair.resume();
        assert_eq!(pair.peer(SERVER).core.epoch(), attached.next());
        pair.heal_and_finish();
    }
}

#[test]
fn situation_09_another_holder_takes_over_and_the_first_is_superseded_for_good() {
    let (mut pair, ids) = busy_pair();
    let mut other = pair.other_holder();
    // The first holder's connection works; the other one claims.
    pair.swap_client(&mut other);
    pair.resume();
    assert_eq!(pair.links[0].closed, Some(LinkCode::Superseded));
    let winner = pair.attached(SERVER);
    // The first tries again and again, and nothing comes of it.
    for _ in 0..3 {
        let before = (state(&pair, SERVER), state(&pair, CLIENT));
        pair.swap_client(&mut other);
        let link = pair.claim();
        pair.ask();
        assert_eq!(knock(&mut pair, link), Some(RefuseCode::SUPERSEDED));
        assert_eq!(pair.hear_refusal(), Some(RefuseCode::SUPERSEDED));
        pair.swap_client(&mut other);
        assert_eq!((state(&pair, SERVER), state(&pair, CLIENT)), before);
    }
    assert_eq!(pair.attached(SERVER), winner);
    pair.settle(Reading::Yes);
    assert_eq!(pair.pipe(CLIENT, ids[0]).recv.read(), 30);
    // Its own later resumes go on, quietly.
    pair.resume();
    assert_eq!(pair.links[winner.unwrap().0].closed, Some(LinkCode::Replaced));
    pair.heal_and_finish();
}

#[test]
fn situation_09_an_outdated_token_disturbs_nobody() {
    // The token is copied; the first holder resumes, and may not even hear the
    // answer. From then on the copy is outdated, also while the server still
    // keeps the secret for the sake of a lost answer.
    for resumes in [1, 2, 5] {
        for answer_lost in [false, true] {
            let (mut pair, _) = busy_pair();
            let mut copy = pair.other_holder();
            for _ in 1..resumes {
                pair.resume();
            }
            let last = pair.claim();
            answer(&mut pair, last);
            while !answer_lost && pair.step() {}
            let before = state(&pair, SERVER);
            pair.swap_client(&mut copy);
            // Also with an epoch above all others.
            for epoch in [2, 100] {
                pair.peer(CLIENT).core.epoch = Epoch::from_wire(epoch);
                pair.laws.forget_client_epoch();
                let link = pair.claim();
                pair.ask();
                assert_eq!(knock(&mut pair, link), Some(RefuseCode::SUPERSEDED));
                assert_eq!(state(&pair, SERVER), before);
            }
            pair.attempt = None;
            pair.swap_client(&mut copy);
            assert_eq!(pair.links[last.0].closed, None);
            if answer_lost {
                pair.resume();
            }
            pair.heal_and_finish();
        }
    }
}

#[test]
fn situation_09_of_two_holders_at_the_door_one_wins_and_the_other_is_superseded() {
    for other_first in [true, false] {
        let (mut pair, _) = busy_pair();
        let mut other = pair.other_holder();
        let ours = pair.claim();
        pair.ask();
        pair.swap_client(&mut other);
        let theirs = pair.claim();
        pair.ask();
        // Both proofs are good so far.
        assert_eq!((knock(&mut pair, ours), knock(&mut pair, theirs)), (None, None));
        let (first, second) = if other_first { (theirs, ours) } else { (ours, theirs) };
        if !other_first {
            pair.swap_client(&mut other);
        }
        pair.grant(first);
        while pair.step() {}
        assert_eq!(pair.attached, [Some(first); 2]);
        let before = SIDES.map(|side| state(&pair, side));
        pair.grant(second);
        assert_eq!(knock(&mut pair, second), Some(RefuseCode::SUPERSEDED));
        assert_eq!(SIDES.map(|side| state(&pair, side)), before);
        assert_eq!(pair.links[first.0].closed, None);
        pair.heal_and_finish();
    }
}

#[test]
fn situation_10_a_captured_resume_is_refused_on_another_connection_before_anything_is_touched() {
    let (mut pair, _) = busy_pair();
    let honest = pair.claim();
    pair.ask();
    let captured = pair.links[honest.0].control[CLIENT as usize].clone();
    assert!(captured.len() >= 4);
    // Before the honest one arrives, while it is on, and after it was used.
    for after_steps in [0, 3, 100] {
        for _ in 0..after_steps {
            pair.step();
        }
        let before = SIDES.map(|side| state(&pair, side));
        let epoch = Epoch::from_wire(2);
        let replayed = LinkId(pair.links.len());
        pair.links.push(Link::new(epoch, [0xee; 32]));
        pair.links[replayed.0].control[CLIENT as usize] = captured.clone();
        assert!(pair.deliver_control(replayed, SERVER));
        // At the first frame: the table was not even looked at.
        let refused = matches!(&pair.links[replayed.0].door,
            Door::Refused(refused) if refused.code == RefuseCode::BAD_PROOF && refused.attached == 0);
        assert!(refused, "{:?}", pair.links[replayed.0].door);
        assert_eq!(SIDES.map(|side| state(&pair, side)), before);
    }
    while pair.step() {}
    assert_eq!(pair.attached, [Some(honest); 2]);
    pair.heal_and_finish();
}

#[test]
fn situation_10_a_claim_changed_in_any_field_is_refused() {
    let (mut pair, _) = busy_pair();
    let (_, resume) = pair.peer(CLIENT).core.claim([5; 32]);
    let server = &pair.peer(SERVER).core;
    assert!(server.check(&resume, &[5; 32]).is_ok());
    let mut higher = resume.clone();
    higher.epoch = higher.epoch.next();
    assert_eq!(server.check(&higher, &[5; 32]).err(), Some(RefuseCode::BAD_PROOF));
    let mut other = resume.clone();
    other.holder = HolderId([9; 16]);
    assert_eq!(server.check(&other, &[5; 32]).err(), Some(RefuseCode::SUPERSEDED));
    for bit in 0..256 {
        let mut forged = resume.clone();
        forged.proof[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(server.check(&forged, &[5; 32]).err(), Some(RefuseCode::BAD_PROOF));
    }
}

#[test]
fn situation_10_a_server_that_does_not_hold_the_session_is_found_out_and_costs_nothing() {
    let (mut pair, _) = busy_pair();
    let core = &mut pair.peer(CLIENT).core;
    let (claim, resume) = core.claim([5; 32]);
    // It can only reflect the client's proof, or answer for another epoch.
    let reflected = Resumed { epoch: resume.epoch, proof: resume.proof };
    assert_eq!(core.on_resumed(&claim, &reflected), Err(PeerMisbehaved::BadServerProof));
    let (got, expected) = (resume.epoch.next(), resume.epoch);
    let other = Resumed { epoch: got, proof: resume.proof };
    assert_eq!(core.on_resumed(&claim, &other), Err(PeerMisbehaved::WrongEpoch { got, expected }));
    // The secret has not moved on: the true server is still to be had.
    pair.resume();
    pair.heal_and_finish();
}

/// The smallest thing that can happen next: a step of the resume, a frame, a
/// few bytes.
fn tick(pair: &mut Pair) -> bool {
    if pair.step() {
        return true;
    }
    for side in SIDES {
        let Some(link) = pair.attached(side) else { continue };
        if pair.flush(side, true) || pair.deliver_control(link, side) {
            return true;
        }
        for id in pair.peer(side).ids() {
            if pair.open_stream(side, id)
                || pair.pump(side, id, 16)
                || pair.deliver_stream(link, side, id, 16)
                || matches!(pair.read(side, id, 16), Got::Bytes(_))
            {
                return true;
            }
        }
    }
    false
}

#[test]
fn situation_13_ten_drops_at_each_boundary_of_a_resume_and_its_replay_lose_nothing() {
    // The laws hold every offset against where it was: they only grow.
    for boundary in 0.. {
        let (mut pair, ids) = busy_pair();
        pair.finish(SERVER, ids[0]);
        pair.drop_link();
        let mut through = 0;
        for round in 0..10 {
            pair.claim();
            through += usize::from(!(0..boundary).all(|_| tick(&mut pair)));
            if round % 2 == 0 {
                pair.drop_link();
            } else {
                // Nobody has heard of it when the next attempt begins.
                pair.cut(LinkId(pair.links.len() - 1));
            }
            pair.write(CLIENT, ids[0], 5);
            pair.write(SERVER, ids[1], 5);
        }
        pair.heal_and_finish();
        if through == 10 {
            // The whole replay fits before the drop.
            assert!(boundary > 40, "{boundary}");
            break;
        }
    }
}

#[test]
fn frames_of_the_exchange_have_no_place_on_an_attached_connection() {
    let (mut pair, _) = busy_pair();
    let (_, resume) = pair.peer(CLIENT).core.claim([5; 32]);
    let resumed = Resumed { epoch: resume.epoch, proof: resume.proof };
    let table = pair.peer(SERVER).core.clone().table(Vec::new()).into_frames();
    for frame in [Frame::Resume(resume), Frame::Resumed(resumed)].into_iter().chain(table) {
        let misplaced = Err(PeerMisbehaved::UnexpectedFrame { frame: frame.name() });
        assert_eq!(pair.peer(SERVER).on_frame(frame).map(|_| ()), misplaced);
    }
}
