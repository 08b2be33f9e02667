//! Which node-sized pieces of a cluster CIDR are taken. Pure.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// No more pieces than this are tracked, whatever the sizes (as upstream's limit of 16 bits).
const MAX_BITS: u8 = 16;

/// Why a cluster CIDR cannot be divided.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum CidrError {
    #[error("node CIDR mask size /{node} must be larger than the cluster CIDR's /{cluster}")]
    Order { node: u8, cluster: u8 },
    #[error(
        "the node CIDR mask size /{node} is too small for the cluster CIDR /{cluster}: more than {MAX_BITS} bits apart"
    )]
    TooMany { node: u8, cluster: u8 },
    #[error("node CIDR mask size /{0} is not valid for this address family")]
    Mask(u8),
}

/// One cluster CIDR cut into pieces.
#[derive(Debug)]
pub(super) struct CidrSet {
    cluster: IpNet,
    node_mask: u8,
    taken: Vec<bool>,
    next: usize,
}

impl CidrSet {
    pub(super) fn new(cluster: IpNet, node_mask: u8) -> Result<Self, CidrError> {
        if node_mask > cluster.max_prefix_len() {
            return Err(CidrError::Mask(node_mask));
        }
        let cluster = cluster.trunc();
        let order = CidrError::Order { node: node_mask, cluster: cluster.prefix_len() };
        let bits = node_mask.checked_sub(cluster.prefix_len()).ok_or(order)?;
        if bits > MAX_BITS {
            return Err(CidrError::TooMany { node: node_mask, cluster: cluster.prefix_len() });
        }
        Ok(Self { cluster, node_mask, taken: vec![false; 1 << bits], next: 0 })
    }

    /// Of this family?
    pub(super) fn is_v6(&self) -> bool {
        matches!(self.cluster, IpNet::V6(_))
    }

    fn piece(&self, index: usize) -> Option<IpNet> {
        let host_bits = self.cluster.max_prefix_len() - self.node_mask;
        match self.cluster {
            IpNet::V4(net) => {
                let offset = u32::try_from(index).ok()?.checked_shl(host_bits.into()).unwrap_or(0);
                let address = u32::from(net.network()) | offset;
                Ipv4Net::new(address.into(), self.node_mask).ok().map(IpNet::V4)
            }
            IpNet::V6(net) => {
                let offset = u128::try_from(index).ok()?.checked_shl(host_bits.into()).unwrap_or(0);
                let address = u128::from(net.network()) | offset;
                Ipv6Net::new(address.into(), self.node_mask).ok().map(IpNet::V6)
            }
        }
    }

    /// The pieces that a network touches.
    fn range(&self, net: &IpNet) -> Option<std::ops::RangeInclusive<usize>> {
        if net.contains(&self.cluster) {
            return Some(0..=self.taken.len() - 1);
        }
        if !self.cluster.contains(net) {
            return None;
        }
        let index = |address: std::net::IpAddr| -> Option<usize> {
            let host_bits = self.cluster.max_prefix_len() - self.node_mask;
            let offset = match (address, self.cluster) {
                (std::net::IpAddr::V4(a), IpNet::V4(net)) => u128::from(u32::from(a) - u32::from(net.network())),
                (std::net::IpAddr::V6(a), IpNet::V6(net)) => u128::from(a) - u128::from(net.network()),
                _ => return None,
            };
            usize::try_from(offset.checked_shr(host_bits.into()).unwrap_or(0)).ok()
        };
        Some(index(net.network())?..=index(net.broadcast())?)
    }

    /// Marks what a network covers as taken; false when it is outside.
    pub(super) fn occupy(&mut self, net: &IpNet) -> bool {
        self.mark(net, true)
    }

    /// Gives back what a network covers.
    pub(super) fn release(&mut self, net: &IpNet) -> bool {
        self.mark(net, false)
    }

    fn mark(&mut self, net: &IpNet, taken: bool) -> bool {
        let Some(range) = self.range(net) else { return false };
        self.taken[range].fill(taken);
        true
    }

    /// Takes the next free piece, going round so that a released one is not reused at once.
    pub(super) fn allocate(&mut self) -> Option<IpNet> {
        let count = self.taken.len();
        let index = (0..count).map(|i| (self.next + i) % count).find(|i| !self.taken[*i])?;
        self.taken[index] = true;
        self.next = (index + 1) % count;
        self.piece(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(cluster: &str, mask: u8) -> CidrSet {
        CidrSet::new(cluster.parse().unwrap(), mask).unwrap()
    }

    #[test]
    fn allocates_in_order_and_skips_what_is_taken() {
        let mut s = set("10.244.0.0/22", 24);
        assert!(s.occupy(&"10.244.1.0/24".parse().unwrap()));
        let got: Vec<String> = std::iter::from_fn(|| s.allocate()).map(|n| n.to_string()).collect();
        assert_eq!(got, ["10.244.0.0/24", "10.244.2.0/24", "10.244.3.0/24"]);
        assert!(s.release(&"10.244.2.0/24".parse().unwrap()));
        assert_eq!(s.allocate().unwrap().to_string(), "10.244.2.0/24");
        assert_eq!(s.allocate(), None);
        assert!(!s.occupy(&"10.0.0.0/24".parse().unwrap()));
    }

    #[test]
    fn services_inside_the_cluster_range_are_left_out() {
        let mut s = set("10.0.0.0/16", 24);
        assert!(s.occupy(&"10.0.0.0/20".parse().unwrap()));
        assert_eq!(s.allocate().unwrap().to_string(), "10.0.16.0/24");
        let mut all = set("10.0.0.0/22", 24);
        assert!(all.occupy(&"10.0.0.0/8".parse().unwrap()));
        assert_eq!(all.allocate(), None);
    }

    #[test]
    fn six() {
        let mut s = set("fd00:1::/48", 64);
        assert_eq!(s.allocate().unwrap().to_string(), "fd00:1::/64");
        assert_eq!(s.allocate().unwrap().to_string(), "fd00:1:0:1::/64");
        assert!(s.is_v6());
    }

    #[test]
    fn bad_sizes() {
        let new = |c: &str, m| CidrSet::new(c.parse().unwrap(), m).map(|_| ());
        assert_eq!(new("10.0.0.0/24", 16), Err(CidrError::Order { node: 16, cluster: 24 }));
        assert_eq!(new("10.0.0.0/8", 28), Err(CidrError::TooMany { node: 28, cluster: 8 }));
        assert_eq!(new("10.0.0.0/8", 40), Err(CidrError::Mask(40)));
        assert!(new("10.0.0.0/24", 24).is_ok());
    }

    proptest! {
        #[test]
        fn never_twice(ops in prop::collection::vec(any::<bool>(), 0..200)) {
            let mut s = set("10.0.0.0/20", 24);
            let mut held: Vec<IpNet> = Vec::new();
            for take in ops {
                if take || held.is_empty() {
                    match s.allocate() {
                        Some(net) => { prop_assert!(!held.contains(&net)); held.push(net); }
                        None => prop_assert_eq!(held.len(), 16),
                    }
                } else {
                    s.release(&held.remove(0));
                }
            }
        }
    }
}
