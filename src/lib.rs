//! wip
#![forbid(unsafe_code)]

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!(
    "evermux needs a crypto provider: enable the feature `aws-lc-rs` (default) or `ring`"
);

pub mod manual;

mod client;
mod clock;
mod code;
mod config;
mod control;
mod crypto;
mod driver;
mod error;
mod event;
mod id;
mod misbehaved;
mod pipe;
mod proto;
mod quic;
mod server;
mod session;
mod stats;
mod tls;
mod wire;

pub use client::{Client, ParseTargetError, Target};
pub use code::{CloseCode, RefuseCode};
pub use config::{ClientConfig, Limits, ReconnectPolicy, ServerConfig, SessionConfig};
pub use error::{
    BindError, ConfigError, ConnectError, DialError, OpenError, ReadError, SessionError, WriteError,
};
pub use event::{DetachCause, Events, LinkState, SessionEvent};
pub use id::{Epoch, PipeId, SessionId, Side};
pub use misbehaved::PeerMisbehaved;
pub use pipe::{BackedPipe, BackedReader, BackedWriter, JoinError};
pub use server::{Incoming, Server, SessionInfo};
pub use session::Session;
pub use stats::{PipeStats, ServerStats, SessionStats};
pub use tls::{ClientTls, Fingerprint, Identity, ParseFingerprintError, ServerTls, TlsError};
pub use wire::{ALPN, DecodeError, LABEL_MAX, PROTOCOL_VERSION};
