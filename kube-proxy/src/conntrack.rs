//! Forgets UDP flows whose endpoint is gone: the kernel would send a busy client's datagrams there for ever.

use std::{collections::BTreeSet, net::IpAddr, process::Stdio};

use tokio::process::Command;

use crate::model::{Desired, Protocol, Routed};

/// A set of flows to forget.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stale {
    /// Flows to this service address that were answered by a removed endpoint.
    Endpoint { service: IpAddr, endpoint: IpAddr },
    /// Flows to this address and port, made when nobody answered.
    Unanswered { service: IpAddr, port: u16 },
    /// Flows to this node port.
    NodePort { port: u16 },
}

fn addresses(routed: &Routed) -> BTreeSet<IpAddr> {
    let service = &routed.service;
    let mut all: BTreeSet<IpAddr> = service.external_ips.union(&service.load_balancer_ips).copied().collect();
    all.insert(service.cluster_ip);
    all
}

/// Compares what was programmed with what is programmed now.
pub(crate) fn stale(old: &Desired, new: &Desired) -> BTreeSet<Stale> {
    let mut result = BTreeSet::new();
    for (name, before) in old.ports.iter().filter(|(name, _)| name.protocol == Protocol::Udp) {
        let kept = new.ports.get(name).map(Routed::targets).unwrap_or_default();
        for target in before.targets().difference(&kept) {
            result.extend(addresses(before).into_iter().map(|service| Stale::Endpoint { service, endpoint: target.0 }));
            result.extend(before.service.node_port.map(|port| Stale::NodePort { port }));
        }
    }
    for (name, after) in new.ports.iter().filter(|(name, _)| name.protocol == Protocol::Udp) {
        let answered_before = old.ports.get(name).is_some_and(|before| before.any);
        if after.any && !answered_before {
            let port = after.service.port;
            result.extend(addresses(after).into_iter().map(|service| Stale::Unanswered { service, port }));
            result.extend(after.service.node_port.map(|port| Stale::NodePort { port }));
        }
    }
    result
}

fn arguments(flows: &Stale) -> Vec<String> {
    let family = |ip: &IpAddr| if ip.is_ipv6() { "ipv6" } else { "ipv4" };
    let (family, rest) = match flows {
        Stale::Endpoint { service, endpoint } => (
            family(service),
            vec!["--orig-dst".into(), service.to_string(), "--reply-src".into(), endpoint.to_string()],
        ),
        Stale::Unanswered { service, port } => {
            (family(service), vec!["--orig-dst".into(), service.to_string(), "--dport".into(), port.to_string()])
        }
        Stale::NodePort { port } => ("ipv4", vec!["--dport".into(), port.to_string()]),
    };
    let mut words: Vec<String> = ["-D", "-f", family, "-p", "udp"].map(String::from).to_vec();
    words.extend(rest);
    words
}

/// Deletes the flows. Without the conntrack program old flows end by their own time-out, which is logged.
pub(crate) async fn forget(flows: &BTreeSet<Stale>) {
    for flow in flows {
        let run = Command::new("conntrack")
            .args(arguments(flow))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        // Exit status 1 with "0 flow entries have been deleted" is the usual answer.
        if let Err(error) = run {
            tracing::warn!(%error, "cannot run conntrack: stale UDP flows stay until they time out");
            return;
        }
    }
}
