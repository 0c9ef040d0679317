//! A session of evermux.

use std::net::Ipv4Addr;
use std::time::Duration;

use ::evermux::{
    BackedReader, BackedWriter, Client, ClientConfig, ClientTls, CloseCode, CongestionControl,
    Identity, ReadError, Server, ServerConfig, ServerTls, Session, SessionConfig,
};
use bytes::Bytes;

use super::{Ends, Read, SOCKET_BUFFER, Settings, Twin, Write};

pub struct Evermux {
    pub near: Session,
    pub far: Session,
    _client: Client,
    server: Server,
}

/// With a handshake: under callgrind on a busy machine it takes many seconds.
const PATIENCE: Duration = Duration::from_secs(120);

impl Evermux {
    /// The same congestion control as the twin's, so that the two differ in nothing
    /// but evermux.
    fn session(settings: Settings) -> SessionConfig {
        let mut config = SessionConfig::default();
        config
            .congestion(CongestionControl::Cubic)
            .replay_capacity(settings.ahead)
            .replay_budget(settings.ahead)
            .stream_window(settings.stream)
            .socket_buffer(SOCKET_BUFFER)
            .initial_streams(settings.streams)
            .max_pipes(16 * settings.streams);
        config
    }

    /// With settings of one's own; those of evermux's for datagrams, if there are none.
    pub async fn with(config: SessionConfig, datagram: Option<u16>) -> Self {
        let identity = Identity::self_signed(&["localhost"]).expect("a key");
        let pin = identity.fingerprint();
        let mut serving = ServerConfig::new(ServerTls::new(identity));
        serving.session(config.clone()).handshake_timeout(PATIENCE);
        let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), serving).expect("a socket");
        let mut dialling = ClientConfig::new(ClientTls::with_pin(pin));
        dialling.session(config).attempt_timeout(PATIENCE);
        if let Some(bytes) = datagram {
            dialling.max_udp_payload(bytes);
        }
        let client = Client::new(dialling).expect("a client");
        let addr = server.local_addr().expect("bound");
        let (near, far) = tokio::join!(client.connect(addr), async {
            server.accept().await.expect("it listens").accept()
        });
        Self { near: near.expect("connected"), far, _client: client, server }
    }
}

impl Twin for Evermux {
    const NAME: &str = "evermux";
    type Writer = BackedWriter;
    type Reader = BackedReader;

    async fn connect(settings: Settings) -> Self {
        Self::with(Self::session(settings), Some(settings.datagram)).await
    }

    async fn open(&self) -> [Ends<Self>; 2] {
        let near = self.dial().await;
        [near, self.accept().await]
    }

    async fn dial(&self) -> Ends<Self> {
        let (reader, writer) = self.near.open_pipe("").expect("few pipes").into_split();
        (writer, reader)
    }

    async fn accept(&self) -> Ends<Self> {
        let pipe = self.far.accept_pipe().await.expect("a live session").expect("not closed");
        let (reader, writer) = pipe.into_split();
        (writer, reader)
    }

    async fn close(self) {
        self.near.close(CloseCode::DONE, b"");
        self.far.closed().await;
        self.server.shutdown(Duration::from_secs(5)).await;
    }
}

impl Write for BackedWriter {
    async fn write_all(&mut self, bytes: &[u8]) {
        Self::write_all(self, bytes).await.expect("a live pipe");
    }

    async fn write_chunk(&mut self, mut bytes: Bytes) {
        Self::write_chunk(self, &mut bytes).await.expect("a live pipe");
    }

    fn finish(&mut self) {
        Self::finish(self);
    }
}

impl Read for BackedReader {
    async fn read_chunk(&mut self, max: usize) -> Option<Bytes> {
        match Self::read_chunk(self, max).await {
            // A writer that was dropped; quinn's would have been finished.
            Err(ReadError::Reset { .. }) => None,
            chunk => chunk.expect("a live pipe"),
        }
    }

    async fn read_exact(&mut self, bytes: &mut [u8]) {
        tokio::io::AsyncReadExt::read_exact(self, bytes).await.expect("a live pipe");
    }
}
