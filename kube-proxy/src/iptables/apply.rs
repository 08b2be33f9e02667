//! Both tables of one family: chains that all Services share are written whole, those of a Service when it changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{
    program::{IptablesError, Program, chains},
    render::{Fragment, Shared, is_own_chain, render},
};
use crate::{
    backend::{Applied, Backend, BackendError, ServiceChange, Surroundings},
    model::{Routed, ServiceKey},
    proxier::LARGE_CLUSTER,
    settings::Settings,
    sysctls,
};

/// A chain that nobody uses: when it is gone, somebody flushed the tables.
pub(super) const CANARY: &str = "KUBE-PROXY-CANARY";
pub(super) const FILTER: [&str; 5] =
    ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL"];
pub(super) const NAT: [&str; 4] = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"];
/// The kubelet's chain against packets that claim to be from loopback; it makes the same one.
const KUBELET_FIREWALL: &str = "KUBE-FIREWALL";

/// A rule that leads from one of the kernel's chains to one of ours.
pub(super) struct Jump {
    pub table: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    comment: &'static str,
    /// Only packets that begin a connection.
    new: bool,
}

const fn jump(table: &'static str, from: &'static str, to: &'static str, comment: &'static str, new: bool) -> Jump {
    Jump { table, from, to, comment, new }
}

pub(super) const JUMPS: [Jump; 12] = [
    jump("filter", "INPUT", "KUBE-EXTERNAL-SERVICES", "kubernetes externally-visible service portals", true),
    jump("filter", "FORWARD", "KUBE-EXTERNAL-SERVICES", "kubernetes externally-visible service portals", true),
    jump("filter", "INPUT", "KUBE-NODEPORTS", "kubernetes health check service ports", false),
    jump("filter", "FORWARD", "KUBE-SERVICES", "kubernetes service portals", true),
    jump("filter", "OUTPUT", "KUBE-SERVICES", "kubernetes service portals", true),
    jump("filter", "FORWARD", "KUBE-FORWARD", "kubernetes forwarding rules", false),
    jump("filter", "INPUT", "KUBE-PROXY-FIREWALL", "kubernetes load balancer firewall", true),
    jump("filter", "OUTPUT", "KUBE-PROXY-FIREWALL", "kubernetes load balancer firewall", true),
    jump("filter", "FORWARD", "KUBE-PROXY-FIREWALL", "kubernetes load balancer firewall", true),
    jump("nat", "OUTPUT", "KUBE-SERVICES", "kubernetes service portals", false),
    jump("nat", "PREROUTING", "KUBE-SERVICES", "kubernetes service portals", false),
    jump("nat", "POSTROUTING", "KUBE-POSTROUTING", "kubernetes postrouting rules", false),
];

impl Jump {
    /// Its arguments.
    pub(super) fn rule(&self) -> Vec<&'static str> {
        let state: &[&str] = if self.new { &["-m", "conntrack", "--ctstate", "NEW"] } else { &[] };
        [state, &["-m", "comment", "--comment", self.comment, "-j", self.to]].concat()
    }
}

/// One family's tables.
pub(crate) struct Iptables {
    settings: Settings,
    program: Program,
    /// What each Service has in shared chains.
    shared: BTreeMap<ServiceKey, Shared>,
    large: bool,
}

impl Iptables {
    /// Nothing is done yet.
    pub(crate) fn new(settings: Settings) -> Self {
        let program = Program(settings.family);
        Self { settings, program, shared: BTreeMap::new(), large: false }
    }

    fn ensure_jumps(&self) -> Result<(), IptablesError> {
        for table in ["mangle", "nat", "filter"] {
            self.program.ensure_chain(table, CANARY)?;
        }
        for jump in &JUMPS {
            self.program.ensure_chain(jump.table, jump.to)?;
            self.program.ensure_rule(jump.table, jump.from, &jump.rule())?;
        }
        self.program.ensure_chain("filter", KUBELET_FIREWALL)?;
        for from in ["INPUT", "OUTPUT"] {
            self.program.ensure_rule("filter", from, &["-j", KUBELET_FIREWALL])?;
        }
        Ok(())
    }

