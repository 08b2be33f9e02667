//! From routing to the table's content. docs/kube-proxy.md shows a packet's way through it.
//!
//! The names of what upstream has too are upstream's. Different is how an endpoint is picked: upstream gives every
//! service port a chain with a map of its own, and the kernel's time to make those grows with the square of their
//! number. Here all endpoints live in one map, under the service's address and a number; the few chains that draw the
//! number are shared by all service ports with as many endpoints. Only local policies and affinity need own chains.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::element::{Address, Key, Value};
use crate::{
    model::{Family, Routed, Target},
    names,
    settings::Settings,
};

/// What one Service adds to the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fragment {
    /// Chains of its own with their rules.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Chains that many share; they stay.
    pub shared: BTreeMap<String, Vec<String>>,
    /// Sets of clients with the seconds for which they stick to an endpoint.
    pub affinity: BTreeMap<String, u32>,
    pub elements: BTreeMap<Key, Value>,
}

/// nft's word for the family's header.
pub(super) fn ip(settings: &Settings) -> &'static str {
    if settings.family.is_v6() { "ip6" } else { "ip" }
}

fn masquerade(settings: &Settings) -> String {
    format!("mark set mark or {:#010x}", settings.mark)
}

/// Hooks and the chains that every packet may pass, in order: (chain, hook or nothing, rules).
pub(super) fn skeleton(
    settings: &Settings,
    service_cidrs: &[IpNet],
    node_port_ips: Option<&[IpAddr]>,
) -> Vec<(&'static str, &'static str, Vec<String>)> {
    let ip = ip(settings);
    let mark = format!("{:#010x}", settings.mark);
    let no_loopback = if settings.family.is_v6() { "ip6 daddr != ::1" } else { "ip daddr != 127.0.0.0/8" };
    let rule = |text: &str| vec![text.to_owned()];
    let rules = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let by_address = format!("{ip} daddr . meta l4proto . th dport vmap");
    let (ports, ports_unanswered) = match node_port_ips {
        None => (format!("fib daddr type local {no_loopback}"), no_loopback.to_owned()),
        Some(_) => (format!("{ip} daddr @nodeport-ips"), format!("{ip} daddr @nodeport-ips")),
    };
    let mut services = Vec::new();
    let outsider = if settings.masquerade_all { Some(String::new()) } else { settings.detector.nft(false) };
    if let Some(outsider) = outsider {
        services.push(format!("{ip} daddr @cluster-ips {outsider} {}", masquerade(settings)));
    }
    services.push(format!("{by_address} @service-ips"));
    services.push(format!("{ports} meta l4proto . th dport vmap @service-nodeports"));
    // A cluster IP that was not translated has no such port; other addresses of the range are nobody's.
    let mut check =
        vec![format!("{ip} daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\"")];
    let ours = |net: &&IpNet| Family::of(net.addr()) == settings.family;
    let cidrs: Vec<IpNet> = service_cidrs.iter().filter(ours).copied().collect();
    if !cidrs.is_empty() {
        check
            .push(format!("{ip} daddr {{ {} }} drop comment \"Drop traffic to unallocated ClusterIPs\"", list(&cidrs)));
    }
    let unmark = format!("mark and {mark} != 0 mark set mark xor {mark} masquerade fully-random");
    let hairpin = format!(
        "ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random"
    );
    vec![
        (
            "filter-prerouting-pre-dnat",
            "filter hook prerouting priority -110",
            rule("ct state new jump firewall-check"),
        ),
        ("filter-output-pre-dnat", "filter hook output priority -110", rule("ct state new jump firewall-check")),
        (
            "filter-input",
            "filter hook input priority 0",
            rules(&["ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"]),
        ),
        (
            "filter-forward",
            "filter hook forward priority 0",
            rules(&["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"]),
        ),
        (
            "filter-output",
            "filter hook output priority 0",
            rules(&["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"]),
        ),
        ("nat-prerouting", "nat hook prerouting priority -100", rule("jump services")),
        ("nat-output", "nat hook output priority -100", rule("jump services")),
        ("nat-postrouting", "nat hook postrouting priority 100", rule("jump masquerading")),
        ("services", "", services),
        ("service-endpoints-check", "", vec![format!("{by_address} @no-endpoint-services")]),
        (
            "nodeport-endpoints-check",
            "",
            vec![format!("{ports_unanswered} meta l4proto . th dport vmap @no-endpoint-nodeports")],
        ),
        ("reject-chain", "", rule("reject")),
        ("firewall-check", "", vec![format!("{by_address} @firewall-ips")]),
        ("masquerading", "", vec![unmark, hairpin]),
        ("cluster-ips-check", "", check),
    ]
}

/// Names of a service port's own chains.
struct Chains {
    cluster: String,
    local: String,
    external: String,
}

/// `HASH-namespace/name/protocol/port`, as upstream's.
fn base(routed: &Routed) -> String {
    let name = &routed.name;
    format!("{}/{}/{}", name.service, name.protocol.as_str(), name.port)
}

