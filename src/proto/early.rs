//! The early claim: what goes ahead of a resume while the handshake is under way
//! (P-36).
//!
//! ```text
//!  client                                              server
//!    │ EARLY{session, epoch, holder, nonce, proof}        │
//!    │ streams of pipes that owe little ────────────────▶ │ check the early proof;
//!    │                                                    │ readers may go on
//!    │                       EARLY_ANSWER{epoch, proof}   │
//!    │ ◀───────────────────────────────────────────────── │ what their readers
//!    │ handshake complete                                 │ have not had
//!    │ fence, RESUME, table: as ever ───────────────────▶ │
//! ```
//!
//! It is bound to no connection, and what comes with it may come twice (RFC 8446
//! section 8). So it fences nothing, takes no epoch, moves no secret: all that it
//! can bring is bytes of the same holder at their own offsets. Whatever is wrong
//! with it, the full claim decides.

use super::session::SessionCore;
use super::token::proofs_equal;
use crate::id::{Epoch, PipeId};
use crate::misbehaved::PeerMisbehaved;
use crate::wire::{Early, EarlyAnswer, NONCE_LEN, SECRET_LEN};

/// A client's early claim under way.
#[derive(Clone, Debug)]
pub(crate) struct EarlyClaim {
    epoch: Epoch,
    /// What the server proves itself with. Made with the claim: the secret may have
    /// moved on when the answer comes.
    expected: [u8; SECRET_LEN],
}

impl EarlyClaim {
    /// The epoch of the claim, and of the full one that follows it.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The server says that it has let the claim in.
    pub(crate) fn on_answer(&self, answer: &EarlyAnswer) -> Result<(), PeerMisbehaved> {
        if answer.epoch != self.epoch {
            return Err(PeerMisbehaved::WrongEpoch { got: answer.epoch, expected: self.epoch });
        }
        if !proofs_equal(&answer.proof, &self.expected) {
            return Err(PeerMisbehaved::BadServerProof);
        }
        Ok(())
    }
}

impl SessionCore {
    /// Client: claims the session on a connection whose handshake is under way. It
    /// uses up an epoch (P-13). `None` while a full claim waits for its answer: its
    /// pipes would be taken from it.
    pub(crate) fn claim_early(
        &mut self,
        nonce: [u8; NONCE_LEN],
        reads: Vec<(PipeId, u64)>,
    ) -> Option<(EarlyClaim, Early)> {
        if self.claiming {
            return None;
        }
        let epoch = self.next_epoch();
        self.early_epoch = epoch;
        let binding = self.binding(epoch, self.holder, &nonce);
        let (proof, expected) = {
            let secret = self.token.newest();
            (secret.early_proof(binding), secret.early_reply(binding))
        };
        let early = Early { session: self.id, epoch, holder: self.holder, nonce, proof, reads };
        Some((EarlyClaim { epoch, expected }, early))
    }

    /// Client: whether no early claim was made after this one.
    pub(crate) fn is_latest(&self, claim: &EarlyClaim) -> bool {
        claim.epoch == self.early_epoch
    }

