//! A socket of a simulated world, as quinn sees it.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::simulation::{Socket, World};

/// A socket of `world`.
pub(super) fn bind(world: &dyn World, local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    Ok(Arc::new(Simulated(world.bind(local)?)))
}

/// Settings of an endpoint whose course the random bytes of `world` determine.
pub(super) fn seeded(
    world: &dyn World,
    mut config: quinn::EndpointConfig,
) -> quinn::EndpointConfig {
    let mut seed = [0; 32];
    world.random(&mut seed);
    config.rng_seed(Some(seed));
    config
}

#[derive(Debug)]
struct Simulated(Arc<dyn Socket>);

impl AsyncUdpSocket for Simulated {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.send(transmit.destination, transmit.contents);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut received = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            match self.0.poll_recv(cx, buf) {
                Poll::Ready((len, addr)) => {
                    *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                    received += 1;
                }
                Poll::Pending if received == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local_addr())
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// A simulated network drops what it has no room for.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
