//! TCP by itself, in the clear.

use std::io;
use std::net::Ipv4Addr;

use tokio::net::{TcpListener, TcpStream};

use crate::BoxError;
use crate::contender::Link;
use crate::road::{Road, Way};

pub async fn connect(way: Way) -> Result<Link, BoxError> {
    let ([near, far], road) = ends(way).await?;
    Ok(Link { near: Box::new(near), far: Box::new(far), road, keep: Box::new(()) })
}

/// Both ends of a connection, near first.
pub async fn ends(way: Way) -> io::Result<([TcpStream; 2], Road)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let road = Road::streams(way, listener.local_addr()?).await?;
    let (near, (far, _)) = tokio::try_join!(TcpStream::connect(road.addr()), listener.accept())?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
    }
    Ok(([near, far], road))
}
