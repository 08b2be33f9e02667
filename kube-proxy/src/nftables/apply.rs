//! One family's table: made whole, kept up to date by differences, looked after.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    TABLE,
    changes::{Changes, affinity_set},
    claims::Claims,
    element::{CONTAINERS, Key, Value},
    kernel::{Deletion, Kernel, NftError, digest_of, run},
    render::{Fragment, by_service, ip, render, skeleton},
};
use crate::{
    backend::{Applied, Backend, BackendError, ServiceChange, Surroundings},
    model::Routed,
    settings::Settings,
};

/// Elements that one transaction of a complete sync changes.
const TRANSACTION: usize = 32_768;
/// Kernels before 6.2 notice only later that nothing leads to a chain any more.
const DELETE_AFTER: Duration = Duration::from_secs(1);
/// Chains that a flushed table does not have, or has without rules.
const WITNESSES: [&str; 3] = ["nat-prerouting", "services", "nat-postrouting"];

/// One family's table and what is known about it.
pub(crate) struct Nft {
    settings: Settings,
    table: String,
    kernel: Option<Kernel>,
    claims: Claims,
    /// Shared chains that exist.
    shared: BTreeSet<String>,
    /// Emptied chains and since when.
    stale: BTreeMap<String, Instant>,
    rules: usize,
    first: bool,
}

impl Nft {
    /// Nothing is done yet.
    pub(crate) fn new(settings: Settings) -> Self {
        let table = format!("{} {TABLE}", ip(&settings));
        Self {
            settings,
            table,
            kernel: None,
            claims: Claims::default(),
            shared: BTreeSet::new(),
            stale: BTreeMap::new(),
            rules: 0,
            first: true,
        }
    }

    fn kernel(&mut self) -> Result<&mut Kernel, NftError> {
        if self.kernel.is_none() {
            self.kernel = Some(Kernel::open(self.settings.family)?);
        }
        self.kernel.as_mut().ok_or_else(|| NftError::Refused("no socket".into()))
    }

    fn address_type(&self) -> &'static str {
        if self.settings.family.is_v6() { "ipv6_addr" } else { "ipv4_addr" }
    }

    /// The script for everything but elements. Safe to run on a table that is in use: what is there stays or is replaced
    /// within the one transaction.
    fn frame(&mut self, own: &Fragment, around: &Surroundings) -> String {
        let table = &self.table;
        let mut script = format!("add table {table} {{ comment \"rules for kube-proxy\"; }}\n");
        let addresses = (!self.settings.node_ports.match_all()).then(|| self.settings.node_ports.node_ips());
        node_port_ips(&mut script, table, self.address_type(), addresses.as_deref());
        for container in &CONTAINERS {
            let _ = writeln!(script, "{}", container.declaration(self.settings.family, table));
        }
        let chains = skeleton(&self.settings, &around.service_cidrs, addresses.as_deref());
        for (name, hook, _) in &chains {
            if !hook.is_empty() && self.first {
                // A chain's hook and priority cannot be changed: whoever left it may have had others.
                let _ = writeln!(script, "add chain {table} {name}\ndelete chain {table} {name}");
            }
            let hook = if hook.is_empty() { String::new() } else { format!(" {{ type {hook}; }}") };
            let _ = writeln!(script, "add chain {table} {name}{hook}\nflush chain {table} {name}");
        }
        self.shared.clear();
        self.shared.extend(own.shared.keys().cloned());
        for name in own.shared.keys().chain(own.chains.keys()) {
            let _ = writeln!(script, "add chain {table} {name}\nflush chain {table} {name}");
        }
        for (name, seconds) in &own.affinity {
            let _ = writeln!(script, "{}", affinity_set(table, name, self.address_type(), *seconds));
        }
        let own = own.shared.iter().chain(&own.chains).map(|(name, rules)| (&**name, rules));
        for (name, rules) in chains.iter().map(|(name, _, rules)| (*name, rules)).chain(own) {
            for rule in rules {
                let _ = writeln!(script, "add rule {table} {name} {rule}");
            }
        }
        script
    }

    /// Makes the containers hold exactly these Services' elements.
    fn reconcile(&mut self, all: &[Routed]) -> Result<(), NftError> {
        let mut stored = self.kernel()?.elements()?;
        self.claims.clear();
        let (mut delete, mut add): (Vec<Deletion>, Vec<(Key, Value)>) = (Vec::new(), Vec::new());
        for ports in by_service(all) {
            let owner = &ports[0].name.service;
            for (key, value) in render(ports, &self.settings).elements {
                if !key.is_exclusive() && !self.claims.acquire(key, owner, &value) {
                    continue;
                }
                let id = (key.container().name, key.bytes());
                match stored.remove(&id) {
                    Some(digest) if digest == digest_of(&value) => continue,
                    Some(_) => delete.push(id),
                    None => {}
                }
                add.push((key, value));
            }
            if add.len() + delete.len() >= TRANSACTION {
                self.kernel()?.change(&delete, &add)?;
                delete.clear();
                add.clear();
            }
        }
        self.kernel()?.change(&delete, &add)?;
        let leftover: Vec<Deletion> = stored.into_keys().collect();
        for group in leftover.chunks(TRANSACTION) {
            self.kernel()?.change(group, &[])?;
        }
        Ok(())
    }

    /// Removes chains and sets that nobody named: those of a former run, of upstream's kube-proxy, of an older version.
    fn remove_unknown(&mut self, own: &Fragment) -> Result<(), NftError> {
        let skeleton = skeleton(&self.settings, &[], None);
        let mut chains = self.kernel()?.chains()?;
        chains.retain(|name| {
            !own.chains.contains_key(name)
                && !own.shared.contains_key(name)
                && !skeleton.iter().any(|(known, _, _)| known == name)
        });
        let mut sets = self.kernel()?.sets()?;
        let addresses = (!self.settings.node_ports.match_all()).then_some("nodeport-ips");
        let known: BTreeSet<&str> = CONTAINERS.iter().map(|container| container.name).chain(addresses).collect();
        sets.retain(|name| !own.affinity.contains_key(name) && !known.contains(name.as_str()));
        self.stale.clear();
        if chains.is_empty() && sets.is_empty() {
            return Ok(());
        }
        let mut script = String::new();
        for name in &chains {
            let _ = writeln!(script, "flush chain {} {name}", self.table);
        }
        for name in &sets {
            let _ = writeln!(script, "delete set {} {name}", self.table);
        }
        for name in &chains {
            let _ = writeln!(script, "delete chain {} {name}", self.table);
        }
        run(&script)
    }

    /// Deletes chains that were emptied long enough ago.
    fn delete_stale(&mut self) -> bool {
        let due = |since: &Instant| since.elapsed() >= DELETE_AFTER;
        let names: Vec<String> =
            self.stale.iter().filter(|(_, since)| due(since)).map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return true;
        }
        let script: String = names.iter().map(|name| format!("delete chain {} {name}\n", self.table)).collect();
        self.stale.retain(|name, _| !names.contains(name));
        match run(&script) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "cannot delete stale chains; the next complete sync will");
                false
            }
        }
    }

    fn make_whole(&mut self, own: &Fragment, around: &Surroundings) -> Result<(), NftError> {
        let frame = self.frame(own, around);
        match run(&frame) {
            Err(NftError::Refused(reason)) if self.first => {
                // Something of another kind is in our place: begin with an empty table.
                tracing::warn!(reason, "the kube-proxy table is not what it should be; making it anew");
                run(&format!("add table {0}\ndelete table {0}\n{frame}", self.table))
            }
            result => result,
        }
    }
}

