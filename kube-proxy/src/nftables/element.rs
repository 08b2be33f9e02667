//! Elements of the table's sets and maps, as nft writes them and as the kernel stores them.

use std::{fmt, net::IpAddr};

use crate::{
    model::{Family, Protocol, Target},
    netlink::Writer,
};

/// An address and port that packets are sent to.
pub(super) type Address = (IpAddr, Protocol, u16);

/// The key of an element; the variant says in which container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    ClusterIp(IpAddr),
    ServiceIp(Address),
    NodePort(Protocol, u16),
    NoEndpointIp(Address),
    NoEndpointNodePort(Protocol, u16),
    FirewallIp(Address),
    Hairpin(Address),
    /// The endpoint with this number behind a cluster IP, which nobody else has.
    ClusterEndpoint(Address, u32),
    /// The endpoint with this number behind an external address.
    ExternalEndpoint(Address, u32),
    NodePortEndpoint(Protocol, u16, u32),
}

/// What an element leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// It is in a set.
    None,
    Goto(String),
    Drop,
    Endpoint(Target),
}

/// A set or map of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Container {
    pub name: &'static str,
    kind: &'static str,
    /// Type of its elements, with `{a}` for an address and `{ip}` for the family's header.
    spec: &'static str,
    comment: &'static str,
}

const fn container(name: &'static str, kind: &'static str, spec: &'static str, comment: &'static str) -> Container {
    Container { name, kind, spec, comment }
}

/// Types of those that upstream has too are upstream's, so that it can go on with our table. Endpoints have a map per
/// protocol: nft knows the type of a port only with its protocol.
pub(super) const CONTAINERS: [Container; 13] = [
    container("cluster-ips", "set", "type {a}", "Active ClusterIPs"),
    container(
        "service-ips",
        "map",
        "type {a} . inet_proto . inet_service : verdict",
        "ClusterIP, ExternalIP and LoadBalancer IP traffic",
    ),
    container("service-nodeports", "map", "type inet_proto . inet_service : verdict", "NodePort traffic"),
    container(
        "no-endpoint-services",
        "map",
        "type {a} . inet_proto . inet_service : verdict",
        "vmap to drop or reject packets to services with no endpoints",
    ),
    container(
        "no-endpoint-nodeports",
        "map",
        "type inet_proto . inet_service : verdict",
        "vmap to drop or reject packets to service nodeports with no endpoints",
    ),
    container(
        "firewall-ips",
        "map",
        "type {a} . inet_proto . inet_service : verdict",
        "destinations that are subject to LoadBalancerSourceRanges",
    ),
    container(
        "hairpin-connections",
        "set",
        "type {a} . {a} . inet_proto . inet_service",
        "service hairpin connections",
    ),
    container(
        "service-endpoints-tcp",
        "map",
        "typeof {ip} daddr . tcp dport . numgen random mod 2 : {ip} daddr . tcp dport",
        "endpoints of addresses, by number",
    ),
    container(
        "service-endpoints-udp",
        "map",
        "typeof {ip} daddr . udp dport . numgen random mod 2 : {ip} daddr . udp dport",
        "endpoints of addresses, by number",
    ),
    container(
        "service-endpoints-sctp",
        "map",
        "typeof {ip} daddr . sctp dport . numgen random mod 2 : {ip} daddr . sctp dport",
        "endpoints of addresses, by number",
    ),
    container(
        "nodeport-endpoints-tcp",
        "map",
        "typeof tcp dport . numgen random mod 2 : {ip} daddr . tcp dport",
        "endpoints of node ports, by number",
    ),
    container(
        "nodeport-endpoints-udp",
        "map",
        "typeof udp dport . numgen random mod 2 : {ip} daddr . udp dport",
        "endpoints of node ports, by number",
    ),
    container(
        "nodeport-endpoints-sctp",
        "map",
        "typeof sctp dport . numgen random mod 2 : {ip} daddr . sctp dport",
        "endpoints of node ports, by number",
    ),
];

impl Container {
    /// The script line that makes it, unless it is there.
    pub(super) fn declaration(&self, family: Family, table: &str) -> String {
        let (address, ip) = if family.is_v6() { ("ipv6_addr", "ip6") } else { ("ipv4_addr", "ip") };
        let spec = self.spec.replace("{a}", address).replace("{ip}", ip);
        format!("add {} {table} {} {{ {spec}; comment \"{}\"; }}", self.kind, self.name, self.comment)
    }
}

