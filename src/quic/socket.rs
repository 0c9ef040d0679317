//! Sockets and endpoints, of the system's or of a simulated world.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{AsyncUdpSocket, Runtime};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Transport;
use crate::environment::Environment;

/// A socket as quinn uses it.
pub(super) fn bind(
    environment: &Environment,
    local: SocketAddr,
    transport: &Transport,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    #[cfg(feature = "simulation")]
    if let Some(world) = &environment.world {
        return super::simulated::bind(&**world, local);
    }
    #[cfg(not(feature = "simulation"))]
    let _ = environment;
    quinn::TokioRuntime.wrap_udp_socket(udp_socket(local, transport.socket_buffer)?)
}

/// An endpoint on a socket of its own.
pub(super) fn endpoint(
    environment: &Environment,
    config: quinn::EndpointConfig,
    server: Option<quinn::ServerConfig>,
    socket: Arc<dyn AsyncUdpSocket>,
) -> io::Result<quinn::Endpoint> {
    #[cfg(feature = "simulation")]
    let config = match &environment.world {
        Some(world) => super::simulated::seeded(&**world, config),
        None => config,
    };
    #[cfg(not(feature = "simulation"))]
    let _ = environment;
    let runtime = Arc::new(quinn::TokioRuntime);
    quinn::Endpoint::new_with_abstract_socket(config, server, socket, runtime)
}

fn udp_socket(local: SocketAddr, buffer: usize) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    // The system may allow less (net.core.rmem_max on Linux): no error.
    let _ = socket.set_recv_buffer_size(buffer);
    let _ = socket.set_send_buffer_size(buffer);
    if local.is_ipv6() && local.ip().is_unspecified() {
        // One socket for both families, where the system can.
        let _ = socket.set_only_v6(false);
    }
    socket.bind(&local.into())?;
    Ok(socket.into())
}
