//! The node's addresses: what the flag says, else the address of the interface with the default route, else the first
//! global address.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use nix::ifaddrs::getifaddrs;

use crate::config::Config;

/// At most one address per family, the primary first.
pub(crate) fn host_ips(config: &Config) -> Vec<String> {
    let asked: Vec<IpAddr> = config.node_ips.iter().copied().filter(|ip| !ip.is_unspecified()).collect();
    if !asked.is_empty() {
        return asked.iter().map(ToString::to_string).collect();
    }
    by_route().or_else(first_global).map(|ip| ip.to_string()).into_iter().collect()
}

/// A connected UDP socket sends nothing but knows which address it would send from.
fn by_route() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

fn first_global() -> Option<IpAddr> {
    let addresses = getifaddrs().ok()?.filter_map(|interface| {
        let ip = IpAddr::V4(interface.address?.as_sockaddr_in()?.ip());
        (!ip.is_loopback()).then_some(ip)
    });
    addresses.into_iter().next()
}
