//! The programs on the phone and on the server.
//!
//! Each has one pipe of one session. It does what it is told, line by line on
//! standard input, and ends with that:
//!
//! | told | it |
//! |---|---|
//! | `write` | writes one byte |
//! | `changed` | says that the network has changed |
//! | `handover` | asks for a new connection while the old one goes on |
//! | `first MOMENT` | says `first` and the moment of the first read after that one |
//! | `finish` | ends its direction, and says `wrote` when all was acknowledged |
//! | `longest MOMENT` | says `longest` and the longest time between two reads that ended after that moment, in nanoseconds |
//! | `counts` | says `counts`, the bytes replayed, and how often the session was resumed |
//!
//! What it says has the moment in front. Besides: `flowing` at the first read, `read`
//! with the sum of bytes at the end of the stream, `event` for each of the session's,
//! `ended` with its error, `wrong` for a byte that was not the one written there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evermux::{
    BackedReader, BackedWriter, Client, ClientConfig, ClientTls, Identity, Server, ServerConfig,
    ServerTls, Session, SessionError, SessionEvent,
};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;

use crate::content::{CHUNK, Content};
use crate::moment::Moment;
use crate::traffic::{KEY_INTERVAL, Traffic};

/// Only one direction is used: there are no others to tell apart.
const SEED: u64 = 4;

/// The bytes of a keystroke.
const KEY: usize = 8;

/// Says it to the test, with the moment in front.
pub fn say(what: &str) {
    println!("{} {what}", Moment::now());
}

/// The phone: begins the session, opens the pipe.
pub async fn phone(server: SocketAddr, pin: &str, traffic: Traffic) {
    let pin = pin.parse().expect("a fingerprint");
    let client = Client::new(ClientConfig::new(ClientTls::with_pin(pin))).expect("good settings");
    let session = client.connect(server).await.expect("the network is up");
    tell_events(&session);
    let pipe = session.open_pipe(traffic.to_string()).expect("the first");
    say("attached");
    let (reader, writer) = pipe.into_split();
    let orders = BufReader::new(tokio::io::stdin()).lines();
    let writes = traffic != Traffic::Download;
    End { session, traffic, writes }.run(reader, writer, orders).await;
}

/// The server: takes one session, and one pipe in it. The first lines that it is told,
/// up to an empty one, are its certificate and key.
pub async fn server(listen: SocketAddr) {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let mut pem = String::new();
    while let Ok(Some(line)) = orders.next_line().await
        && !line.is_empty()
    {
        pem.extend([&line, "\n"]);
    }
    let identity = Identity::from_pem(pem.as_bytes(), pem.as_bytes()).expect("an identity");
    let server =
        Server::bind(listen, ServerConfig::new(ServerTls::new(identity))).expect("a free port");
    say("listening");
    let session = server.accept().await.expect("it listens").accept();
    tell_events(&session);
    let pipe = session.accept_pipe().await.expect("a session").expect("a pipe");
    let label = String::from_utf8_lossy(&pipe.label()).into_owned();
    let traffic: Traffic = label.parse().expect("what the phone calls it");
    let (reader, writer) = pipe.into_split();
    let writes = traffic == Traffic::Download;
    End { session, traffic, writes }.run(reader, writer, orders).await;
}

fn tell_events(session: &Session) {
    let mut events = session.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                SessionEvent::Attached { .. } => {}
                SessionEvent::Closed { error: SessionError::UnknownSession, .. } => {
                    say("ended unknown");
                }
                SessionEvent::Closed { error, .. } => say(&format!("ended {error}")),
                event => say(&format!("event {event:?}")),
            }
        }
    });
}

/// One end of the pipe. Of the two directions only one is used.
struct End {
    session: Session,
    traffic: Traffic,
    writes: bool,
}

