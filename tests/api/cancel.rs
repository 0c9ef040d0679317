//! Futures may be dropped at any point, and handles may go anywhere.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use evermux::{
    BackedPipe, BackedReader, BackedWriter, Client, ClientConfig, ConnectError, Events, Incoming,
    LinkState, OpenError, ReadError, Server, ServerConfig, Session, SessionError, SessionEvent,
    WriteError,
};
use tokio::task::JoinSet;

use crate::fixture::{
    Dice, World, all_retired, attached_after, byte_at, detached, pipe, quick, soon,
};

#[test]
fn handles_are_send_sync_unpin_and_static() {
    fn is<T: Send + Sync + Unpin + 'static>() {}
    is::<Client>();
    is::<ClientConfig>();
    is::<Server>();
    is::<ServerConfig>();
    is::<Incoming>();
    is::<Session>();
    is::<Events>();
    is::<BackedPipe>();
    is::<BackedReader>();
    is::<BackedWriter>();
    is::<LinkState>();
    is::<SessionEvent>();
    is::<SessionError>();
    is::<ConnectError>();
    is::<OpenError>();
    is::<ReadError>();
    is::<WriteError>();
}

/// The futures of a multi-threaded program, none of which is run.
#[allow(dead_code, clippy::let_underscore_future)]
async fn futures_are_send(session: Session, server: Server, client: Client, mut pipe: BackedPipe) {
    fn is<T: Future + Send>(_: T) {}
    is(client.connect(std::net::SocketAddr::from(([127, 0, 0, 1], 1))));
    is(server.accept());
    is(server.shutdown(Duration::ZERO));
    is(session.accept_pipe());
    is(session.shutdown());
    is(session.closed());
    is(session.attached());
    is(session.reconnect());
    is(session.events().next());
    is(pipe.reader().read(&mut []));
    is(pipe.reader().read_chunk(1));
    is(pipe.writer().write(b""));
    is(pipe.writer().write_all(b""));
    is(pipe.writer().write_chunk(&mut Bytes::new()));
    is(pipe.writer().wait_acked(0));
}

