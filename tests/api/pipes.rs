//! Pipes while all is well, and across one drop.

use evermux::{CloseCode, SessionEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{World, attached_after, detached, read_range, soon, write_range};
use crate::relay::{Direction, Faults};

#[tokio::test]
async fn a_pipe_carries_bytes_both_ways_and_its_label() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    let mut ours = client.open_pipe("greeting").unwrap();
    ours.write_all(b"hello").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut theirs = soon("a pipe", server.accept_pipe()).await.unwrap().unwrap();
    assert_eq!(&theirs.label()[..], b"greeting");
    assert_eq!(theirs.id(), ours.id());
    let mut text = String::new();
    soon("all of it", theirs.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "hello");
    // The other direction is still open.
    theirs.write_all(b"and good bye").await.unwrap();
    theirs.shutdown().await.unwrap();
    text.clear();
    soon("the answer", ours.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "and good bye");
}

#[tokio::test]
async fn writes_go_on_while_detached_and_reads_wait() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    let mut ours = client.open_pipe("").unwrap();
    write_range(ours.writer(), 1, 0, 100_000).await.unwrap();
    let mut theirs = soon("a pipe", server.accept_pipe()).await.unwrap().unwrap();
    world.relay.freeze();
    detached(&client).await;
    let epoch = client.stats().epoch;
    soon("writes into the buffer", write_range(ours.writer(), 1, 100_000, 1_000_000))
        .await
        .unwrap();
    ours.writer().finish();
    world.relay.thaw();
    attached_after(&client, epoch).await;
    let read = soon("all bytes", read_range(theirs.reader(), 1, 0, u64::MAX)).await.unwrap();
    assert_eq!(read, 1_000_000);
}

/// The stream that the opener opens anew after a drop carries the other direction
/// too, even if its own is over: its header must get through, however many
/// packets are lost.
#[tokio::test]
async fn a_direction_survives_the_stop_of_the_other_one_over_a_lossy_link() {
    // Which packets are lost is chance: in about every other round it is one
    // with headers, right after one with resets.
    for _ in 0..4 {
        stop_one_direction_across_a_resume().await;
    }
}

async fn stop_one_direction_across_a_resume() {
    const PIPES: u64 = 400;
    let world = World::new().await;
    let (client, server) = world.session().await;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for number in 0..PIPES {
        let mut pipe = client.open_pipe("").unwrap();
        write_range(pipe.writer(), number, 0, 100).await.unwrap();
        ours.push(pipe);
        theirs.push(soon("a pipe", server.accept_pipe()).await.unwrap().unwrap());
    }
    world.relay.freeze();
    detached(&client).await;
    let epoch = client.stats().epoch;
    // The server reads no more, but has something to say.
    let writers: Vec<_> = theirs.into_iter().map(|pipe| pipe.into_split().1).collect();
    let faults = Faults { loss: 0.3, ..Faults::default() };
    world.relay.set_faults(Direction::ToServer, faults);
    world.relay.thaw();
    attached_after(&client, epoch).await;
    for (number, mut writer) in (0..).zip(writers) {
        write_range(&mut writer, number, 0, 1000).await.unwrap();
        writer.finish();
        drop(writer);
    }
    for (number, pipe) in (0..).zip(&mut ours) {
        let read = soon("the other direction", read_range(pipe.reader(), number, 0, u64::MAX));
        assert_eq!(read.await.unwrap(), 1000);
    }
}

#[tokio::test]
async fn what_a_pipe_carries_is_not_printed() {
    let world = World::new().await;
    let (client, _server) = world.session().await;
    let mut pipe = client.open_pipe("label").unwrap();
    pipe.write_all(b"a secret").await.unwrap();
    for printed in [format!("{pipe:?}"), format!("{client:?}")] {
        assert!(!printed.contains("secret") && printed.len() < 400, "{printed}");
    }
}

#[tokio::test]
async fn events_end_with_the_session_also_for_who_holds_it() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    let mut events = client.events();
    client.close(CloseCode::DONE, b"");
    let error = soon("the end", client.closed()).await;
    let mut last = None;
    while let Some(event) = soon("the end of the events", events.next()).await {
        last = Some(event);
    }
    assert!(matches!(&last, Some(SessionEvent::Closed { error: told, .. }) if *told == error));
    assert_eq!(soon("none at all", client.events().next()).await, None);
    soon("the end there", server.closed()).await;
}
