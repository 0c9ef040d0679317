//! Connections and listeners of this machine, TCP or Unix.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix};

use crate::endpoint::Endpoint;

/// A connection to a program here.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects to the first of `addrs` that answers.
    pub async fn connect_tcp(addrs: &[SocketAddr]) -> io::Result<Self> {
        Ok(TcpStream::connect(addrs).await?.into())
    }

    /// Connects to an endpoint that nobody has to allow: one's own.
    pub async fn connect(target: &Endpoint) -> io::Result<Self> {
        match target {
            Endpoint::Tcp { host, port } => {
                Ok(TcpStream::connect((host.as_str(), *port)).await?.into())
            }
            Endpoint::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
        }
    }

    pub fn into_split(self) -> (SocketReader, SocketWriter) {
        match self {
            Self::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                (SocketReader::Tcp(reader), SocketWriter::Tcp(writer))
            }
            Self::Unix(stream) => {
                let (reader, writer) = stream.into_split();
                (SocketReader::Unix(reader), SocketWriter::Unix(writer))
            }
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        // What comes out of a pipe has waited long enough.
        let _ = stream.set_nodelay(true);
        Self::Tcp(stream)
    }
}

pub enum SocketReader {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

impl SocketReader {
    /// Reads some bytes; 0 at the end.
    ///
    /// # Cancel safety
    ///
    /// No byte is lost if the future is dropped.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(reader) => reader.read(buf).await,
            Self::Unix(reader) => reader.read(buf).await,
        }
    }
}

pub enum SocketWriter {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl SocketWriter {
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(writer) => writer.write_all(bytes).await,
            Self::Unix(writer) => writer.write_all(bytes).await,
        }
    }

    /// Says that nothing more comes.
    pub async fn finish(&mut self) {
        // It fails only if the other program has gone.
        let _ = match self {
            Self::Tcp(writer) => writer.shutdown().await,
            Self::Unix(writer) => writer.shutdown().await,
        };
    }

    /// Ends the connection so that the other program sees an error (TCP), not an
    /// end after which everything is there. The reading half must be dropped too.
    pub fn abort(self) {
        if let Self::Tcp(writer) = self {
            let _ = writer.as_ref().set_zero_linger();
            writer.forget();
        }
    }
}

/// One of each family, for a name that has both.
const ADDRESSES_MAX: usize = 2;

/// Waits for programs here to connect.
#[derive(Debug)]
pub enum Listener {
    /// One for each address, at most [`ADDRESSES_MAX`].
    Tcp(Vec<TcpListener>),
    Unix(UnixListener, SocketFile),
}

/// Removes the file of a Unix socket that we listened on.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Listens, unless `allowed` says no to an address.
    pub async fn bind(at: &Endpoint, allowed: impl Fn(SocketAddr) -> bool) -> io::Result<Self> {
        match at {
            Endpoint::Tcp { host, port } => Self::bind_tcp(host, *port, allowed).await,
            Endpoint::Unix(path) => Self::bind_unix(path.clone()).await,
        }
    }

    /// On all addresses that `host` has. Those after the first are a courtesy: a
    /// machine may know `::1` and have no IPv6.
    async fn bind_tcp(
        host: &str,
        port: u16,
        allowed: impl Fn(SocketAddr) -> bool,
    ) -> io::Result<Self> {
        let addrs = match host {
            "" => vec![ip(Ipv4Addr::LOCALHOST, port), ip(Ipv6Addr::LOCALHOST, port)],
            // The first one takes IPv4 as well, where the system can.
            "*" => vec![ip(Ipv6Addr::UNSPECIFIED, port), ip(Ipv4Addr::UNSPECIFIED, port)],
            host => tokio::net::lookup_host((host, port)).await?.take(ADDRESSES_MAX).collect(),
        };
        if let Some(addr) = addrs.iter().find(|addr| !allowed(**addr)) {
            let reason = format!("listening on {addr} is not allowed");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        let mut listeners: Vec<TcpListener> = Vec::new();
        let mut failed = None;
        for mut addr in addrs {
            if let (0, Some(first)) = (port, listeners.first()) {
                addr.set_port(first.local_addr()?.port());
            }
            match TcpListener::bind(addr).await {
                Ok(listener) => listeners.push(listener),
                // The port that was asked for is somebody else's, if only on one
                // of the addresses: half a listener would confuse.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && listeners.is_empty() => {
                    return Err(error);
                }
                Err(error) => failed = Some(error),
            }
        }
        match (listeners.is_empty(), failed) {
            (true, Some(error)) => Err(error),
            (true, None) => Err(io::ErrorKind::AddrNotAvailable.into()),
            (false, _) => Ok(Self::Tcp(listeners)),
        }
    }

    async fn bind_unix(path: PathBuf) -> io::Result<Self> {
        let bound = match UnixListener::bind(&path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                // Left over by a process that was killed, unless somebody answers.
                let is_socket = std::fs::symlink_metadata(&path)?.file_type().is_socket();
                if !is_socket || UnixStream::connect(&path).await.is_ok() {
                    return Err(error);
                }
                std::fs::remove_file(&path)?;
                UnixListener::bind(&path)
            }
            bound => bound,
        };
        Ok(Self::Unix(bound?, SocketFile(path)))
    }

    /// Where it listens, port chosen.
    pub fn endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Self::Tcp(listeners) => {
                let first = listeners.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
                let addr = first.local_addr()?;
                Ok(Endpoint::tcp(&addr.ip().to_string(), addr.port()))
            }
            Self::Unix(_, file) => Ok(Endpoint::Unix(file.0.clone())),
        }
    }

    /// The next connection.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost if the future is dropped.
    pub async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listeners) => match &listeners[..] {
                [first, second, ..] => tokio::select! {
                    accepted = first.accept() => Ok(accepted?.0.into()),
                    accepted = second.accept() => Ok(accepted?.0.into()),
                },
                [only] => Ok(only.accept().await?.0.into()),
                [] => Err(io::ErrorKind::NotConnected.into()),
            },
            Self::Unix(listener, _) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}

fn ip(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}