/// Polls `future` a few times, or for a moment, and drops it.
async fn impatiently<T>(dice: &mut Dice, future: impl Future<Output = T>) -> Option<T> {
    if dice.pick(0..4) == 0 {
        let patience = Duration::from_millis(dice.pick(0..40));
        return tokio::time::timeout(patience, future).await.ok();
    }
    let mut polls = dice.pick(1..5);
    let mut future = pin!(future);
    let polled = poll_fn(|cx| {
        polls -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if polls == 0 => Poll::Ready(None),
            Poll::Pending => {
                // Polled again though nothing has happened.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    });
    let value = polled.await;
    tokio::task::yield_now().await;
    value
}

/// Writes `stream` until told to end it; says how long it became.
async fn write_impatiently(
    mut writer: BackedWriter,
    stream: u64,
    seed: u64,
    enough: Arc<AtomicBool>,
) -> u64 {
    let mut dice = Dice(seed);
    let mut offset = 0;
    while !enough.load(Ordering::Relaxed) {
        let len = dice.pick(1..5_000);
        let bytes: Vec<u8> = (offset..offset + len).map(|at| byte_at(stream, at)).collect();
        match dice.pick(0..3) {
            0 => {
                if let Some(written) = impatiently(&mut dice, writer.write(&bytes)).await {
                    offset += written.unwrap() as u64;
                }
            }
            1 => {
                let mut chunk = Bytes::from(bytes);
                if let Some(written) = impatiently(&mut dice, writer.write_chunk(&mut chunk)).await
                {
                    written.unwrap();
                    assert!(chunk.is_empty());
                }
                offset += len - chunk.len() as u64;
            }
            _ => {
                let upto = dice.pick(0..offset + 1);
                if let Some(acked) = impatiently(&mut dice, writer.wait_acked(upto)).await {
                    acked.unwrap();
                    assert!(writer.acked() >= upto);
                }
            }
        }
        assert_eq!(writer.offset(), offset, "stream {stream}: a dropped write wrote");
    }
    writer.finish();
    soon("the last ack", writer.wait_acked(offset)).await.unwrap();
    offset
}

/// Reads `stream` to its end; says how long it was.
async fn read_impatiently(mut reader: BackedReader, stream: u64, seed: u64) -> u64 {
    let mut dice = Dice(seed);
    let mut offset = 0;
    let mut buf = vec![0; 8_000];
    loop {
        let max = dice.pick(1..8_000) as usize;
        let read = if dice.pick(0..2) == 0 {
            let read = impatiently(&mut dice, reader.read(&mut buf[..max])).await;
            read.map(|read| read.unwrap().map(|len| Bytes::copy_from_slice(&buf[..len])))
        } else {
            impatiently(&mut dice, reader.read_chunk(max)).await.map(Result::unwrap)
        };
        match read {
            None => {}
            Some(None) => return offset,
            Some(Some(chunk)) => {
                for (at, byte) in (offset..).zip(&chunk[..]) {
                    assert_eq!(*byte, byte_at(stream, at), "stream {stream} at {at}");
                }
                offset += chunk.len() as u64;
            }
        }
        assert_eq!(reader.offset(), offset, "stream {stream}: a dropped read read");
    }
}

/// Accepts so many pipes, and says what they are called.
async fn accept_impatiently(session: Session, pipes: usize, seed: u64) -> Vec<Bytes> {
    let mut dice = Dice(seed);
    let mut accepted = Vec::new();
    let mut labels = Vec::new();
    while labels.len() < pipes {
        if let Some(pipe) = impatiently(&mut dice, session.accept_pipe()).await {
            let pipe = pipe.unwrap().unwrap();
            labels.push(pipe.label());
            accepted.push(pipe);
        }
        // None of these asks for anything by itself.
        impatiently(&mut dice, session.closed()).await;
        impatiently(&mut dice, session.attached()).await;
    }
    labels.sort();
    labels
}

#[tokio::test]
async fn dropped_futures_lose_and_double_nothing_through_many_outages() {
    let mut config = quick();
    config.replay_capacity(64 * 1024).replay_budget(128 * 1024);
    let world = World::with(config, |_| {}).await;
    let (client, server) = world.session().await;
    let enough = Arc::new(AtomicBool::new(false));
    let (mut writes, mut reads) = (JoinSet::new(), JoinSet::new());
    for number in 0..4_u64 {
        let (ours, theirs) = pipe(&client, &server).await;
        let (our_reader, our_writer) = ours.into_split();
        let (their_reader, their_writer) = theirs.into_split();
        let directions = [(our_writer, their_reader), (their_writer, our_reader)];
        for (stream, (writer, reader)) in (number * 2..).zip(directions) {
            let write = write_impatiently(writer, stream, stream, enough.clone());
            writes.spawn(async move { (stream, write.await) });
            let read = read_impatiently(reader, stream, !stream);
            reads.spawn(async move { (stream, read.await) });
        }
    }
    let accepting = [
        tokio::spawn(accept_impatiently(server.clone(), 40, 40)),
        tokio::spawn(accept_impatiently(client.clone(), 40, 41)),
    ];

    let mut dice = Dice(42);
    let mut opened = Vec::new();
    for round in 0..8 {
        let epoch = client.stats().epoch;
        match round % 4 {
            0 => world.relay.cut(),
            1 => {
                world.relay.freeze();
                detached(&client).await;
            }
            2 => world.relay.renumber(),
            _ => {
                impatiently(&mut dice, client.reconnect()).await;
            }
        }
        for number in 0..5_u8 {
            let label = vec![round * 5 + number];
            opened.push(client.open_pipe(label.clone()).unwrap());
            opened.push(server.open_pipe(label).unwrap());
        }
        world.relay.thaw();
        if round % 4 != 2 {
            attached_after(&client, epoch).await;
        }
        // Bytes flow before the next blow.
        let read = server.stats().bytes_read + 50_000;
        crate::fixture::until("bytes", || server.stats().bytes_read > read).await;
    }
    let labels: Vec<Bytes> = (0..40_u8).map(|number| Bytes::from(vec![number])).collect();
    for accepting in accepting {
        assert_eq!(soon("all pipes", accepting).await.unwrap(), labels);
    }
    drop(opened);
    enough.store(true, Ordering::Relaxed);
    let all = async |mut tasks: JoinSet<(u64, u64)>| -> Vec<(u64, u64)> {
        let mut ends = Vec::new();
        while let Some(end) = soon("the end", tasks.join_next()).await {
            ends.push(end.unwrap());
        }
        ends.sort();
        ends
    };
    let (written, read) = tokio::join!(all(writes), all(reads));
    assert_eq!(written, read);
    all_retired(&client, &server).await;
}

#[tokio::test]
async fn a_shutdown_and_a_reconnect_go_on_without_their_futures() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    let epoch = client.stats().epoch;
    assert!(poll_once(client.reconnect()).await.is_none());
    attached_after(&client, epoch).await;
    assert!(poll_once(client.shutdown()).await.is_none());
    assert!(soon("the end", server.closed()).await.is_graceful());
    assert!(soon("the end", client.closed()).await.is_graceful());
}

async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
