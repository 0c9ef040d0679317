//! The early flight of a client: what it says while the handshake is under way.
//! What that is worth is in `proto/early.rs`.

use crate::control::{ControlReader, ControlWriter};
use crate::proto::EarlyClaim;
use crate::quic::Connection;
use crate::session::SessionShared;
use crate::wire::{Frame, NONCE_LEN};

/// A control stream on which an early claim was made, for the full claim to go on
/// with. Worth nothing if the server does not take early data.
#[derive(Debug)]
pub(crate) struct EarlyFlight {
    pub(super) claim: EarlyClaim,
    pub(super) reader: ControlReader,
    pub(super) writer: ControlWriter,
}

impl EarlyFlight {
    /// Claims the session on a connection whose handshake is under way; the attached
    /// connection, if there is one, goes on. `None` if there is no stream to be had.
    pub(crate) fn launch(
        session: &SessionShared,
        connection: &Connection,
        nonce: [u8; NONCE_LEN],
    ) -> Option<Self> {
        let (send, recv) = connection.try_open_bi()?;
        let (reader, mut writer) = (ControlReader::new(recv), ControlWriter::new(send));
        let (claim, early) = session.table().core.claim_early(nonce, Vec::new());
        writer.queue(&Frame::Early(early));
        writer.flush_now();
        Some(Self { claim, reader, writer })
    }
}
