//! A world for one run: a network, virtual time, an oracle; and the end of the
//! world, when nothing may be left.

use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Once};
use std::time::Duration;

use evermux::{
    Client, ClientConfig, ClientTls, Identity, ReconnectPolicy, Server, ServerConfig, ServerTls,
    Session, SessionConfig,
};
use tokio::runtime::{self, Handle};
use tokio::time::{Instant, sleep, timeout};

use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::network::{Network, Plug, SERVER, host_addr};
use crate::trace::Trace;
use crate::watch::Watch;

/// How long connections may take to be through, after the end: QUIC's closing
/// period is three PTOs (RFC 9000 section 10.2), and the round trip of a datagram
/// that was held for 45 s makes a PTO of minutes.
const LEFTOVERS: Duration = Duration::from_secs(1000);

/// No virtual time is too short, so no wall clock is needed: a run that waits for
/// ever comes here within a second or two.
const EVER: Duration = Duration::from_secs(24 * 3600);

pub static IDENTITY: LazyLock<Identity> = LazyLock::new(identity);

/// Signs as many bytes every time, which ECDSA does not.
fn identity() -> Identity {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let mut params = rcgen::CertificateParams::new(["localhost".into()]).expect("a name");
    params.serial_number = Some(7.into());
    let cert = params.self_signed(&key).expect("a certificate");
    Identity::from_pem(cert.pem().as_bytes(), key.serialize_pem().as_bytes()).expect("made so")
}

thread_local! {
    /// What went wrong first, in a run of this thread. A panic in a task of the
    /// crate reaches nobody else.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A world, for as long as its run lasts.
#[derive(Clone, Debug)]
pub struct World {
    pub network: Arc<Network>,
    pub ledger: Arc<Ledger>,
    pub watch: Arc<Watch>,
    pub trace: Trace,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome<T> {
    /// What the run gave, or what went wrong.
    pub result: Result<T, String>,
    /// Two runs with the same hash took the same course.
    pub hash: u64,
    /// Virtual time.
    pub lasted: Duration,
    /// The whole course, if it was asked for.
    pub trace: Option<String>,
}

/// Runs `play` in a world made from `seed`, on this thread, in virtual time.
/// Afterwards no task and no socket may be left.
pub fn run<T, F, Fut>(seed: u64, readable: bool, play: F) -> Outcome<T>
where
    F: FnOnce(World) -> Fut,
    Fut: Future<Output = T>,
{
    record_panics();
    PANIC.take();
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    // Time stands still outside of `block_on` too.
    let trace = runtime.block_on(async { Trace::new(readable) });
    let mut lasted = Duration::ZERO;
    let whole = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let network = Network::new(Dice(seed), trace.clone());
            let watch = Arc::new(Watch::new(trace.clone()));
            let courier = tokio::spawn(network.clone().run());
            let looker = tokio::spawn(look(network.clone(), watch.clone()));
            let ledger = Arc::default();
            let world = World { network: network.clone(), ledger, watch, trace: trace.clone() };
            let value = timeout(EVER, play(world)).await.expect("the run ends");
            leave_nothing(&network).await;
            lasted = trace.elapsed();
            looker.abort();
            courier.abort();
            value
        })
    }));
    drop(runtime);
    let panic = PANIC.take();
    let result = match (whole, panic) {
        (_, Some(panic)) => Err(panic),
        (Ok(value), None) => Ok(value),
        (Err(_), None) => Err("a panic without a message".into()),
    };
    Outcome { result, hash: trace.hash(), lasted, trace: trace.text() }
}

async fn look(network: Arc<Network>, watch: Arc<Watch>) {
    loop {
        network.delivery.notified().await;
        watch.look();
    }
}

/// Waits until all tasks but the world's own have ended, and all sockets are
/// closed.
async fn leave_nothing(network: &Network) {
    const OWN: usize = 2;
    let deadline = Instant::now() + LEFTOVERS;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    while tasks() > OWN || !network.open_sockets().is_empty() {
        let (tasks, sockets) = (tasks() - OWN, network.open_sockets());
        assert!(Instant::now() < deadline, "left: {tasks} tasks, sockets {sockets:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Keeps the message of the first panic of each thread, and prints none: a run's
/// failure is reported once, with its seed.
fn record_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // Not in a run: the test's own.
            if Handle::try_current().is_err() {
                return print(info);
            }
            PANIC.with_borrow_mut(|first| {
                first.get_or_insert_with(|| info.to_string());
            });
        }));
    });
}

/// Settings that notice a dead link quickly.
pub fn quick() -> SessionConfig {
    let mut config = SessionConfig::default();
    config.probe_interval(Duration::from_millis(500)).probe_timeout(Duration::from_secs(2));
    config
}

impl World {
    /// A server with this identity and key, as every server in every world.
    pub fn server(&self, session: SessionConfig, change: impl FnOnce(&mut ServerConfig)) -> Server {
        self.server_of(IDENTITY.clone(), session, change)
    }

    /// Somebody else at the server's address, such as a captive portal: it speaks
    /// our language, and proves nothing.
    pub fn impostor(&self) -> Server {
        self.server_of(identity(), quick(), |_| {})
    }

    fn server_of(
        &self,
        identity: Identity,
        session: SessionConfig,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Server {
        let mut config = ServerConfig::new(ServerTls::new(identity));
        config.session(session).simulate(Arc::new(Plug(self.network.clone())));
        change(&mut config);
        Server::bind(SERVER, config).expect("good settings")
    }

    /// A client on a host; its road must be paved.
    pub fn client(
        &self,
        host: u8,
        session: SessionConfig,
        change: impl FnOnce(&mut ClientConfig),
    ) -> Client {
        let mut config = ClientConfig::new(ClientTls::with_pin(IDENTITY.fingerprint()));
        config
            .session(session)
            .local_ip(host_addr(host))
            .attempt_timeout(Duration::from_secs(5))
            .reconnect(ReconnectPolicy::exponential(
                Duration::from_millis(50),
                Duration::from_secs(2),
            ))
            .simulate(Arc::new(Plug(self.network.clone())));
        change(&mut config);
        Client::new(config).expect("good settings")
    }

    /// A session, as both sides have it.
    pub async fn session(&self, client: &Client, server: &Server) -> (Session, Session) {
        let (ours, theirs) = tokio::join!(client.connect(SERVER), async {
            server.accept().await.expect("the server listens").accept()
        });
        (ours.expect("connected"), theirs)
    }
}