    fn filter(&self) -> (String, usize) {
        let mut text = String::from("*filter\n");
        for chain in FILTER {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        let mut rules = String::new();
        if self.settings.localhost_node_ports {
            let _ = writeln!(text, ":{KUBELET_FIREWALL} - [0:0]");
            // route_localnet, which node ports on loopback need, lets others reach 127.0.0.1: not so.
            let _ = writeln!(
                rules,
                "-A {KUBELET_FIREWALL} -m comment --comment \"block incoming localnet connections\" -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
            );
        }
        for shared in self.shared.values() {
            shared.filter.iter().for_each(|lines| rules.push_str(lines));
        }
        // Packets of unknown connections would make the peers reset theirs, unless the kernel is liberal.
        if sysctls::read("net/netfilter/nf_conntrack_tcp_be_liberal").unwrap_or(0) == 0 {
            rules.push_str("-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n");
        }
        let mark = self.mark();
        let _ = writeln!(
            rules,
            "-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark {mark}/{mark} -j ACCEPT"
        );
        rules.push_str("-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n");
        text.push_str(&rules);
        text.push_str("COMMIT\n");
        (text, rules.lines().count())
    }

    fn mark(&self) -> String {
        format!("{:#010x}", self.settings.mark)
    }

    /// The table nat: shared chains, these chains anew, those deleted.
    fn nat(&self, written: &BTreeMap<String, Vec<String>>, deleted: &BTreeSet<String>) -> (String, usize) {
        let mark = self.mark();
        let mut text = String::from("*nat\n");
        let names = NAT.into_iter().chain(written.keys().map(String::as_str)).chain(deleted.iter().map(String::as_str));
        for chain in names {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        let mut rules = format!(
            "-A KUBE-POSTROUTING -m mark ! --mark {mark}/{mark} -j RETURN\n-A KUBE-POSTROUTING -j MARK --xor-mark {mark}\n-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n-A KUBE-MARK-MASQ -j MARK --or-mark {mark}\n"
        );
        for shared in self.shared.values() {
            shared.nat.iter().for_each(|lines| rules.push_str(lines));
        }
        for (chain, lines) in written {
            for line in lines {
                let _ = writeln!(rules, "-A {chain} {line}");
            }
        }
        let count = rules.lines().count();
        for chain in deleted {
            let _ = writeln!(rules, "-X {chain}");
        }
        // Last of all, after the Services' own addresses.
        for destination in self.node_ports() {
            let _ = writeln!(
                rules,
                "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" {destination} -j KUBE-NODEPORTS"
            );
        }
        text.push_str(&rules);
        text.push_str("COMMIT\n");
        (text, count)
    }

    /// Matches of the addresses on which node ports answer.
    fn node_ports(&self) -> Vec<String> {
        let v6 = self.settings.family.is_v6();
        if self.settings.node_ports.match_all() {
            let but = match (v6, self.settings.localhost_node_ports) {
                (true, _) => " ! -d ::1/128",
                (false, false) => " ! -d 127.0.0.0/8",
                (false, true) => "",
            };
            return vec![format!("-m addrtype --dst-type LOCAL{but}")];
        }
        let mut all = self.settings.node_ports.node_ips();
        all.retain(|ip| {
            let supported = !ip.is_loopback() || self.settings.localhost_node_ports;
            if !supported {
                tracing::error!(address = %ip, "--nodeport-addresses includes localhost, where node ports are not supported");
            }
            supported
        });
        all.into_iter().map(|ip| format!("-d {ip}")).collect()
    }

    /// Writes both tables.
    fn write(
        &self,
        written: &BTreeMap<String, Vec<String>>,
        deleted: &BTreeSet<String>,
    ) -> Result<Applied, IptablesError> {
        let (filter, filter_rules) = self.filter();
        let (nat, nat_rules) = self.nat(written, deleted);
        self.program.restore(&(filter + &nat))?;
        let written: usize = written.values().map(Vec::len).sum();
        let all: usize = self.shared.values().map(|shared| shared.own).sum();
        let rules = [(filter_rules, filter_rules), (nat_rules - written + all, nat_rules)];
        Ok(Applied { rules: Some(rules), ..Applied::default() })
    }

    fn note(&mut self, service: &ServiceKey, fragment: &Fragment) {
        if *fragment == Fragment::default() {
            self.shared.remove(service);
        } else {
            self.shared.insert(service.clone(), fragment.shared.clone());
        }
    }
}

impl Backend for Iptables {
    fn full(&mut self, all: &[Routed], around: &Surroundings) -> Result<Applied, BackendError> {
        self.ensure_jumps()?;
        self.large = around.endpoints > LARGE_CLUSTER;
        self.shared.clear();
        let mut written = BTreeMap::new();
        for ports in all.chunk_by(|one, other| one.name.service == other.name.service) {
            let fragment = render(ports, &self.settings, self.large);
            self.note(&ports[0].name.service, &fragment);
            written.extend(fragment.chains);
        }
        let saved = self.program.save("nat")?;
        let stale = chains(&saved).into_iter().filter(|name| is_own_chain(name) && !written.contains_key(*name));
        let deleted = stale.map(str::to_owned).collect();
        Ok(self.write(&written, &deleted)?)
    }

    fn partial(&mut self, changed: &[ServiceChange], around: &Surroundings) -> Result<Applied, BackendError> {
        self.large = around.endpoints > LARGE_CLUSTER;
        let (mut written, mut deleted) = (BTreeMap::new(), BTreeSet::new());
        for change in changed {
            let fragment = render(&change.new, &self.settings, self.large);
            self.note(&change.service, &fragment);
            deleted.extend(render(&change.old, &self.settings, self.large).chains.into_keys());
            written.extend(fragment.chains);
        }
        deleted.retain(|name| !written.contains_key(name));
        Ok(self.write(&written, &deleted)?)
    }

    fn is_intact(&mut self) -> bool {
        let exists = |table: &str| self.program.succeeds(&["-t", table, "-S", CANARY, "1"]);
        ["mangle", "nat", "filter"].into_iter().all(|table| exists(table).unwrap_or(true))
    }
}
