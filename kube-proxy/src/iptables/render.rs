//! From routing to rules. Chains and their names are upstream's.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    model::{PortName, Routed, Target},
    names,
    settings::Settings,
};

/// Chains of one service port start with one of these.
const OWN: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-"];

/// Whether a chain belongs to one service port.
pub(super) fn is_own_chain(name: &str) -> bool {
    OWN.iter().any(|prefix| name.starts_with(prefix))
}

/// What one Service adds to chains that all share: those are written whole every time, so this is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shared {
    /// KUBE-SERVICES, KUBE-NODEPORTS of the table nat.
    pub nat: [String; 2],
    /// KUBE-SERVICES, KUBE-EXTERNAL-SERVICES, KUBE-NODEPORTS, KUBE-PROXY-FIREWALL of the table filter.
    pub filter: [String; 4],
    /// Rules in chains of its own.
    pub own: usize,
}

/// What one Service adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fragment {
    pub shared: Shared,
    /// Chains of its own in the table nat.
    pub chains: BTreeMap<String, Vec<String>>,
}

/// Indexes of [`Shared`].
const NAT_SERVICES: usize = 0;
const NAT_NODE_PORTS: usize = 1;
const FILTER_SERVICES: usize = 0;
const FILTER_EXTERNAL: usize = 1;
const FILTER_NODE_PORTS: usize = 2;
const FILTER_FIREWALL: usize = 3;

fn own(prefix: &str, name: &PortName) -> String {
    format!("{prefix}{}", names::hash(&format!("{name}{}", name.protocol.as_str()), 16))
}

fn socket((ip, port): Target) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    }
}

/// Renders one Service: all of its ports in one family. A `large` cluster does without comments on endpoints.
pub(super) fn render(ports: &[Routed], settings: &Settings, large: bool) -> Fragment {
    let mut fragment = Fragment::default();
    for routed in ports {
        Renderer { fragment: &mut fragment, settings, routed, large }.port();
    }
    fragment.shared.own = fragment.chains.values().map(Vec::len).sum();
    fragment
}

struct Renderer<'a> {
    fragment: &'a mut Fragment,
    settings: &'a Settings,
    routed: &'a Routed,
    large: bool,
}

