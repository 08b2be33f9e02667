//! What rules depend on besides Services: options, the node, its addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::Family;

/// How traffic of this node's pods is told from other traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LocalDetector {
    /// It is not.
    None,
    Cidr(IpNet),
    Bridge(String),
    InterfacePrefix(String),
}

impl LocalDetector {
    /// The nft expression for local traffic, or for everything else; `None` when there is no telling.
    pub(crate) fn nft(&self, local: bool) -> Option<String> {
        let not = if local { "" } else { "!= " };
        match self {
            Self::None => None,
            Self::Cidr(net) => Some(format!("{} saddr {not}{net}", if net.addr().is_ipv6() { "ip6" } else { "ip" })),
            Self::Bridge(name) => Some(format!("iifname {not}\"{name}\"")),
            Self::InterfacePrefix(name) => Some(format!("iifname {not}\"{name}*\"")),
        }
    }

    /// The same as iptables arguments.
    pub(crate) fn iptables(&self, local: bool) -> Option<String> {
        let not = if local { "" } else { "! " };
        match self {
            Self::None => None,
            Self::Cidr(net) => Some(format!("{not}-s {net}")),
            Self::Bridge(name) => Some(format!("{not}-i {name}")),
            Self::InterfacePrefix(name) => Some(format!("{not}-i {name}+")),
        }
    }
}

/// Addresses of this node that answer on node ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodePortAddresses {
    /// Empty: all but loopback ones, where those are not supported.
    nets: Vec<IpNet>,
}

impl NodePortAddresses {
    /// Of the networks of one family; one that holds everything is as good as none.
    pub(crate) fn new(nets: &[IpNet], family: Family) -> Self {
        let nets: Vec<IpNet> = nets.iter().filter(|net| Family::of(net.addr()) == family).copied().collect();
        if nets.iter().any(|net| net.prefix_len() == 0) { Self { nets: Vec::new() } } else { Self { nets } }
    }

    pub(crate) fn match_all(&self) -> bool {
        self.nets.is_empty()
    }

    /// Whether IPv4 loopback addresses may be among them.
    pub(crate) fn contains_loopback(&self) -> bool {
        let loopback = IpAddr::from([127, 0, 0, 0]);
        self.match_all() || self.nets.iter().any(|net| net.addr().is_loopback() || net.contains(&loopback))
    }

    /// Those of the machine's addresses that are in the networks.
    pub(crate) fn node_ips(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> =
            machine_addresses().into_iter().filter(|ip| self.nets.iter().any(|net| net.contains(ip))).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

fn machine_addresses() -> Vec<IpAddr> {
    match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces.filter_map(|interface| ip_of(&interface.address?)).collect(),
        Err(error) => {
            tracing::error!(%error, "cannot list this node's addresses: node ports may not answer as intended");
            Vec::new()
        }
    }
}

fn ip_of(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(v4.ip().into()),
        (_, Some(v6)) => Some(v6.ip().into()),
        _ => None,
    }
}

/// What does not change while the proxy runs, for one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub family: Family,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
    /// The packet mark that stands for masquerading.
    pub mark: u32,
    pub detector: LocalDetector,
    /// This node's own address: whether a load balancer's source ranges hold it.
    pub node_ip: IpAddr,
    pub node_ports: NodePortAddresses,
    /// IPv4 and iptables only: node ports answer on 127.0.0.1 too.
    pub localhost_node_ports: bool,
}
