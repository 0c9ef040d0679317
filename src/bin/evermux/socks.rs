//! The server's side of SOCKS5 (RFC 1928), as far as `-D` needs it: CONNECT,
//! without authentication.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use evermux::BackedPipe;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::connect::Agent;
use crate::endpoint::Endpoint;
use crate::request::{NoAnswer, Reason, Request, read_answer};
use crate::socket::Socket;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// How long a client may take to say what it wants.
const ASKED_WITHIN: Duration = Duration::from_secs(30);

/// The reply of RFC 1928 section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Succeeded = 0,
    Failure = 1,
    NotAllowed = 2,
    HostUnreachable = 4,
    CommandNotSupported = 7,
    AddressNotSupported = 8,
}

/// Asks the client for its target, and connects it to it. The text of an error is
/// for people; the client was told already.
pub async fn negotiate(agent: &Agent, socket: &mut Socket) -> Result<BackedPipe, String> {
    match socket {
        Socket::Tcp(stream) => negotiate_on(agent, stream).await,
        Socket::Unix(stream) => negotiate_on(agent, stream).await,
    }
}

async fn negotiate_on(
    agent: &Agent,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<BackedPipe, String> {
    let target = match tokio::time::timeout(ASKED_WITHIN, read_target(stream)).await {
        Ok(Ok(target)) => target,
        Ok(Err(wrong)) => {
            if let Some(reply) = wrong.reply {
                let _ = send(stream, reply).await;
            }
            return Err(format!("SOCKS: {}", wrong.text));
        }
        Err(_) => return Err("SOCKS: a client said nothing".into()),
    };
    let connected = async {
        let mut pipe =
            agent.open(&Request::Connect(target)).await.map_err(|error| error.to_string())?;
        match read_answer(pipe.reader()).await {
            Ok(_) => Ok(Ok(pipe)),
            Err(NoAnswer::Refused(refusal)) => Ok(Err(refusal)),
            Err(NoAnswer::Ended(_)) => Err("SOCKS: the session has ended".to_string()),
        }
    };
    let (reply, outcome) = match connected.await {
        Ok(Ok(pipe)) => (Reply::Succeeded, Ok(pipe)),
        Ok(Err(refusal)) => {
            let reply = match refusal.reason {
                Reason::NotAllowed => Reply::NotAllowed,
                Reason::Unreachable => Reply::HostUnreachable,
                _ => Reply::Failure,
            };
            (reply, Err(format!("SOCKS: {refusal}")))
        }
        Err(error) => (Reply::Failure, Err(error)),
    };
    send(stream, reply).await.map_err(|error| format!("SOCKS: {error}"))?;
    outcome
}

/// What is wrong with a client's words.
#[derive(Debug)]
struct Wrong {
    /// What to tell it; nothing if it speaks something else.
    reply: Option<Reply>,
    text: String,
}

impl From<std::io::Error> for Wrong {
    fn from(error: std::io::Error) -> Self {
        Self { reply: None, text: format!("a client broke off: {error}") }
    }
}

async fn read_target(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<Endpoint, Wrong> {
    let wrong = |reply, text: &str| Wrong { reply, text: text.to_owned() };
    if stream.read_u8().await? != VERSION {
        return Err(wrong(None, "a client speaks something else than SOCKS5"));
    }
    let mut methods = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        stream.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(wrong(None, "a client wants to authenticate itself"));
    }
    stream.write_all(&[VERSION, NO_AUTHENTICATION]).await?;

    let [_version, command, _reserved, family] = {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        head
    };
    let host = match family {
        1 => Ipv4Addr::from(stream.read_u32().await?).to_string(),
        4 => Ipv6Addr::from(stream.read_u128().await?).to_string(),
        3 => {
            let mut name = vec![0; stream.read_u8().await?.into()];
            stream.read_exact(&mut name).await?;
            let name = String::from_utf8(name).ok();
            name.filter(|name| is_name(name))
                .ok_or_else(|| wrong(Some(Reply::AddressNotSupported), "a name that is none"))?
        }
        _ => return Err(wrong(Some(Reply::AddressNotSupported), "an address of unknown kind")),
    };
    let port = stream.read_u16().await?;
    if command != CONNECT {
        return Err(wrong(Some(Reply::CommandNotSupported), "a client wants more than CONNECT"));
    }
    Ok(Endpoint::tcp(&host, port))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

/// A reply with no address, which clients do not look at.
async fn send(stream: &mut (impl AsyncWrite + Unpin), reply: Reply) -> std::io::Result<()> {
    stream.write_all(&[VERSION, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(bytes: &[u8]) -> (Result<Endpoint, Option<Reply>>, Vec<u8>) {
        let (mut client, mut server) = tokio::io::duplex(1024);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let target = read_target(&mut server).await.map_err(|wrong| wrong.reply);
        drop(server);
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        (target, said)
    }

    #[tokio::test]
    async fn every_kind_of_address_is_understood() {
        for (bytes, target) in [
            (&[5, 1, 0, 5, 1, 0, 1, 10, 0, 0, 1, 0, 80][..], Endpoint::tcp("10.0.0.1", 80)),
            (&[5, 2, 2, 0, 5, 1, 0, 3, 2, b'd', b'b', 21, 56], Endpoint::tcp("db", 5432)),
            (
                &[5, 1, 0, 5, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 22],
                Endpoint::tcp("::1", 22),
            ),
        ] {
            assert_eq!(ask(bytes).await, (Ok(target), vec![5, 0]));
        }
    }

    #[tokio::test]
    async fn what_is_not_offered_is_refused_as_the_rfc_says() {
        let (target, said) = ask(&[5, 1, 2]).await;
        assert_eq!((target, said), (Err(None), vec![5, 0xff]));
        let (target, _) = ask(&[5, 1, 0, 5, 2, 0, 1, 10, 0, 0, 1, 0, 80]).await;
        assert_eq!(target, Err(Some(Reply::CommandNotSupported)));
        let (target, _) = ask(&[5, 1, 0, 5, 1, 0, 3, 1, b'\n', 0, 80]).await;
        assert_eq!(target, Err(Some(Reply::AddressNotSupported)));
        for other in [&b"GET / HTTP/1.1\r\n"[..], &[4, 1], &[5, 3, 0]] {
            assert_eq!(ask(other).await.0, Err(None));
        }
    }
}