/// The set of addresses on which node ports answer; without a restriction it must not exist.
fn node_port_ips(script: &mut String, table: &str, address_type: &str, addresses: Option<&[IpAddr]>) {
    let Some(addresses) = addresses else { return };
    let comment = "comment \"IPs that accept NodePort traffic\";";
    let _ = writeln!(script, "add set {table} nodeport-ips {{ type {address_type}; {comment} }}");
    let _ = writeln!(script, "flush set {table} nodeport-ips");
    for ip in addresses {
        if ip.is_loopback() {
            tracing::error!(address = %ip, "--nodeport-addresses includes localhost but localhost NodePorts are not supported");
            continue;
        }
        let _ = writeln!(script, "add element {table} nodeport-ips {{ {ip} }}");
    }
}

impl Backend for Nft {
    fn full(&mut self, all: &[Routed], around: &Surroundings) -> Result<Applied, BackendError> {
        let mut own = Fragment::default();
        for ports in by_service(all) {
            let service = render(ports, &self.settings);
            own.chains.extend(service.chains);
            own.shared.extend(service.shared);
            own.affinity.extend(service.affinity);
        }
        self.make_whole(&own, around)?;
        self.first = false;
        self.reconcile(all)?;
        let cleaned = self.remove_unknown(&own);
        if let Err(error) = &cleaned {
            tracing::warn!(%error, "cannot remove what is not needed any more; retrying later");
        }
        let mut rules = 0;
        for chain in WITNESSES {
            rules += self.kernel()?.rules(chain)?;
        }
        self.rules = rules;
        Ok(Applied { cleanup_failed: cleaned.is_err(), ..Applied::default() })
    }

    fn partial(&mut self, changed: &[ServiceChange], _: &Surroundings) -> Result<Applied, BackendError> {
        let cleanup_failed = !self.delete_stale();
        let services: Vec<_> = changed
            .iter()
            .map(|change| {
                let (old, new) = (render(&change.old, &self.settings), render(&change.new, &self.settings));
                (change.service.clone(), old, new)
            })
            .collect();
        let mut changes = Changes::default();
        changes.services(&services, &mut self.claims);
        for (name, rules) in services.iter().flat_map(|(_, _, new)| &new.shared) {
            if !self.shared.contains(name) {
                changes.chains.insert(name.clone(), rules.clone());
            }
        }
        if changes.only_elements() {
            let delete: Vec<Deletion> = changes.delete.iter().map(|key| (key.container().name, key.bytes())).collect();
            let add: Vec<(Key, Value)> = changes.add.into_iter().collect();
            self.kernel()?.change(&delete, &add)?;
        } else {
            run(&changes.script(&self.table, self.address_type()))?;
            self.shared.extend(changes.chains.keys().filter(|name| name.starts_with("balance")).cloned());
            self.stale.retain(|name, _| !changes.chains.contains_key(name));
            self.stale.extend(changes.stale.into_iter().map(|name| (name, Instant::now())));
        }
        Ok(Applied { cleanup_failed, ..Applied::default() })
    }

    fn is_intact(&mut self) -> bool {
        let expected = self.rules;
        let count = |nft: &mut Self| -> Result<usize, NftError> {
            let kernel = nft.kernel()?;
            WITNESSES.iter().map(|chain| kernel.rules(chain)).sum()
        };
        match count(self) {
            Ok(rules) => rules == expected,
            Err(error) => {
                tracing::warn!(%error, "cannot look after the table");
                true
            }
        }
    }
}
