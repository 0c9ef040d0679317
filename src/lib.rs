//! Links that outlive their connections.
//!
//! A [`Session`] between a client and a server carries many [`BackedPipe`]s:
//! reliable, ordered, bidirectional byte streams. Each rides on one QUIC stream.
//! When the network under it changes, the connection migrates. When the
//! connection is lost, the client makes a new one, proves that the session is
//! its own, both sides compare sequence numbers, and every pipe goes on where its
//! reader stands: no byte lost, none twice. The programs on both ends see a
//! stall, never an error.
//!
//! # Where to begin
//!
//! [`Client::connect`] and [`Server::accept`] give a [`Session`];
//! [`Session::open_pipe`] and [`Session::accept_pipe`] give pipes.
//!
//! ```no_run
//! use evermux::{Client, ClientConfig, ClientTls, Fingerprint, Target};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # async fn example(pin: Fingerprint) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(ClientConfig::new(ClientTls::with_pin(pin)))?;
//! let session = client.connect("example.com:4433".parse::<Target>()?).await?;
//! let mut pipe = session.open_pipe("greeting")?;
//! pipe.write_all(b"hello").await?;
//! pipe.shutdown().await?;
//! let mut answer = Vec::new();
//! pipe.read_to_end(&mut answer).await?;
//! session.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Words
//!
//! - A *session* outlives its *connections*; at most one is *attached* at a time.
//!   Each has an [`Epoch`], greater than the one before.
//! - An *offset* is a position in one direction of a pipe, in bytes. An *ack* says
//!   that the application on the other side has read up to an offset.
//! - The *replay buffer* of a writer keeps what is not acknowledged. A *resume*
//!   replays from it.
//! - *Linger* is how long a server keeps a session whose client is away.
//!
//! # What it does not do
//!
//! A session ends with either of its processes: it is not saved to disk. It is no
//! VPN and no TCP: both ends speak evermux. Nothing is evicted to make room;
//! where a bound is reached, writers wait.
//!
//! The [`manual`] says what survives what, specifies the protocol, and explains
//! how to tune it.
//!
//! # Features
//!
//! | feature | default | what it does |
//! |---|---|---|
//! | `aws-lc-rs` | yes | cryptography by aws-lc-rs, with post-quantum key exchange |
//! | `ring` | no | cryptography by ring; used if `aws-lc-rs` is off |
//! | `self-signed` | yes | [`Identity::self_signed`] |
//! | `platform-verifier` | no | `ClientTls::platform`: trust what the operating system trusts |
//! | `monitor` | no | sessions move as soon as the operating system says that routes or addresses have changed: `ClientConfig::monitor` |
//! | `cli` | no | the program `evermux`; nothing in the library depends on it |
//! | `simulation` | no | a world in memory in place of sockets, for deterministic tests; outside of semantic versioning |

#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]
// The model checker (`src/interleavings`) takes the floors up to `session` and
// puts streams in memory under them; what only the floors above use lies idle.
#![cfg_attr(all(test, shuttle), allow(dead_code, unused_imports))]

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!(
    "evermux needs a crypto provider: enable the feature `aws-lc-rs` (default) or `ring`"
);

pub mod manual;

#[cfg(not(all(test, shuttle)))]
mod client;
mod clock;
mod code;
mod config;
#[cfg(not(all(test, shuttle)))]
mod control;
mod crypto;
#[cfg(not(all(test, shuttle)))]
mod driver;
mod environment;
mod error;
mod event;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod id;
#[cfg(all(test, shuttle))]
mod interleavings;
mod misbehaved;
#[cfg(feature = "monitor")]
mod monitor;
mod pipe;
mod proto;
#[cfg_attr(all(test, shuttle), path = "interleavings/quic.rs")]
mod quic;
#[cfg(not(all(test, shuttle)))]
mod server;
mod session;
#[cfg(feature = "simulation")]
pub mod simulation;
mod stats;
mod sync;
mod tls;
mod wire;

#[cfg(not(all(test, shuttle)))]
pub use client::{Client, ParseTargetError, Target};
pub use code::{CloseCode, RefuseCode};
pub use config::{
    ClientConfig, CongestionControl, Limits, ReconnectPolicy, ServerConfig, SessionConfig,
};
pub use error::{
    BindError, ConfigError, ConnectError, DialError, HandoverError, OpenError, ReadError,
    SessionError, WriteError,
};
pub use event::{DetachCause, Events, LinkState, SessionEvent};
pub use id::{Epoch, PipeId, SessionId, Side};
pub use misbehaved::PeerMisbehaved;
pub use pipe::{BackedPipe, BackedReader, BackedWriter, JoinError};
#[cfg(not(all(test, shuttle)))]
pub use server::{Incoming, Server, SessionInfo};
pub use session::Session;
pub use stats::{PipeInfo, PipeStats, ServerStats, SessionStats};
pub use tls::{ClientTls, Fingerprint, Identity, ParseFingerprintError, ServerTls, TlsError};
pub use wire::{ALPN, DecodeError, LABEL_MAX, PROTOCOL_VERSION};

/// The programs in the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