fn hashed(text: &str) -> String {
    // The kernel's limit is 255 characters; upstream keeps 16 for the prefix.
    let mut name = format!("{}-{text}", names::hash(text, 8));
    if name.len() > 240 {
        name.truncate(237);
        name.push_str("...");
    }
    name
}

/// Renders one Service: all of its ports in one family.
pub(super) fn render(ports: &[Routed], settings: &Settings) -> Fragment {
    let mut fragment = Fragment::default();
    for routed in ports {
        Renderer { fragment: &mut fragment, settings, routed }.port();
    }
    fragment
}

struct Renderer<'a> {
    fragment: &'a mut Fragment,
    settings: &'a Settings,
    routed: &'a Routed,
}

impl Renderer<'_> {
    fn port(&mut self) {
        let Routed { name, service, choice } = self.routed;
        let cluster_ip = (service.cluster_ip, name.protocol, service.port);
        self.element(Key::ClusterIp(service.cluster_ip), Value::None);
        for (ip, port) in &choice.here {
            self.element(Key::Hairpin((*ip, name.protocol, *port)), Value::None);
        }
        // Simple: every address leads to the same endpoints, for everybody, at random.
        let simple = service.affinity.is_none() && !service.uses_local();
        let chains = (!simple).then(|| self.own_chains());
        if self.routed.has_internal() {
            let chain = match &chains {
                None => self.balance(cluster_ip, true, false),
                Some(chains) if service.internal_local => chains.local.clone(),
                Some(chains) => chains.cluster.clone(),
            };
            self.element(Key::ServiceIp(cluster_ip), Value::Goto(chain));
        } else {
            let verdict = self.unanswered();
            self.element(Key::NoEndpointIp(cluster_ip), verdict);
        }
        if service.is_external() {
            self.external(chains.as_ref());
        }
    }

    fn element(&mut self, key: Key, value: Value) {
        // Two ports of one Service may be the same but for their names: the first one is served.
        self.fragment.elements.entry(key).or_insert(value);
    }

    /// Nobody at all answers: tell the sender. Only a local policy is in the way: be silent.
    fn unanswered(&self) -> Value {
        if self.routed.choice.any { Value::Drop } else { Value::Goto("reject-chain".into()) }
    }

    /// Puts the endpoints behind an address; gives the shared chain that picks one of them.
    fn balance(&mut self, address: Address, cluster_ip: bool, masquerade: bool) -> String {
        for (number, target) in (0..).zip(&self.routed.choice.cluster) {
            let key = if cluster_ip { Key::ClusterEndpoint } else { Key::ExternalEndpoint };
            self.element(key(address, number), Value::Endpoint(*target));
        }
        self.shared(if masquerade { "balance-masquerade" } else { "balance" }, "service-endpoints", masquerade)
    }

    fn balance_node_port(&mut self, port: u16) -> String {
        let protocol = self.routed.name.protocol;
        for (number, target) in (0..).zip(&self.routed.choice.cluster) {
            self.element(Key::NodePortEndpoint(protocol, port, number), Value::Endpoint(*target));
        }
        self.shared("balance-nodeport", "nodeport-endpoints", true)
    }

    fn shared(&mut self, kind: &str, map: &str, marks: bool) -> String {
        let (protocol, count) = (self.routed.name.protocol.as_str(), self.routed.choice.cluster.len());
        let name = format!("{kind}-{protocol}-{count}");
        let settings = self.settings;
        self.fragment.shared.entry(name.clone()).or_insert_with(|| {
            let mark = marks.then(|| masquerade(settings));
            let ip = ip(settings);
            let address = if map == "service-endpoints" { format!("{ip} daddr . ") } else { String::new() };
            let pick = format!(
                "meta l4proto {protocol} dnat {ip} addr . port to {address}{protocol} dport . numgen random mod {count} map @{map}-{protocol}"
            );
            mark.into_iter().chain([pick]).collect()
        });
        name
    }

    /// Chains that pick an endpoint for this service port alone.
    fn own_chains(&mut self) -> Chains {
        let base = hashed(&base(self.routed));
        let chains = Chains {
            cluster: format!("service-{base}"),
            local: format!("local-{base}"),
            external: format!("external-{base}"),
        };
        let choice = &self.routed.choice;
        for (name, targets) in [(&chains.cluster, &choice.cluster), (&chains.local, &choice.local)] {
            if !targets.is_empty() {
                let rules = match self.routed.service.affinity {
                    None => vec![self.pick(targets)],
                    Some(seconds) => self.pick_sticky(targets, seconds),
                };
                self.fragment.chains.insert(name.clone(), rules);
            }
        }
        chains
    }

    fn pick(&self, targets: &[Target]) -> String {
        let list: Vec<String> =
            targets.iter().enumerate().map(|(number, (ip, port))| format!("{number} : {ip} . {port}")).collect();
        format!(
            "meta l4proto {} dnat {} addr . port to numgen random mod {} map {{ {} }}",
            self.routed.name.protocol.as_str(),
            ip(self.settings),
            targets.len(),
            list.join(", ")
        )
    }

    /// Each endpoint has a set of its clients, which is asked first, and a chain that adds to it.
    fn pick_sticky(&mut self, targets: &[Target], seconds: u32) -> Vec<String> {
        let ip = ip(self.settings);
        let (mut rules, mut choices) = (Vec::new(), Vec::new());
        for (number, target) in targets.iter().enumerate() {
            let address = target.0.to_string().replace(':', ".");
            let base = hashed(&format!("{}__{address}/{}", base(self.routed), target.1));
            let (set, endpoint) = (format!("affinity-{base}"), format!("endpoint-{base}"));
            let protocol = self.routed.name.protocol.as_str();
            self.fragment.chains.insert(
                endpoint.clone(),
                vec![
                    format!("update @{set} {{ {ip} saddr }}"),
                    format!("meta l4proto {protocol} dnat to {}", socket(*target)),
                ],
            );
            rules.push(format!("{ip} saddr @{set} goto {endpoint}"));
            choices.push(format!("{number} : goto {endpoint}"));
            self.fragment.affinity.insert(set, seconds);
        }
        rules.push(format!("numgen random mod {} vmap {{ {} }}", targets.len(), choices.join(", ")));
        rules
    }

    /// Node port, load-balancer and external addresses.
    fn external(&mut self, chains: Option<&Chains>) {
        let Routed { name, service, choice } = self.routed;
        let addresses: Vec<Address> =
            service.external_addresses().map(|ip| (ip, name.protocol, service.port)).collect();
        if choice.any {
            if let Some(chains) = chains {
                let rules = self.external_rules(chains);
                self.fragment.chains.insert(chains.external.clone(), rules);
            }
            for address in &addresses {
                let chain = match chains {
                    Some(chains) => chains.external.clone(),
                    None => self.balance(*address, false, true),
                };
                self.element(Key::ServiceIp(*address), Value::Goto(chain));
            }
            if let Some(port) = service.node_port() {
                let chain = match chains {
                    Some(chains) => chains.external.clone(),
                    None => self.balance_node_port(port),
                };
                self.element(Key::NodePort(name.protocol, port), Value::Goto(chain));
            }
        }
        // Also with endpoints elsewhere: what the external chain lets through has nowhere to go.
        if !self.routed.has_external() {
            let verdict = self.unanswered();
            for address in &addresses {
                self.element(Key::NoEndpointIp(*address), verdict.clone());
            }
            if let Some(port) = service.node_port() {
                self.element(Key::NoEndpointNodePort(name.protocol, port), verdict);
            }
        }
        self.firewall();
    }

    fn external_rules(&self, chains: &Chains) -> Vec<String> {
        let mark = masquerade(self.settings);
        if !self.routed.service.external_local() {
            return vec![mark, format!("goto {}", chains.cluster)];
        }
        let mut rules = Vec::new();
        // Pods and this node itself are not outside: they may use every endpoint, as if they had gone out and come back.
        if let Some(local) = self.settings.detector.nft(true) {
            rules.push(format!("{local} goto {}", chains.cluster));
        }
        rules.push(format!("fib saddr type local {mark}"));
        rules.push(format!("fib saddr type local goto {}", chains.cluster));
        if self.routed.has_external() {
            rules.push(format!("goto {}", chains.local));
        }
        rules
    }

    /// Only `loadBalancerSourceRanges` may use the load balancer's addresses.
    fn firewall(&mut self) {
        let Routed { name, service, .. } = self.routed;
        let Some(external) = &service.external else { return };
        if external.source_ranges.is_empty() || external.load_balancer_ips.is_empty() {
            return;
        }
        let mut sources = external.source_ranges.clone();
        // The load balancer's address may be one of this node's: then it is the source of the node's own requests.
        if sources.iter().any(|net| net.contains(&self.settings.node_ip)) {
            sources.extend(external.load_balancer_ips.iter().copied().map(IpNet::from));
        }
        let chain = format!("firewall-{}", hashed(&base(self.routed)));
        let rule = format!("{} saddr != {{ {} }} drop", ip(self.settings), list(&sources));
        self.fragment.chains.insert(chain.clone(), vec![rule]);
        for ip in &external.load_balancer_ips {
            self.element(Key::FirewallIp((*ip, name.protocol, service.port)), Value::Goto(chain.clone()));
        }
    }
}

/// Networks for an anonymous set, which must not overlap.
fn list(nets: &[IpNet]) -> String {
    let nets = IpNet::aggregate(&nets.to_vec());
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn socket((ip, port): Target) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    }
}

/// All service ports of one Service stand together: splits the list into Services.
pub(super) fn by_service(all: &[Routed]) -> impl Iterator<Item = &[Routed]> {
    all.chunk_by(|one, other| one.name.service == other.name.service)
}