impl Renderer<'_> {
    fn nat(&mut self, chain: usize, rule: &str) {
        let name = ["KUBE-SERVICES", "KUBE-NODEPORTS"][chain];
        self.fragment.shared.nat[chain].push_str(&format!("-A {name} {rule}\n"));
    }

    fn filter(&mut self, chain: usize, rule: &str) {
        let name = ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL"][chain];
        self.fragment.shared.filter[chain].push_str(&format!("-A {name} {rule}\n"));
    }

    fn chain(&mut self, name: &str) -> &mut Vec<String> {
        self.fragment.chains.entry(name.to_owned()).or_default()
    }

    /// Matches packets to an address and this service port.
    fn to(&self, ip: IpAddr) -> String {
        let protocol = self.routed.name.protocol.as_str();
        format!("-m {protocol} -p {protocol} -d {ip} --dport {}", self.routed.service.port)
    }

    fn comment(&self, text: &str) -> String {
        format!("-m comment --comment \"{} {text}\"", self.routed.name)
    }

    fn port(&mut self) {
        let Routed { name, service, choice } = self.routed;
        let cluster = own("KUBE-SVC-", name);
        let local = own("KUBE-SVL-", name);
        // Chains first: rules for their heads come before those that pick an endpoint.
        let internal = if service.internal_local { local.clone() } else { cluster.clone() };
        let to = self.to(service.cluster_ip);
        if self.routed.has_internal() {
            let comment = self.comment("cluster IP");
            self.nat(NAT_SERVICES, &format!("{comment} {to} -j {internal}"));
            let outsider = if self.settings.masquerade_all {
                Some(String::new())
            } else {
                self.settings.detector.iptables(false).map(|rule| rule + " ")
            };
            if let Some(outsider) = outsider {
                self.chain(&internal).push(format!("{comment} {to} {outsider}-j KUBE-MARK-MASQ"));
            }
        } else {
            let (comment, verdict) = self.unanswered();
            self.filter(FILTER_SERVICES, &format!("{comment} {to} -j {verdict}"));
        }
        self.external(&cluster, &local);
        if !choice.cluster.is_empty() && service.uses_cluster() {
            self.pick(&cluster, &choice.cluster);
        }
        if !choice.local.is_empty() && service.uses_local() {
            self.pick(&local, &choice.local);
        }
        let mut all: Vec<Target> = choice.cluster.iter().chain(&choice.local).copied().collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().for_each(|target| self.endpoint(target));
    }

    /// Nobody at all answers: tell the sender. Only a local policy is in the way: be silent.
    fn unanswered(&self) -> (String, &'static str) {
        if self.routed.choice.any {
            (self.comment("has no local endpoints"), "DROP")
        } else {
            (self.comment("has no endpoints"), "REJECT")
        }
    }

    /// Node port, load-balancer and external addresses.
    fn external(&mut self, cluster: &str, local: &str) {
        let Routed { name, service, choice } = self.routed;
        let Some(external) = &service.external else { return };
        let chain = own("KUBE-EXT-", name);
        let firewall = own("KUBE-FW-", name);
        let filtered = choice.any && !external.load_balancer_ips.is_empty() && !external.source_ranges.is_empty();
        let answered = self.routed.has_external();
        let (unanswered, verdict) = self.unanswered();
        for ip in &external.external_ips {
            let (to, comment) = (self.to(*ip), self.comment("external IP"));
            if choice.any {
                self.nat(NAT_SERVICES, &format!("{comment} {to} -j {chain}"));
            }
            if !answered {
                self.filter(FILTER_EXTERNAL, &format!("{unanswered} {to} -j {verdict}"));
            }
        }
        for ip in &external.load_balancer_ips {
            let (to, comment) = (self.to(*ip), self.comment("loadbalancer IP"));
            if choice.any {
                let target = if filtered { &firewall } else { &chain };
                self.nat(NAT_SERVICES, &format!("{comment} {to} -j {target}"));
            }
            if filtered {
                let comment = self.comment(&format!("traffic not accepted by {firewall}"));
                self.filter(FILTER_FIREWALL, &format!("{comment} {to} -j DROP"));
            }
            if !answered {
                self.filter(FILTER_EXTERNAL, &format!("{unanswered} {to} -j {verdict}"));
            }
        }
        if let Some(port) = external.node_port {
            let protocol = name.protocol.as_str();
            let to = format!("-m {protocol} -p {protocol} --dport {port}");
            if choice.any {
                self.nat(NAT_NODE_PORTS, &format!("-m comment --comment {name} {to} -j {chain}"));
            }
            if !answered {
                let rule = format!("{unanswered} -m addrtype --dst-type LOCAL {to} -j {verdict}");
                self.filter(FILTER_EXTERNAL, &rule);
            }
        }
        if let Some(port) = external.health_check_node_port {
            let comment = self.comment("health check node port");
            self.filter(FILTER_NODE_PORTS, &format!("{comment} -m tcp -p tcp --dport {port} -j ACCEPT"));
        }
        if choice.any && service.is_external() {
            let rules = self.external_rules(cluster, local, answered);
            *self.chain(&chain) = rules;
        }
        if filtered {
            let rules = self.firewall_rules(&chain);
            *self.chain(&firewall) = rules;
        }
    }

    fn external_rules(&self, cluster: &str, local: &str, answered: bool) -> Vec<String> {
        let name = &self.routed.name;
        let comment =
            |before: &str| format!("-m comment --comment \"{before} traffic for {name} external destinations\"");
        if !self.routed.service.external_local() {
            return vec![format!("{} -j KUBE-MARK-MASQ", comment("masquerade")), format!("-j {cluster}")];
        }
        let mut rules = Vec::new();
        // Pods and this node itself are not outside: they may use every endpoint, as if they had gone out and come back.
        if let Some(pods) = self.settings.detector.iptables(true) {
            rules.push(format!("{} {pods} -j {cluster}", comment("pod")));
        }
        rules.push(format!("{} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ", comment("masquerade LOCAL")));
        rules.push(format!("{} -m addrtype --src-type LOCAL -j {cluster}", comment("route LOCAL")));
        if answered {
            rules.push(format!("-j {local}"));
        }
        rules
    }

    /// Only `loadBalancerSourceRanges` come further; the rest is dropped by KUBE-PROXY-FIREWALL, being untranslated.
    fn firewall_rules(&self, next: &str) -> Vec<String> {
        let Some(external) = &self.routed.service.external else { return Vec::new() };
        let comment = self.comment("loadbalancer IP");
        let ranges = external.source_ranges.iter().map(ToString::to_string);
        let allows_node = external.source_ranges.iter().any(|net| net.contains(&self.settings.node_ip));
        // The load balancer's address may be one of this node's: then it is the source of the node's own requests.
        let own = external.load_balancer_ips.iter().filter(|_| allows_node).map(ToString::to_string);
        let mut rules: Vec<String> =
            ranges.chain(own).map(|source| format!("{comment} -s {source} -j {next}")).collect();
        rules.push(format!(
            "-m comment --comment \"other traffic to {} will be dropped by KUBE-PROXY-FIREWALL\"",
            self.routed.name
        ));
        rules
    }

    fn endpoint_chain(&self, target: Target) -> String {
        let name = &self.routed.name;
        let text = format!("{name}{}{}", name.protocol.as_str(), socket(target));
        format!("KUBE-SEP-{}", names::hash(&text, 16))
    }

    /// Clients that came lately go where they went; others are drawn a lot.
    fn pick(&mut self, chain: &str, targets: &[Target]) {
        let comment = |target: Target| {
            if self.large { String::new() } else { self.comment(&format!("-> {}", socket(target))) + " " }
        };
        let mut rules = Vec::new();
        if let Some(seconds) = self.routed.service.affinity {
            for target in targets {
                let (next, comment) = (self.endpoint_chain(*target), comment(*target));
                rules.push(format!("{comment}-m recent --name {next} --rcheck --seconds {seconds} --reap -j {next}"));
            }
        }
        for (at, target) in targets.iter().enumerate() {
            let left = targets.len() - at;
            let lot = if left > 1 {
                format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64)
            } else {
                String::new()
            };
            rules.push(format!("{}{lot}-j {}", comment(*target), self.endpoint_chain(*target)));
        }
        self.chain(chain).extend(rules);
    }

    fn endpoint(&mut self, target: Target) {
        let chain = self.endpoint_chain(target);
        let name = &self.routed.name;
        let comment = if self.large { String::new() } else { format!("-m comment --comment {name} ") };
        let protocol = name.protocol.as_str();
        let remember = match self.routed.service.affinity {
            Some(_) => format!("-m recent --name {chain} --set "),
            None => String::new(),
        };
        let rules = vec![
            format!("{comment}-s {} -j KUBE-MARK-MASQ", target.0),
            format!("{comment}{remember}-m {protocol} -p {protocol} -j DNAT --to-destination {}", socket(target)),
        ];
        *self.chain(&chain) = rules;
    }
}
