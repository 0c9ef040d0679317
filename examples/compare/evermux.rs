//! evermux, as it comes out of the box; but for how large datagrams may become, perhaps.

use std::net::Ipv4Addr;

use ::evermux::{Client, ClientConfig, ClientTls, Identity, Server, ServerConfig, ServerTls};

use crate::BoxError;
use crate::contender::Link;
use crate::road::{Road, Way};

pub async fn connect(way: Way, datagram: Option<u16>) -> Result<Link, BoxError> {
    let identity = Identity::self_signed(&["localhost"])?;
    let pin = identity.fingerprint();
    let config = ServerConfig::new(ServerTls::new(identity));
    let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), config)?;
    let road = Road::datagrams(way, server.local_addr()?).await?;
    let mut config = ClientConfig::new(ClientTls::with_pin(pin));
    if let Some(bytes) = datagram {
        config.max_udp_payload(bytes);
    }
    let client = Client::new(config)?;
    let (near, far) = tokio::join!(client.connect(road.addr()), async {
        server.accept().await.map(|incoming| incoming.accept())
    });
    let (near, far) = (near?, far.ok_or("the server is closed")?);
    let ours = near.open_pipe("")?;
    let theirs = far.accept_pipe().await?.ok_or("the session is closed")?;
    let keep = Box::new((client, server, near, far));
    Ok(Link { near: Box::new(ours), far: Box::new(theirs), road, keep })
}
