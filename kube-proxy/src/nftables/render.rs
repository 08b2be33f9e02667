//! From desired state to the table's content.
//!
//! A packet to a service meets, in this order: the `unreachable` check (reject or drop when nobody could answer), then the
//! verdict map of its address, then its service's chain, which marks what must be masqueraded and picks an endpoint.
//! Everything is a map look-up, so the cost does not grow with the number of services.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::ruleset::Ruleset;
use crate::model::{Affinity, Desired, PortName, Routed, Target};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// nft's word for the family of a table and of an address expression.
    pub(crate) fn nft(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }

    pub(crate) fn is_v6(self) -> bool {
        self == Self::V6
    }

    fn holds(self, net: &IpNet) -> bool {
        net.addr().is_ipv6() == self.is_v6()
    }
}

/// What does not depend on services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Pods' addresses: traffic to a cluster IP from anywhere else is masqueraded. Empty: detection is off.
    pub cluster_cidrs: Vec<IpNet>,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
    /// The packet mark bit for masquerading, upstream's 14.
    pub masquerade_bit: u32,
    /// Node addresses that answer on node ports; empty means all local ones but loopback.
    pub node_port_addresses: Vec<IpNet>,
}

/// Characters that nft accepts in a chain's name; a hash keeps long names apart.
fn chain_name(kind: &str, port: &PortName) -> String {
    let readable: String = port
        .to_string()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-/.".contains(c) { c } else { '_' })
        .collect();
    let mut name = format!("{kind}-{:08X}-{readable}", fnv(&port.to_string()));
    name.truncate(120);
    name
}

/// FNV-1a, stable between runs so that a restart keeps names.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Renders one family's table.
pub(crate) fn render(desired: &Desired, settings: &Settings, family: Family) -> Ruleset {
    let mut renderer = Renderer { rules: Ruleset::default(), settings, family };
    renderer.skeleton();
    for (name, routed) in &desired.ports {
        renderer.service(name, routed);
    }
    renderer.rules
}

struct Renderer<'a> {
    rules: Ruleset,
    settings: &'a Settings,
    family: Family,
}

