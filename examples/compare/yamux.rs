//! TCP with TLS 1.3, and on it yamux, which makes many streams of one.

use std::future::poll_fn;

use ::yamux::{Config, Connection, Mode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use crate::contender::Link;
use crate::road::Way;
use crate::{BoxError, tls};

pub async fn connect(way: Way) -> Result<Link, BoxError> {
    let (near, far, road) = tls::ends(way).await?;
    let mut near = Connection::new(near.compat(), Config::default(), Mode::Client);
    let mut far = Connection::new(far.compat(), Config::default(), Mode::Server);
    let mut ours = poll_fn(|cx| near.poll_new_outbound(cx)).await?.compat();
    // A connection moves only while somebody asks it for streams.
    let mut moving = JoinSet::new();
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    moving.spawn(async move {
        while let Some(Ok(_)) = poll_fn(|cx| near.poll_next_inbound(cx)).await {}
    });
    moving.spawn(async move {
        while let Some(Ok(stream)) = poll_fn(|cx| far.poll_next_inbound(cx)).await {
            let _ = arrived.send(stream);
        }
    });
    // The peer does not see a stream before there is something in it.
    ours.write_all(&[0]).await?;
    ours.flush().await?;
    let mut theirs = arrivals.recv().await.ok_or("the connection is closed")?.compat();
    theirs.read_exact(&mut [0]).await?;
    Ok(Link { near: Box::new(ours), far: Box::new(theirs), road, keep: Box::new(moving) })
}
