//! Linux: rtnetlink(7).

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use tokio::net::UdpSocket;

/// Links, addresses, routes and rules, of IPv4 and IPv6 (linux/rtnetlink.h, RTMGRP_*).
/// Links too: one that goes down takes its IPv4 routes along without a word.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x4_0000;

/// A message that does not fit is cut off, which is as good.
const MESSAGE: usize = 4096;

/// What the kernel tells to everybody who listens. A datagram is received from any
/// socket in the same way, so tokio's for UDP does here too.
#[derive(Debug)]
pub(super) struct Notices(UdpSocket);

impl Notices {
    pub(super) fn subscribe() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // That something was lost is no error: something was heard before.
        socket.set_no_enobufs(true)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        let owned = socket.as_fd().try_clone_to_owned()?;
        Ok(Self(UdpSocket::from_std(owned.into())?))
    }

    /// Waits until something is told, and takes all there is; what it says does not
    /// matter.
    pub(super) async fn heard(&mut self) -> io::Result<()> {
        let mut message = [0; MESSAGE];
        self.0.recv(&mut message).await?;
        while self.0.try_recv(&mut message).is_ok() {}
        Ok(())
    }
}

/// The interface, the gateway and our own address.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FirstHop(Vec<RouteAttribute>);

/// Where packets to `addr` go first; `None` if nowhere. The kernel answers before the
/// question is through: this does not wait.
pub(super) fn first_hop(addr: IpAddr) -> io::Result<Option<FirstHop>> {
    let mut question = RouteMessage::default();
    (question.header.address_family, question.header.destination_prefix_length) = match addr {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    question.attributes.push(RouteAttribute::Destination(addr.into()));
    let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(question));
    question.header.flags = NLM_F_REQUEST;
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut answer = [0; MESSAGE];
    let len = socket.recv(&mut &mut answer[..], 0)?;
    let answer = answer.get(..len).unwrap_or_default();
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer).map(|answer| answer.payload) {
        Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route))) => {
            let matters = |attribute: &RouteAttribute| {
                matches!(
                    attribute,
                    RouteAttribute::Oif(_)
                        | RouteAttribute::Gateway(_)
                        | RouteAttribute::Via(_)
                        | RouteAttribute::PrefSource(_)
                )
            };
            Ok(Some(FirstHop(route.attributes.into_iter().filter(matters).collect())))
        }
        Ok(NetlinkPayload::Error(_)) => Ok(None),
        Ok(_) => Err(io::Error::other("the kernel answers something else")),
        Err(malformed) => Err(io::Error::other(malformed.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_reached_without_a_gateway() {
        let hop = first_hop(std::net::Ipv4Addr::LOCALHOST.into()).expect("asked");
        let FirstHop(attributes) = hop.expect("there is a way");
        let has = |wanted: fn(&RouteAttribute) -> bool| attributes.iter().any(wanted);
        assert!(has(|attribute| matches!(attribute, RouteAttribute::Oif(_))), "{attributes:?}");
        assert!(!has(|attribute| matches!(attribute, RouteAttribute::Gateway(_))));
    }
}