impl Renderer<'_> {
    /// Hooks, maps and the chains that every packet may pass.
    fn skeleton(&mut self) {
        let (ip, address) = (self.family.nft(), self.family.address_type());
        let mark = format!("{:#x}", 1_u32 << self.settings.masquerade_bit);
        let rules = &mut self.rules;
        rules.set("service-ips", "map", format!("type {address} . inet_proto . inet_service : verdict;"));
        rules.set("service-nodeports", "map", "type inet_proto . inet_service : verdict;");
        rules.set("no-endpoint-services", "map", format!("type {address} . inet_proto . inet_service : verdict;"));
        rules.set("no-endpoint-nodeports", "map", "type inet_proto . inet_service : verdict;");
        rules.set("firewall-ips", "map", format!("type {address} . inet_proto . inet_service : verdict;"));
        rules.set("cluster-ips", "set", format!("type {address};"));
        rules.set("hairpin", "set", format!("type {address} . {address};"));
        let addresses = rules.set("nodeport-ips", "set", format!("type {address}; flags interval;"));
        for net in self.settings.node_port_addresses.iter().filter(|net| self.family.holds(net)) {
            addresses.elements.insert(net.to_string(), String::new());
        }
        let some_addresses = !addresses.elements.is_empty();

        let service = format!("{ip} daddr . meta l4proto . th dport vmap @service-ips");
        let loopback = if self.family.is_v6() { "::1" } else { "127.0.0.0/8" };
        let local = if some_addresses {
            format!("{ip} daddr @nodeport-ips")
        } else {
            format!("fib daddr type local {ip} daddr != {loopback}")
        };
        rules.chain("services").rule(service).rule(format!("{local} meta l4proto . th dport vmap @service-nodeports"));
        rules
            .chain("unreachable")
            .rule(format!("{ip} daddr . meta l4proto . th dport vmap @no-endpoint-services"))
            .rule(format!("{local} meta l4proto . th dport vmap @no-endpoint-nodeports"));
        rules.chain("firewall").rule(format!("{ip} daddr . meta l4proto . th dport vmap @firewall-ips"));
        rules.chain("reject-chain").rule("reject");
        rules.chain("mark-for-masquerade").rule(format!("mark set mark or {mark}"));
        rules
            .chain("masquerading")
            .rule(format!("{ip} saddr . {ip} daddr @hairpin ct status dnat masquerade fully-random"))
            .rule(format!("mark and {mark} == 0 return"))
            .rule(format!("mark set mark xor {mark}"))
            .rule("masquerade fully-random");
        // A cluster IP that was not translated has no such port: nobody else will ever answer it.
        rules.chain("cluster-ips-check").rule(format!("{ip} daddr @cluster-ips reject"));

        rules.base("nat-prerouting", "type nat hook prerouting priority dstnat;").rule("jump services");
        rules.base("nat-output", "type nat hook output priority -100;").rule("jump services");
        rules.base("nat-postrouting", "type nat hook postrouting priority srcnat;").rule("jump masquerading");
        rules
            .base("filter-prerouting", "type filter hook prerouting priority -110;")
            .rule("ct state new jump firewall");
        rules.base("filter-input", "type filter hook input priority -110;").rule("ct state new jump unreachable");
        rules
            .base("filter-forward", "type filter hook forward priority -110;")
            .rule("ct state new jump unreachable")
            .rule("ct state new jump cluster-ips-check");
        // After nat output (-100): what still has a cluster IP was not translated.
        rules
            .base("filter-output", "type filter hook output priority -90;")
            .rule("ct state new jump unreachable")
            .rule("ct state new jump cluster-ips-check");
        rules
            .base("filter-output-firewall", "type filter hook output priority -110;")
            .rule("ct state new jump firewall");
    }

    fn element(&mut self, map: &str, key: String, value: impl Into<String>) {
        if let Some(set) = self.rules.sets.get_mut(map) {
            set.elements.entry(key).or_insert_with(|| value.into());
        }
    }

    fn service(&mut self, name: &PortName, routed: &Routed) {
        let service = &routed.service;
        let key = |ip: &IpAddr| format!("{ip} . {} . {}", service.protocol.nft(), service.port);
        self.element("cluster-ips", service.cluster_ip.to_string(), "");
        for target in routed.targets() {
            self.element("hairpin", format!("{0} . {0}", target.0), "");
        }

        let cluster_chain = chain_name("service", name);
        if service.uses_cluster() && !routed.cluster.is_empty() {
            self.balancer(&cluster_chain, name, routed, &routed.cluster, "");
        }
        let local_chain = chain_name("local", name);
        if service.uses_local() && !routed.local.is_empty() {
            self.balancer(&local_chain, name, routed, &routed.local, "local");
        }

        // Traffic to the cluster IP.
        let internal = if service.internal_local { &local_chain } else { &cluster_chain };
        if routed.internal().is_empty() {
            // A local policy without a local endpoint drops; without any endpoint the sender is told.
            let verdict = if routed.any { "drop" } else { "goto reject-chain" };
            self.element("no-endpoint-services", key(&service.cluster_ip), verdict);
        } else {
            let chain = self.internal_chain(name, routed, internal);
            self.element("service-ips", key(&service.cluster_ip), format!("goto {chain}"));
        }
        if service.is_external() {
            self.external(name, routed, &cluster_chain, &local_chain);
        }
    }

    /// Marks traffic to the cluster IP that comes from outside the pods' addresses.
    fn internal_chain(&mut self, name: &PortName, routed: &Routed, balancer: &str) -> String {
        let ip = self.family.nft();
        let address = routed.service.cluster_ip;
        let sources: Vec<String> =
            self.settings.cluster_cidrs.iter().filter(|net| self.family.holds(net)).map(ToString::to_string).collect();
        let rule = if self.settings.masquerade_all {
            Some(format!("{ip} daddr {address} jump mark-for-masquerade"))
        } else if sources.is_empty() {
            None
        } else {
            Some(format!("{ip} daddr {address} {ip} saddr != {{ {} }} jump mark-for-masquerade", sources.join(", ")))
        };
        let Some(rule) = rule else { return balancer.to_owned() };
        let chain = chain_name("internal", name);
        self.rules.chain(chain.clone()).rule(rule).rule(format!("goto {}", balancer));
        chain
    }

    /// Node port, load-balancer and external addresses.
    fn external(&mut self, name: &PortName, routed: &Routed, cluster_chain: &str, local_chain: &str) {
        let service = &routed.service;
        let ip = self.family.nft();
        let addresses: BTreeSet<IpAddr> = service.external_ips.union(&service.load_balancer_ips).copied().collect();
        let key = |ip: &IpAddr| format!("{ip} . {} . {}", service.protocol.nft(), service.port);
        let port_key = service.node_port.map(|port| format!("{} . {port}", service.protocol.nft()));

        let usable = !routed.external().is_empty() || (service.external_local && !routed.cluster.is_empty());
        let verdict = if usable {
            let chain = chain_name("external", name);
            let rules = self.rules.chain(chain.clone());
            if service.external_local {
                // Pods and this node itself are not outside: they may use every endpoint.
                for net in self.settings.cluster_cidrs.iter().filter(|net| self.family.holds(net)) {
                    if !routed.cluster.is_empty() {
                        rules.rule(format!("{ip} saddr {net} goto {}", cluster_chain));
                    }
                }
                if !routed.cluster.is_empty() {
                    rules.rule("fib saddr type local jump mark-for-masquerade");
                    rules.rule(format!("fib saddr type local goto {}", cluster_chain));
                }
                if !routed.local.is_empty() {
                    rules.rule(format!("goto {}", local_chain));
                }
            } else {
                rules.rule("jump mark-for-masquerade").rule(format!("goto {}", cluster_chain));
            }
            if service.external_local && !routed.cluster.is_empty() {
                // The cluster-wide balancer may exist for this chain alone.
                if !service.uses_cluster() {
                    self.balancer(cluster_chain, name, routed, &routed.cluster, "");
                    for target in &routed.cluster {
                        self.element("hairpin", format!("{0} . {0}", target.0), "");
                    }
                }
            }
            Some(format!("goto {chain}"))
        } else {
            None
        };
        for address in &addresses {
            match &verdict {
                Some(verdict) => self.element("service-ips", key(address), verdict.clone()),
                None => self.element("no-endpoint-services", key(address), "goto reject-chain"),
            }
        }
        if let Some(port_key) = port_key {
            match &verdict {
                Some(verdict) => self.element("service-nodeports", port_key, verdict.clone()),
                None => self.element("no-endpoint-nodeports", port_key, "goto reject-chain"),
            }
        }
        self.firewall(name, routed);
    }

    /// Only `loadBalancerSourceRanges` may use the load balancer's addresses.
    fn firewall(&mut self, name: &PortName, routed: &Routed) {
        let service = &routed.service;
        if service.source_ranges.is_empty() || service.load_balancer_ips.is_empty() {
            return;
        }
        let ip = self.family.nft();
        let chain = chain_name("firewall", name);
        let ranges: Vec<String> = service.source_ranges.iter().map(ToString::to_string).collect();
        self.rules.chain(chain.clone()).rule(format!("{ip} saddr != {{ {} }} drop", ranges.join(", ")));
        for address in &service.load_balancer_ips {
            let key = format!("{address} . {} . {}", service.protocol.nft(), service.port);
            self.element("firewall-ips", key, format!("goto {chain}"));
        }
    }

    /// The chain that picks one of `targets`, evenly at random or by the client's address.
    fn balancer(&mut self, chain: &str, name: &PortName, routed: &Routed, targets: &[Target], tag: &str) {
        let ip = self.family.nft();
        match routed.service.affinity {
            Affinity::None => {
                let protocol = routed.service.protocol.nft();
                let rule = match targets {
                    [target] => format!("meta l4proto {protocol} dnat to {}", socket(*target)),
                    many => {
                        let list: Vec<String> = many
                            .iter()
                            .enumerate()
                            .map(|(i, target)| format!("{i} : {} . {}", target.0, target.1))
                            .collect();
                        format!(
                            "meta l4proto {protocol} dnat {ip} addr . port to numgen random mod {} map {{ {} }}",
                            many.len(),
                            list.join(", ")
                        )
                    }
                };
                self.rules.chain(chain).rule(rule);
            }
            Affinity::ClientIp(timeout) => {
                let mut sticky = Vec::new();
                let mut choice = Vec::new();
                for (i, target) in targets.iter().enumerate() {
                    let key = format!("{name}/{}/{tag}", socket(*target));
                    let set = format!("affinity-{:08X}", fnv(&key));
                    let declaration = format!(
                        "type {}; flags dynamic,timeout; timeout {}s;",
                        self.family.address_type(),
                        timeout.as_secs()
                    );
                    self.rules.set(set.clone(), "set", declaration).dynamic = true;
                    let endpoint =
                        format!("endpoint-{:08X}-{}", fnv(&key), socket(*target).replace([':', '[', ']'], "_"));
                    self.rules.chain(endpoint.clone()).rule(format!("update @{set} {{ {ip} saddr }}")).rule(format!(
                        "meta l4proto {} dnat to {}",
                        routed.service.protocol.nft(),
                        socket(*target)
                    ));
                    sticky.push(format!("{ip} saddr @{set} goto {endpoint}"));
                    choice.push(format!("{i} : goto {endpoint}"));
                }
                let rules = self.rules.chain(chain);
                for rule in sticky {
                    rules.rule(rule);
                }
                rules.rule(format!("numgen random mod {} vmap {{ {} }}", targets.len(), choice.join(", ")));
            }
        }
    }
}

fn socket((ip, port): Target) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    }
}
