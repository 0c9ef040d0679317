//! Who is compared.

use std::any::Any;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::road::{Road, Way};
use crate::{BoxError, evermux, quinn, tcp, tls, yamux};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    Evermux,
    /// With datagrams no larger than on the internet.
    EvermuxNarrow,
    /// With quinn's defaults.
    Quinn,
    /// With the windows, datagrams and socket buffers that evermux has.
    QuinnTuned,
    Tcp,
    Tls,
    Yamux,
}

/// A stream in use, as both ends have it.
pub struct Link {
    pub near: Stream,
    pub far: Stream,
    pub road: Road,
    /// What must live as long.
    pub keep: Box<dyn Any + Send>,
}

pub type Stream = Box<dyn Duplex>;

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Contender {
    pub const ALL: [Self; 7] = [
        Self::Evermux,
        Self::EvermuxNarrow,
        Self::Quinn,
        Self::QuinnTuned,
        Self::Tcp,
        Self::Tls,
        Self::Yamux,
    ];

    /// Those who go different ways through an outage.
    pub const IN_OUTAGES: [Self; 6] =
        [Self::Evermux, Self::Quinn, Self::QuinnTuned, Self::Tcp, Self::Tls, Self::Yamux];

    pub fn name(self) -> &'static str {
        match self {
            Self::Evermux => "evermux",
            Self::EvermuxNarrow => "evermux, by 1,452 B",
            Self::Quinn => "quinn, its defaults",
            Self::QuinnTuned => "quinn, our settings",
            Self::Tcp => "TCP",
            Self::Tls => "TCP + TLS 1.3",
            Self::Yamux => "TCP + TLS 1.3 + yamux",
        }
    }

    pub async fn connect(self, way: Way) -> Result<Link, BoxError> {
        match self {
            Self::Evermux => evermux::connect(way, None).await,
            Self::EvermuxNarrow => evermux::connect(way, Some(1452)).await,
            Self::Quinn => quinn::connect(way, quinn::Settings::default()).await,
            Self::QuinnTuned => quinn::connect(way, quinn::Settings::evermux()?).await,
            Self::Tcp => tcp::connect(way).await,
            Self::Tls => tls::connect(way).await,
            Self::Yamux => yamux::connect(way).await,
        }
    }
}