impl Key {
    pub(super) fn container(&self) -> &'static Container {
        let at = match self {
            Self::ClusterIp(_) => 0,
            Self::ServiceIp(_) => 1,
            Self::NodePort(..) => 2,
            Self::NoEndpointIp(_) => 3,
            Self::NoEndpointNodePort(..) => 4,
            Self::FirewallIp(_) => 5,
            Self::Hairpin(_) => 6,
            Self::ClusterEndpoint((_, protocol, _), _) | Self::ExternalEndpoint((_, protocol, _), _) => {
                7 + *protocol as usize
            }
            Self::NodePortEndpoint(protocol, ..) => 10 + *protocol as usize,
        };
        &CONTAINERS[at]
    }

    /// Whether only one Service can have it. Others may be claimed by several.
    pub(super) fn is_exclusive(&self) -> bool {
        matches!(self, Self::NodePortEndpoint(..) | Self::ClusterEndpoint(..))
    }

    /// The key as the kernel stores it: each part in a word of its own.
    pub(super) fn bytes(&self) -> Bytes {
        let mut bytes = Bytes::default();
        match *self {
            Self::ClusterIp(ip) => bytes.ip(ip),
            Self::ServiceIp(address) | Self::NoEndpointIp(address) | Self::FirewallIp(address) => {
                bytes.address(address);
            }
            Self::NodePort(protocol, port) | Self::NoEndpointNodePort(protocol, port) => bytes.port(protocol, port),
            Self::Hairpin(address) => {
                bytes.ip(address.0);
                bytes.address(address);
            }
            Self::ClusterEndpoint(address, number) | Self::ExternalEndpoint(address, number) => {
                bytes.ip(address.0);
                bytes.number(address.2);
                bytes.word(number.to_ne_bytes());
            }
            Self::NodePortEndpoint(_, port, number) => {
                bytes.number(port);
                bytes.word(number.to_ne_bytes());
            }
        }
        bytes
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterIp(ip) => write!(f, "{ip}"),
            Self::ServiceIp((ip, protocol, port))
            | Self::NoEndpointIp((ip, protocol, port))
            | Self::FirewallIp((ip, protocol, port)) => write!(f, "{ip} . {} . {port}", protocol.as_str()),
            Self::NodePort(protocol, port) | Self::NoEndpointNodePort(protocol, port) => {
                write!(f, "{} . {port}", protocol.as_str())
            }
            Self::Hairpin((ip, protocol, port)) => write!(f, "{ip} . {ip} . {} . {port}", protocol.as_str()),
            Self::ClusterEndpoint((ip, _, port), number) | Self::ExternalEndpoint((ip, _, port), number) => {
                write!(f, "{ip} . {port} . {number}")
            }
            Self::NodePortEndpoint(_, port, number) => write!(f, "{port} . {number}"),
        }
    }
}

/// A key or value in the kernel's form; none is longer than two IPv6 addresses and two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bytes {
    bytes: [u8; 40],
    length: u8,
}

impl Default for Bytes {
    fn default() -> Self {
        Self { bytes: [0; 40], length: 0 }
    }
}

impl Bytes {
    pub(super) fn new(slice: &[u8]) -> Self {
        let mut bytes = Self::default();
        bytes.extend(&slice[..slice.len().min(40)]);
        bytes
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn extend(&mut self, part: &[u8]) {
        let start = usize::from(self.length);
        self.bytes[start..start + part.len()].copy_from_slice(part);
        self.length += part.len() as u8;
    }

    fn word(&mut self, word: [u8; 4]) {
        self.extend(&word);
    }

    fn ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.extend(&ip.octets()),
            IpAddr::V6(ip) => self.extend(&ip.octets()),
        }
    }

    fn number(&mut self, port: u16) {
        let [high, low] = port.to_be_bytes();
        self.word([high, low, 0, 0]);
    }

    fn port(&mut self, protocol: Protocol, port: u16) {
        self.word([protocol.number(), 0, 0, 0]);
        self.number(port);
    }

    fn address(&mut self, (ip, protocol, port): Address) {
        self.ip(ip);
        self.port(protocol, port);
    }
}

const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const GOTO: i32 = -4;
const DROP: i32 = 0;

impl Value {
    /// Writes it as the attribute `kind`; nothing for a set's element.
    pub(super) fn write(&self, writer: &mut Writer, kind: u16) {
        let start = writer.open(kind);
        match self {
            Self::None => {
                writer.bytes.truncate(start);
                return;
            }
            Self::Endpoint((ip, port)) => {
                let mut bytes = Bytes::default();
                bytes.ip(*ip);
                bytes.number(*port);
                writer.attribute(DATA_VALUE, bytes.as_slice());
            }
            Self::Goto(chain) => {
                let verdict = writer.open(DATA_VERDICT);
                writer.attribute(VERDICT_CODE, &GOTO.to_be_bytes());
                writer.text(VERDICT_CHAIN, chain);
                writer.close(verdict);
            }
            Self::Drop => {
                let verdict = writer.open(DATA_VERDICT);
                writer.attribute(VERDICT_CODE, &DROP.to_be_bytes());
                writer.close(verdict);
            }
        }
        writer.close(start);
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Drop => f.write_str("drop"),
            Self::Endpoint((ip, port)) => write!(f, "{ip} . {port}"),
        }
    }
}
