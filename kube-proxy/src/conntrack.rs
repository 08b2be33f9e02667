//! Forgets UDP flows whose endpoint is gone: the kernel would send a busy client's datagrams there for ever.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    model::{Family, Protocol, ServicePort},
    netlink::{Attributes, CONNTRACK, IPV4, IPV6, Netlink},
};

const GET: u16 = 1;
const DELETE: u16 = 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// Service ports with their serving endpoints.
pub(crate) type Serving = Vec<(ServicePort, BTreeSet<(IpAddr, u16)>)>;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuple {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    protocol: u8,
}

impl Tuple {
    fn read(tuple: Attributes<'_>) -> Option<Self> {
        let (addresses, transport) = (tuple.inside(1)?, tuple.inside(2)?);
        let ip = |v4: u16, v6: u16| -> Option<IpAddr> {
            match addresses.get(v4) {
                Some(bytes) => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
                None => Some(Ipv6Addr::from(*addresses.get(v6)?.first_chunk::<16>()?).into()),
            }
        };
        let port = |kind: u16| transport.get(kind).and_then(|bytes| Some(u16::from_be_bytes(*bytes.first_chunk()?)));
        Some(Self {
            source: (ip(1, 3)?, port(2)?),
            destination: (ip(2, 4)?, port(3)?),
            protocol: *transport.get(1)?.first()?,
        })
    }
}

/// Which flows are right: those that a service address sends to one of its serving endpoints. Policies, topology and
/// termination do not matter: a change of those leaves existing flows alone, as it does with TCP.
struct Judge<'a> {
    addresses: HashMap<(IpAddr, u16), &'a BTreeSet<(IpAddr, u16)>>,
    node_ports: HashMap<u16, &'a BTreeSet<(IpAddr, u16)>>,
}

impl<'a> Judge<'a> {
    fn new(serving: &'a Serving) -> Self {
        let mut judge = Self { addresses: HashMap::new(), node_ports: HashMap::new() };
        for (service, endpoints) in serving {
            for ip in service.external_addresses().chain([service.cluster_ip]) {
                judge.addresses.insert((ip, service.port), endpoints);
            }
            if let Some(port) = service.node_port() {
                judge.node_ports.insert(port, endpoints);
            }
        }
        judge
    }

    /// Whether the flow goes to nobody or to a former endpoint.
    fn is_stale(&self, original: Tuple, reply: Tuple) -> bool {
        if original.protocol != Protocol::Udp.number() {
            return false;
        }
        let wrong = |endpoints: &&BTreeSet<(IpAddr, u16)>| !endpoints.contains(&reply.source);
        self.addresses.get(&original.destination).is_some_and(wrong)
            || self.node_ports.get(&original.destination.1).is_some_and(wrong)
    }
}

/// Deletes stale flows of these service ports; gives their number. Blocking.
///
/// # Errors
/// When the kernel does not list its flows.
pub(crate) fn clean(family: Family, serving: &Serving) -> io::Result<usize> {
    if serving.is_empty() {
        return Ok(0);
    }
    let judge = Judge::new(serving);
    let number = if family.is_v6() { IPV6 } else { IPV4 };
    let mut netlink = Netlink::open()?;
    let mut stale: Vec<[Option<Vec<u8>>; 3]> = Vec::new();
    let listed = netlink.dump(
        CONNTRACK,
        GET,
        number,
        |_| {},
        |flow| {
            let read = |kind| Tuple::read(flow.inside(kind)?);
            if let (Some(original), Some(reply)) = (read(ORIGINAL), read(REPLY))
                && judge.is_stale(original, reply)
            {
                stale.push([ORIGINAL, ID, ZONE].map(|kind| flow.get(kind).map(<[u8]>::to_vec)));
            }
        },
    );
    match listed {
        // A part of the list is better than nothing: the rest is looked at next time.
        Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
        _ => {}
    }
    let mut deleted = 0;
    for flow in stale {
        let result = netlink.request(CONNTRACK, DELETE, number, |writer| {
            for (kind, value) in [ORIGINAL | 0x8000, ID, ZONE].into_iter().zip(&flow) {
                if let Some(value) = value {
                    writer.attribute(kind, value);
                }
            }
        });
        match result {
            Ok(()) => deleted += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "cannot delete a stale UDP flow"),
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::External;

    fn at(ip: &str, port: u16) -> (IpAddr, u16) {
        (ip.parse().unwrap(), port)
    }

    #[test]
    fn flows_to_former_endpoints_are_stale() {
        let external = External {
            node_port: Some(30053),
            load_balancer_ips: vec!["192.0.2.1".parse().unwrap()],
            ..External::default()
        };
        let service = ServicePort {
            cluster_ip: "10.96.0.10".parse().unwrap(),
            port: 53,
            affinity: None,
            internal_local: false,
            external: Some(external.into()),
        };
        let serving = vec![(service, BTreeSet::from([at("10.244.0.5", 5353)]))];
        let judge = Judge::new(&serving);
        let client = at("10.244.0.9", 40000);
        let stale = |protocol, to: (IpAddr, u16), by: (IpAddr, u16)| {
            let original = Tuple { source: client, destination: to, protocol };
            judge.is_stale(original, Tuple { source: by, destination: client, protocol })
        };
        let (good, gone) = (at("10.244.0.5", 5353), at("10.244.0.6", 5353));
        for to in [at("10.96.0.10", 53), at("192.0.2.1", 53), at("172.18.0.2", 30053)] {
            assert!(!stale(17, to, good), "{to:?}");
            assert!(stale(17, to, gone), "{to:?}");
            assert!(!stale(6, to, gone), "TCP ends by itself: {to:?}");
        }
        // Nobody answered when the flow began: the reply is expected from the service address itself.
        assert!(stale(17, at("10.96.0.10", 53), at("10.96.0.10", 53)));
        assert!(!stale(17, at("10.96.0.10", 54), gone), "another port of the address");
        assert!(!stale(17, at("10.96.0.11", 53), gone), "nobody's address");
    }
}