impl End {
    async fn run(
        self,
        reader: BackedReader,
        mut writer: BackedWriter,
        mut orders: Lines<BufReader<Stdin>>,
    ) {
        let reads = Arc::new(Reads::default());
        let (tell, told) = mpsc::channel(8);
        if self.writes {
            tokio::spawn(write(writer, self.traffic, told));
        } else {
            writer.finish();
        }
        tokio::spawn(read(reader, !self.writes, reads.clone()));
        while let Ok(Some(order)) = orders.next_line().await {
            let (order, moment) = order.split_once(' ').unwrap_or((&order, "0"));
            let moment: Moment = moment.parse().expect("a moment");
            match order {
                "write" => tell.send(Order::Write).await.expect("it listens until the end"),
                "finish" => tell.send(Order::Finish).await.expect("it listens until the end"),
                "changed" => self.session.network_changed(),
                "handover" => {
                    let session = self.session.clone();
                    tokio::spawn(async move {
                        if let Err(error) = session.handover().await {
                            say(&format!("wrong handover: {error}"));
                        }
                    });
                }
                "first" => drop(tokio::spawn(reads.clone().tell_first(moment))),
                "longest" => say(&format!("longest {}", reads.longest(moment).as_nanos())),
                "counts" => {
                    let stats = self.session.stats();
                    say(&format!("counts {} {}", stats.bytes_replayed, stats.resumes));
                }
                order => panic!("nobody knows how to {order:?}"),
            }
        }
    }
}

enum Order {
    Write,
    Finish,
}

/// Writes the content of its direction until told to finish, or until the session ends.
async fn write(mut writer: BackedWriter, traffic: Traffic, mut told: mpsc::Receiver<Order>) {
    let content = Content::new(SEED);
    let mut keys = tokio::time::interval(KEY_INTERVAL);
    keys.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // So that the other end sees the pipe.
    let mut result = write_at_end(&mut writer, &content, 1).await;
    while result.is_ok() {
        result = tokio::select! {
            biased;
            order = told.recv() => match order {
                Some(Order::Write) => write_at_end(&mut writer, &content, 1).await,
                Some(Order::Finish) | None => break,
            },
            _ = keys.tick(), if traffic == Traffic::Keys => {
                write_at_end(&mut writer, &content, KEY).await
            }
            written = write_at_end(&mut writer, &content, CHUNK), if traffic.is_bulk() => written,
        };
    }
    writer.finish();
    let offset = writer.offset();
    // How a session ends is said elsewhere.
    if writer.wait_acked(offset).await.is_ok() {
        say(&format!("wrote {offset}"));
    }
}

/// Writes the next `len` bytes. Cancel-safe: what is next is asked of the writer.
async fn write_at_end(
    writer: &mut BackedWriter,
    content: &Content,
    len: usize,
) -> Result<(), evermux::WriteError> {
    writer.write_chunk(&mut content.at(writer.offset(), len)).await
}

/// Reads to the end, and compares.
async fn read(mut reader: BackedReader, used: bool, reads: Arc<Reads>) {
    let content = Content::new(SEED);
    loop {
        let offset = reader.offset();
        match reader.read_chunk(1 << 20).await {
            Ok(Some(chunk)) => {
                reads.note();
                if offset == 0 {
                    say("flowing");
                }
                if !content.is_at(offset, &chunk) {
                    say(&format!("wrong {offset} {}", chunk.len()));
                    return;
                }
            }
            Ok(None) => {
                if used {
                    say(&format!("read {offset}"));
                }
                return;
            }
            // How a session ends is said elsewhere.
            Err(_) => return,
        }
    }
}

/// When something was read.
#[derive(Default)]
struct Reads {
    moments: Mutex<Vec<Moment>>,
    more: Notify,
}

impl Reads {
    fn note(&self) {
        self.moments.lock().expect("nobody panics with it").push(Moment::now());
        self.more.notify_waiters();
    }

    async fn tell_first(self: Arc<Self>, after: Moment) {
        loop {
            let mut more = std::pin::pin!(self.more.notified());
            more.as_mut().enable();
            let first = {
                let moments = self.moments.lock().expect("nobody panics with it");
                moments.iter().find(|moment| **moment > after).copied()
            };
            if let Some(first) = first {
                return say(&format!("first {first}"));
            }
            more.await;
        }
    }

    fn longest(&self, after: Moment) -> Duration {
        let moments = self.moments.lock().expect("nobody panics with it");
        let gaps = moments.windows(2).filter(|pair| pair[1] > after);
        gaps.map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
    }
}