    /// Server: whether an early claim is let in, and with what answer. Each is once
    /// at most, and only that of who resumed last: another holder's bytes have no
    /// place beside its.
    pub(crate) fn on_early_claim(&mut self, early: &Early) -> Option<EarlyAnswer> {
        let binding = self.binding(early.epoch, early.holder, &early.nonce);
        let secret = self.token.check_early(&early.proof, binding)?;
        let is_current = early.holder == self.holder
            && early.epoch > self.epoch
            && early.epoch > self.early_epoch;
        let proof = secret.early_reply(binding);
        is_current.then(|| {
            self.early_epoch = early.epoch;
            EarlyAnswer { epoch: early.epoch, proof }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::RefuseCode;
    use crate::id::{HolderId, SessionId, Side};
    use crate::wire::Parameters;

    fn pair() -> [SessionCore; 2] {
        let parameters = Parameters { max_pipes: 8, replay_capacity: 1 << 20, receive_budget: 0 };
        let id = SessionId::from_bytes([7; 16]);
        [Side::Client, Side::Server].map(|side| {
            let secret = [3; SECRET_LEN].into();
            SessionCore::new(side, id, secret, HolderId([1; 16]), parameters, parameters)
        })
    }

    /// Both sides of a full resume on a connection with this exporter.
    fn resume([client, server]: &mut [SessionCore; 2], early: Option<&EarlyClaim>, exporter: u8) {
        let exporter = [exporter; SECRET_LEN];
        let (claim, resume) = match early {
            Some(early) => client.claim_as(early.epoch(), exporter),
            None => client.claim(exporter),
        };
        let answer = server.grant(&resume, &exporter).unwrap();
        client.on_resumed(&claim, &answer).unwrap();
        client.claim_over();
    }

    #[test]
    fn an_early_claim_goes_ahead_of_a_resume_with_the_same_epoch() {
        let mut pair = pair();
        for round in 2..5 {
            let (claim, early) = pair[0].claim_early([round; NONCE_LEN], Vec::new()).unwrap();
            assert_eq!(claim.epoch(), Epoch::from_wire(round.into()));
            let answer = pair[1].on_early_claim(&early).unwrap();
            claim.on_answer(&answer).unwrap();
            resume(&mut pair, Some(&claim), round);
            assert!(pair.iter().all(|core| core.epoch() == claim.epoch()));
        }
    }

    #[test]
    fn an_early_claim_changes_nothing_but_that_it_is_used_up() {
        let [mut client, mut server] = pair();
        let (_, early) = client.claim_early([5; NONCE_LEN], Vec::new()).unwrap();
        let before = server.clone();
        assert!(server.on_early_claim(&early).is_some());
        assert_eq!((server.epoch, server.holder), (before.epoch, before.holder));
        assert!(server.token.is_newest(before.token.newest()));
        for _ in 0..2 {
            assert_eq!(server.on_early_claim(&early), None, "replayed");
        }
        // Without an early claim of its own the next attempt is above it.
        assert_eq!(client.epoch(), Epoch::FIRST, "nothing was attached");
        let mut pair = [client, server];
        resume(&mut pair, None, 9);
        assert!(pair.iter().all(|core| core.epoch() == Epoch::from_wire(3)));
        assert_eq!(pair[1].on_early_claim(&early), None, "its epoch is one of the past");
    }

    #[test]
    fn of_early_claims_that_race_the_first_to_arrive_shuts_out_the_older() {
        let [mut client, mut server] = pair();
        let [(one, first), (two, second)] =
            [1, 2].map(|nonce| client.claim_early([nonce; NONCE_LEN], Vec::new()).unwrap());
        assert!(one.epoch() < two.epoch());
        assert!(server.on_early_claim(&second).is_some());
        assert_eq!(server.on_early_claim(&first), None);
        // Its connection may be the one that goes on all the same.
        resume(&mut [client, server], Some(&one), 8);
    }

    #[test]
    fn an_early_claim_that_is_not_the_holders_own_is_not_let_in() {
        let [mut client, mut server] = pair();
        let (_, early) = client.claim_early([5; NONCE_LEN], Vec::new()).unwrap();
        let mut exporter = early.clone();
        exporter.proof = client.claim_as(early.epoch, early.nonce).1.proof;
        client.claim_over();
        let mut stranger = client.clone();
        stranger.holder = HolderId([2; 16]);
        let mut thief = client.clone();
        thief.token = super::super::token::Token::new(super::super::token::Secret::new([4; 32]));
        for (early, why) in [
            (Early { epoch: early.epoch.next(), ..early.clone() }, "another epoch"),
            (Early { nonce: [6; NONCE_LEN], ..early.clone() }, "another nonce"),
            (Early { holder: stranger.holder, ..early.clone() }, "another holder"),
            (Early { proof: [0; SECRET_LEN], ..early.clone() }, "no proof"),
            (exporter, "the proof of a resume"),
            (
                stranger.claim_early([5; NONCE_LEN], Vec::new()).unwrap().1,
                "a holder that never resumed",
            ),
            (thief.claim_early([5; NONCE_LEN], Vec::new()).unwrap().1, "another secret"),
        ] {
            assert_eq!(server.on_early_claim(&early), None, "{why}");
        }
        assert!(server.on_early_claim(&early).is_some(), "nothing was used up");
    }

    #[test]
    fn an_early_proof_resumes_nothing() {
        let [mut client, mut server] = pair();
        let (claim, early) = client.claim_early([5; NONCE_LEN], Vec::new()).unwrap();
        let (_, mut resume) = client.claim_as(claim.epoch(), early.nonce);
        resume.proof = early.proof;
        assert_eq!(server.grant(&resume, &early.nonce).unwrap_err(), RefuseCode::BAD_PROOF);
    }

    #[test]
    fn an_answer_is_good_for_its_claim_only() {
        let [mut client, mut server] = pair();
        let (claim, early) = client.claim_early([5; NONCE_LEN], Vec::new()).unwrap();
        let answer = server.on_early_claim(&early).unwrap();
        let (other, _) = client.claim_early([5; NONCE_LEN], Vec::new()).unwrap();
        let wrong = PeerMisbehaved::WrongEpoch { got: claim.epoch(), expected: other.epoch() };
        assert_eq!(other.on_answer(&answer), Err(wrong));
        let reflected = EarlyAnswer { proof: early.proof, ..answer };
        assert_eq!(claim.on_answer(&reflected), Err(PeerMisbehaved::BadServerProof));
    }

    #[test]
    fn nothing_goes_ahead_while_a_claim_waits_for_its_answer() {
        let [mut client, _] = pair();
        client.claim([9; SECRET_LEN]);
        let epoch = client.epoch;
        assert!(client.claim_early([5; NONCE_LEN], Vec::new()).is_none());
        assert_eq!(client.epoch, epoch, "no epoch is used up");
        client.claim_over();
        assert!(client.claim_early([5; NONCE_LEN], Vec::new()).is_some());
    }

    /// A lost answer to a resume: the client still has the secret before.
    #[test]
    fn an_early_claim_may_be_made_with_the_older_secret() {
        let [mut client, mut server] = pair();
        let (_, resume) = client.claim([9; SECRET_LEN]);
        server.grant(&resume, &[9; SECRET_LEN]).unwrap();
        client.claim_over();
        let (claim, early) = client.claim_early([5; NONCE_LEN], Vec::new()).unwrap();
        claim.on_answer(&server.on_early_claim(&early).unwrap()).unwrap();
    }
}
