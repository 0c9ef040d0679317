//! The token: what lets a client resume a session.
//!
//! The secret crosses the wire once, in `Welcome`, inside TLS. A resume proves
//! knowledge of it with an HMAC over the session, the epoch, the holder and
//! keying material exported from *this* TLS connection (RFC 8446 section 7.5),
//! so that a captured resume is worth nothing on another (P-15). The secret
//! moves on with each resume; the server keeps the one before until the new one
//! has been used, so that a lost answer locks nobody out (P-16).

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::crypto::hmac_sha256;
use crate::id::{Epoch, HolderId, SessionId};
use crate::wire::SECRET_LEN;

/// A shared secret: zeroized when dropped, never printed.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<[u8; SECRET_LEN]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a proof is bound to, besides the secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding<'a> {
    pub(crate) session: SessionId,
    pub(crate) epoch: Epoch,
    pub(crate) holder: HolderId,
    /// Exported from the TLS connection that carries the resume. In an early
    /// claim, before there is such a thing, the client's nonce.
    pub(crate) exporter: &'a [u8; SECRET_LEN],
}

impl Secret {
    pub(crate) fn new(bytes: impl Into<Zeroizing<[u8; SECRET_LEN]>>) -> Self {
        Self(bytes.into())
    }

    /// What the client sends in `Resume`.
    pub(crate) fn client_proof(&self, binding: Binding<'_>) -> [u8; SECRET_LEN] {
        self.derive(b"evermux client proof", binding)
    }

    /// What the server sends in `Resumed`.
    pub(crate) fn server_proof(&self, binding: Binding<'_>) -> [u8; SECRET_LEN] {
        self.derive(b"evermux server proof", binding)
    }

    /// What the client sends in `Early`. Bound to no connection: it opens nothing
    /// but what P-36 allows.
    pub(crate) fn early_proof(&self, binding: Binding<'_>) -> [u8; SECRET_LEN] {
        self.derive(b"evermux early claim ", binding)
    }

    /// What the server sends in `EarlyAnswer`.
    pub(crate) fn early_reply(&self, binding: Binding<'_>) -> [u8; SECRET_LEN] {
        self.derive(b"evermux early reply ", binding)
    }

    /// The secret after a resume.
    fn successor(&self, binding: Binding<'_>) -> Self {
        Self::new(self.derive(b"evermux next secret ", binding))
    }

    /// Labels have one length, so that no two inputs run together.
    fn derive(&self, label: &[u8; 20], binding: Binding<'_>) -> [u8; SECRET_LEN] {
        hmac_sha256(
            &self.0[..],
            &[
                label,
                binding.session.as_bytes(),
                &binding.epoch.get().to_be_bytes(),
                &binding.holder.0,
                binding.exporter,
            ],
        )
    }
}

/// Compares two proofs in constant time.
pub(crate) fn proofs_equal(a: &[u8; SECRET_LEN], b: &[u8; SECRET_LEN]) -> bool {
    bool::from(a.ct_eq(b))
}

/// The secrets that are good for a resume.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    newest: Secret,
    /// Server only: the secret before the last change, until `newest` has been
    /// used, which shows that the client has it.
    previous: Option<Secret>,
}

impl Token {
    pub(crate) fn new(secret: Secret) -> Self {
        Self { newest: secret, previous: None }
    }

    /// Client: the secret to prove with.
    pub(crate) fn newest(&self) -> &Secret {
        &self.newest
    }

    /// Server: the secret that `proof` was made with, if it is a good one.
    pub(crate) fn check(&self, proof: &[u8; SECRET_LEN], binding: Binding<'_>) -> Option<Secret> {
        self.find(proof, |secret| secret.client_proof(binding)).cloned()
    }

    /// Server: the secret that an early `proof` was made with, if it is a good one.
    pub(crate) fn check_early(
        &self,
        proof: &[u8; SECRET_LEN],
        binding: Binding<'_>,
    ) -> Option<&Secret> {
        self.find(proof, |secret| secret.early_proof(binding))
    }

    fn find(
        &self,
        proof: &[u8; SECRET_LEN],
        prove: impl Fn(&Secret) -> [u8; SECRET_LEN],
    ) -> Option<&Secret> {
        // Both are always computed: the time says nothing about which matched.
        let newest = proofs_equal(proof, &prove(&self.newest));
        let older = self.previous.as_ref();
        let previous = older.filter(|secret| proofs_equal(proof, &prove(secret)));
        if newest { Some(&self.newest) } else { previous }
    }

