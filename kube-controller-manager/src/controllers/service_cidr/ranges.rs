//! Which addresses lie in which ranges, and whether a range may go. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};

use crate::shared::meta::MetaExt;

fn nets(cidr: &ServiceCIDR) -> impl Iterator<Item = IpNet> {
    let list = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    list.iter().filter_map(|text| text.parse().ok())
}

/// Whether the allocator of Services made it.
pub(super) fn is_of_services(address: &IPAddress) -> bool {
    address.label("ipaddress.kubernetes.io/managed-by") == Some("ipallocator.k8s.io")
}

/// Whether the address lies in the range and can be a Service's: the first of a range never is, nor the last of an IPv4 one.
pub(super) fn contains(cidr: &ServiceCIDR, address: &IPAddress) -> bool {
    let Ok(ip) = address.name_str().parse::<IpAddr>() else { return false };
    nets(cidr).any(|net| {
        let edge = ip == net.network() || (matches!(net, IpNet::V4(_)) && ip == net.broadcast());
        net.contains(&ip) && !edge
    })
}

/// Whether two ranges have addresses in common.
pub(super) fn overlap(one: &ServiceCIDR, other: &ServiceCIDR) -> bool {
    nets(one).any(|a| nets(other).any(|b| a.contains(&b) || b.contains(&a)))
}

/// Whether a range that is being deleted may go: others hold all of it, or all of its addresses that are in use.
pub(super) fn may_go(going: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>]) -> bool {
    let others = || all.iter().filter(|cidr| cidr.name_str() != going.name_str());
    let within = |net: IpNet| others().any(|other| nets(other).any(|parent| parent.contains(&net)));
    if nets(going).all(within) {
        return true;
    }
    let mut used = addresses.iter().filter(|address| is_of_services(address) && contains(going, address));
    used.all(|address| others().any(|other| contains(other, address)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cidr(name: &str, nets: &[&str]) -> Arc<ServiceCIDR> {
        let value = json!({"metadata": {"name": name}, "spec": {"cidrs": nets}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn address(ip: &str) -> Arc<IPAddress> {
        let labels = json!({"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": ip, "labels": labels}})).unwrap())
    }

    #[test]
    fn a_range_goes_when_nobody_needs_it() {
        let one = cidr("one", &["192.168.0.0/24"]);
        let table = [
            ("nothing in use", vec![], vec![], true),
            ("in use", vec![], vec![address("192.168.0.5")], false),
            ("elsewhere in use", vec![], vec![address("192.168.1.5")], true),
            ("the network's own address", vec![], vec![address("192.168.0.0")], true),
            (
                "in use, the same range again",
                vec![cidr("two", &["192.168.0.0/24"])],
                vec![address("192.168.0.5")],
                true,
            ),
            ("in use, within a larger one", vec![cidr("two", &["192.168.0.0/16"])], vec![address("192.168.0.5")], true),
            ("in use, in a smaller one", vec![cidr("two", &["192.168.0.0/28"])], vec![address("192.168.0.5")], true),
            ("one is not in the smaller", vec![cidr("two", &["192.168.0.0/28"])], vec![address("192.168.0.50")], false),
        ];
        for (name, mut all, addresses, want) in table {
            all.push(one.clone());
            assert_eq!(may_go(&one, &all, &addresses), want, "{name}");
        }
        let dual = cidr("dual", &["192.168.0.0/24", "2001:db2::/64"]);
        assert!(!may_go(&dual, &[dual.clone(), one], &[address("2001:db2::5")]));
        assert!(overlap(&dual, &cidr("x", &["2001:db2::/48"])) && !overlap(&dual, &cidr("x", &["10.0.0.0/8"])));
    }
}
