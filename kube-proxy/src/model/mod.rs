//! What the proxy must do, computed from Services and EndpointSlices. Pure: no I/O, no clocks.
//!
//! [`Model`] keeps the compact state of each Service and knows which ones changed; [`Routed`] is the verdict about one
//! service port in one family, which backends turn into rules.

mod endpoints;
mod service;
mod store;
#[cfg(test)]
mod tests;
mod topology;

use std::{net::IpAddr, sync::Arc};

pub(crate) use endpoints::{Endpoint, Slice};
#[cfg(test)]
pub(crate) use service::External;
pub(crate) use service::ServicePort;
pub(crate) use store::{Change, Model};
pub(crate) use topology::Choice;

/// IPv4 or IPv6: each has its own tables, Services may have both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv6() { Self::V6 } else { Self::V4 }
    }

    pub(crate) fn is_v6(self) -> bool {
        self == Self::V6
    }

    /// The API's word, also that of metrics' labels.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// The node on which we run, as far as routing decisions know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Here {
    pub node: String,
    pub zone: Option<String>,
}

/// `namespace/name` of a Service.
pub(crate) type ServiceKey = Arc<str>;

/// Identity of one port of a Service; shown as upstream does: `namespace/name:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortName {
    pub service: ServiceKey,
    pub port: Box<str>,
    pub protocol: Protocol,
}

impl std::fmt::Display for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.service)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// From the API's spelling; absent means TCP.
    pub(crate) fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// As nft, iptables and chain names spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// As IP headers number it.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// An address that traffic is sent to.
pub(crate) type Target = (IpAddr, u16);

/// One service port with the endpoints that traffic of each kind may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Routed {
    pub name: PortName,
    pub service: ServicePort,
    pub choice: Choice,
}

impl Routed {
    /// Whether traffic to the cluster IP reaches anybody.
    pub(crate) fn has_internal(&self) -> bool {
        if self.service.internal_local { !self.choice.local.is_empty() } else { self.choice.any }
    }

    /// Whether traffic from outside reaches anybody.
    pub(crate) fn has_external(&self) -> bool {
        if self.service.external_local() { !self.choice.local.is_empty() } else { self.choice.any }
    }
}