    /// Server: whether `used`, which [`check`](Self::check) gave, is the secret
    /// after the last change.
    pub(crate) fn is_newest(&self, used: &Secret) -> bool {
        proofs_equal(&used.0, &self.newest.0)
    }

    /// Moves on after a resume that was proved with `used`.
    pub(crate) fn advance(&mut self, used: Secret, binding: Binding<'_>) {
        self.newest = used.successor(binding);
        self.previous = Some(used);
    }

    /// Client: forgets the secret that the server has confirmed the use of.
    pub(crate) fn forget_previous(&mut self) {
        self.previous = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(exporter: &[u8; 32], epoch: u64) -> Binding<'_> {
        Binding {
            session: SessionId::from_bytes([1; 16]),
            epoch: Epoch::from_wire(epoch),
            holder: HolderId([2; 16]),
            exporter,
        }
    }

    #[test]
    fn a_proof_is_good_for_one_connection_one_epoch_and_one_direction() {
        let token = Token::new(Secret::new([7; 32]));
        let here = [3; 32];
        let proof = token.newest().client_proof(binding(&here, 2));
        assert!(token.check(&proof, binding(&here, 2)).is_some());
        assert!(token.check(&proof, binding(&[4; 32], 2)).is_none(), "another connection");
        assert!(token.check(&proof, binding(&here, 3)).is_none(), "another epoch");
        let reflected = token.newest().server_proof(binding(&here, 2));
        assert!(token.check(&reflected, binding(&here, 2)).is_none(), "reflected");
    }

    #[test]
    fn the_secret_moves_on_and_any_number_of_lost_answers_locks_nobody_out() {
        let mut server = Token::new(Secret::new([7; 32]));
        let mut client = server.clone();
        for (epoch, answer_lost) in [(2, true), (3, true), (4, true), (5, false), (6, false)] {
            let exporter = [epoch as u8; 32];
            let binding = binding(&exporter, epoch);
            let proof = client.newest().client_proof(binding);
            let used = server.check(&proof, binding).expect("good in every round");
            server.advance(used, binding);
            if !answer_lost {
                let used = client.newest().clone();
                client.advance(used, binding);
                client.forget_previous();
            }
            assert!(client.previous.is_none(), "a client has no use for an older one");
        }
        // The first secret is two changes old by now.
        let exporter = [9; 32];
        let old = Secret::new([7; 32]).client_proof(binding(&exporter, 7));
        assert!(server.check(&old, binding(&exporter, 7)).is_none());
    }

    /// The test vectors of the manual (P-15, P-36), computed apart from this code.
    #[test]
    fn proofs_match_their_test_vector() {
        let binding = Binding {
            session: SessionId::from_bytes([0x11; 16]),
            epoch: Epoch::from_wire(2),
            holder: HolderId([0xaa; 16]),
            exporter: &[0x55; 32],
        };
        let secret = Secret::new([0x22; 32]);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(&secret.client_proof(binding)),
            "cc3e9a66e3d21b273875db509c047cc909bcb4f08a01f39b9c50f36dc11414e2"
        );
        assert_eq!(
            hex(&secret.server_proof(binding)),
            "673701fb457f4478c5e830a05cdb2ff09f5f43fabe421c0cea4d349d248a16a1"
        );
        assert_eq!(
            hex(&secret.successor(binding).0[..]),
            "17305dcba624f4c33fbd132d3a9bb2617ff0ee48a7275e0a28299c3c8785d9b3"
        );
        let early = Binding { exporter: &[0x66; 32], ..binding };
        assert_eq!(
            hex(&secret.early_proof(early)),
            "f18d978e8fbfe3655fb6740e420ac4d54e5f3876be849e897cb74bb53a70f9c7"
        );
        assert_eq!(
            hex(&secret.early_reply(early)),
            "6c59295832d01a7afd728bc80a28fe81bfbdb9063084052d38b17274d0730538"
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        let token = Token::new(Secret::new([0xab; 32]));
        let printed = format!("{token:?}").to_lowercase();
        assert!(!printed.contains("ab, ab") && !printed.contains("171"), "{printed}");
        assert!(printed.contains("secret(..)"), "{printed}");
    }
}
