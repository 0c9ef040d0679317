//! Pipes while all is well, and across one drop.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{World, attached_after, detached, read_range, soon, write_range};

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
