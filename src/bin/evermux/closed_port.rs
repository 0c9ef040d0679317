//! Asks whether anybody listens on a UDP port at all. QUIC cannot tell a closed port
//! from a network that is away; the other host can (ICMP "port unreachable", RFC 792).
//!
//! Anybody on the way can say so, too: good for a word to people and for a command
//! that has nothing to lose yet, never for the end of a session.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Hosts answer few of such questions at a time, and not each is lost.
const QUESTIONS: u32 = 3;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long it takes to ask an address that says nothing.
pub const TAKES: Duration = PATIENCE.saturating_mul(QUESTIONS);

/// What nobody takes for QUIC: its first bit says a short header, and it is too short
/// for one (RFC 9000, section 10.3).
const QUESTION: [u8; 1] = [0];

/// Whether each address that this name has says that nobody listens there. Without an
/// answer, the answer is no, after [`TAKES`] for an address.
pub async fn is_closed(address: &str) -> bool {
    let Ok(found) = tokio::net::lookup_host(address).await else { return false };
    let mut closed = false;
    for addr in found {
        if !refuses(addr).await.unwrap_or(false) {
            return false;
        }
        closed = true;
    }
    closed
}

/// Ends when it is known that nobody listens there; never where it is not.
pub async fn found(address: &str) {
    if !is_closed(address).await {
        std::future::pending::<()>().await;
    }
}

async fn refuses(addr: SocketAddr) -> io::Result<bool> {
    let unspecified: IpAddr = match addr {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((unspecified, 0)).await?;
    // Only a connected socket is told.
    socket.connect(addr).await?;
    for _ in 0..QUESTIONS {
        let asked = async {
            socket.send(&QUESTION).await?;
            socket.recv(&mut [0]).await
        };
        match timeout(PATIENCE, asked).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(true),
            Ok(_) => return Ok(false),
            Err(_) => {}
        }
    }
    Ok(false)
}
