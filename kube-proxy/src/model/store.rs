//! The compact state of every Service, and which of them changed since the rules were written last.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use super::{
    Family, Here, PortName, Routed, ServiceKey, ServicePort, Slice, endpoints::of_port, service::expand,
    topology::choose,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// All that is known, by Service.
#[derive(Debug)]
pub(crate) struct Model {
    here: Here,
    started: Timestamp,
    entries: HashMap<ServiceKey, Entry>,
    changes: HashMap<ServiceKey, Change>,
}

#[derive(Debug, Default)]
struct Entry {
    /// By family.
    ports: [Vec<(PortName, ServicePort)>; 2],
    slices: Vec<Slice>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.slices.is_empty() && !self.has_ports()
    }

    fn has_ports(&self) -> bool {
        self.ports.iter().any(|ports| !ports.is_empty())
    }

    fn route(&self, family: Family, here: &Here) -> Vec<Routed> {
        let ports = self.ports[family as usize].iter();
        let routed = ports.map(|(name, service)| {
            let all = of_port(&self.slices, family, &name.port, name.protocol);
            Routed { name: name.clone(), service: service.clone(), choice: choose(service, &all, here) }
        });
        routed.collect()
    }
}

/// How one Service was routed when the rules were written last, by family.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub old: [Vec<Routed>; 2],
    /// When the pods changed that made the slices change, by family of the slice.
    pub triggers: Vec<(Family, Timestamp)>,
    /// Endpoints changed, not just the Service.
    pub endpoints: bool,
}

impl Model {
    /// An empty model. `started`: changes of pods before do not count for latency.
    pub(crate) fn new(node: &str, started: Timestamp) -> Self {
        let here = Here { node: node.to_owned(), zone: None };
        Self { here, started, entries: HashMap::new(), changes: HashMap::new() }
    }

    /// Takes over the node's zone; true when it changed, after which everything must be routed anew.
    pub(crate) fn set_zone(&mut self, zone: Option<String>) -> bool {
        let changed = self.here.zone != zone;
        self.here.zone = zone;
        changed
    }

    /// Adds or replaces a Service. True when that matters to routing.
    pub(crate) fn set_service(&mut self, service: &Service) -> bool {
        let Some(name) = &service.metadata.name else { return false };
        let key = self.key(service.metadata.namespace.as_deref(), name);
        let ports = Family::BOTH.map(|family| expand(&key, service, family));
        let same = match self.entries.get(&key) {
            Some(entry) => entry.ports == ports,
            None => ports.iter().all(Vec::is_empty),
        };
        !same && self.change(&key, |entry, _| entry.ports = ports)
    }

    /// Forgets a Service; its slices stay known.
    pub(crate) fn remove_service(&mut self, namespace: &str, name: &str) -> bool {
        let key = self.key(Some(namespace), name);
        self.drop_ports(&key)
    }

    fn drop_ports(&mut self, key: &ServiceKey) -> bool {
        self.entries.get(key).is_some_and(Entry::has_ports)
            && self.change(key, |entry, _| entry.ports = Default::default())
    }

    /// Adds or replaces a slice. True when that matters to routing.
    pub(crate) fn set_slice(&mut self, slice: &EndpointSlice) -> bool {
        let Some(key) = self.service_of(slice) else { return false };
        let Some(new) = Slice::new(slice, &self.here.node) else { return false };
        if self.entries.get(&key).is_some_and(|entry| entry.slices.contains(&new)) {
            return false;
        }
        let trigger = slice.metadata.annotations.as_ref().and_then(|all| all.get(TRIGGER_TIME)?.parse().ok());
        let trigger = trigger.filter(|at| *at > self.started).map(|at| (new.family, at));
        self.change(&key, |entry, change| {
            change.triggers.extend(trigger);
            change.endpoints = true;
            match entry.slices.iter_mut().find(|known| known.name == new.name) {
                Some(known) => *known = new,
                None => entry.slices.push(new),
            }
        })
    }

    /// Forgets a slice.
    pub(crate) fn remove_slice(&mut self, slice: &EndpointSlice) -> bool {
        let Some(key) = self.service_of(slice) else { return false };
        self.drop_slice(&key, slice.metadata.name.as_deref().unwrap_or_default())
    }

    fn service_of(&self, slice: &EndpointSlice) -> Option<ServiceKey> {
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
        Some(self.key(slice.metadata.namespace.as_deref(), service))
    }

    fn drop_slice(&mut self, key: &ServiceKey, name: &str) -> bool {
        let known = |entry: &Entry| entry.slices.iter().any(|slice| &*slice.name == name);
        self.entries.get(key).is_some_and(known)
            && self.change(key, |entry, change| {
                // The time of a removed slice is that of its last update: it says nothing about the removal.
                change.triggers.clear();
                change.endpoints = true;
                entry.slices.retain(|slice| &*slice.name != name);
            })
    }

    /// After a list: forgets Services that it did not name. True when there were any.
    pub(crate) fn keep_services(&mut self, named: &BTreeSet<String>) -> bool {
        let known = self.entries.iter().filter(|(key, entry)| entry.has_ports() && !named.contains(&***key));
        let gone: Vec<ServiceKey> = known.map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.drop_ports(key);
        }
        !gone.is_empty()
    }

    /// After a list: forgets slices whose `namespace/name` it did not name. True when there were any.
    pub(crate) fn keep_slices(&mut self, named: &BTreeSet<String>) -> bool {
        let mut gone = Vec::new();
        for (key, entry) in &self.entries {
            let namespace = key.split('/').next().unwrap_or_default();
            let missing = entry.slices.iter().filter(|slice| !named.contains(&format!("{namespace}/{}", slice.name)));
            gone.extend(missing.map(|slice| (key.clone(), slice.name.clone())));
        }
        for (key, name) in &gone {
            self.drop_slice(key, name);
        }
        !gone.is_empty()
    }

    fn key(&self, namespace: Option<&str>, name: &str) -> ServiceKey {
        let text = format!("{}/{name}", namespace.unwrap_or_default());
        self.entries.get_key_value(text.as_str()).map_or_else(|| Arc::from(text.as_str()), |(key, _)| key.clone())
    }

    /// Applies a change to one entry, after noting how the Service was routed before the first of them. Always true.
    fn change(&mut self, key: &ServiceKey, apply: impl FnOnce(&mut Entry, &mut Change)) -> bool {
        let entry = self.entries.entry(key.clone()).or_default();
        let here = &self.here;
        let change = self.changes.entry(key.clone()).or_insert_with(|| Change {
            old: Family::BOTH.map(|family| entry.route(family, here)),
            ..Change::default()
        });
        apply(entry, change);
        if entry.is_empty() {
            self.entries.remove(key);
        }
        true
    }

    /// What changed since the last call.
    pub(crate) fn take_changes(&mut self) -> HashMap<ServiceKey, Change> {
        std::mem::take(&mut self.changes)
    }

    /// How one Service is to be routed now.
    pub(crate) fn route(&self, key: &str, family: Family) -> Vec<Routed> {
        self.entries.get(key).map(|entry| entry.route(family, &self.here)).unwrap_or_default()
    }

    /// How every Service is to be routed, in the order of names.
    pub(crate) fn route_all(&self, family: Family) -> Vec<Routed> {
        let mut keys: Vec<&ServiceKey> = self.entries.keys().collect();
        keys.sort_unstable();
        keys.into_iter().flat_map(|key| self.entries[key].route(family, &self.here)).collect()
    }

    /// Endpoints of all service ports: what decides about the size of a cluster.
    pub(crate) fn endpoint_count(&self, family: Family) -> usize {
        let entries = self.entries.values();
        entries
            .map(|entry| {
                let ports = entry.ports[family as usize].iter();
                let count = |(name, _): &(PortName, ServicePort)| {
                    let slices = entry.slices.iter().filter(|slice| slice.family == family);
                    let of_port = |slice: &Slice| {
                        let ports = slice.ports.iter().filter(|port| port.0 == name.port && port.1 == name.protocol);
                        ports.count() * slice.endpoints.len()
                    };
                    slices.map(of_port).sum::<usize>()
                };
                ports.map(count).sum::<usize>()
            })
            .sum()
    }

    /// Health-check node ports with the number of ready addresses on this node, by Service.
    pub(crate) fn health_checks(&self, family: Family) -> BTreeMap<ServiceKey, (u16, usize)> {
        let entries = self.entries.iter().filter_map(|(key, entry)| {
            let ports = entry.ports[family as usize].iter();
            let port = ports.filter_map(|(_, port)| port.external.as_ref()?.health_check_node_port).next()?;
            let slices = entry.slices.iter().filter(|slice| slice.family == family && !slice.ports.is_empty());
            let ready = slices.flat_map(|slice| slice.endpoints.iter()).filter(|e| e.ready && e.local);
            Some((key.clone(), (port, ready.map(|endpoint| endpoint.ip).collect::<BTreeSet<_>>().len())))
        });
        entries.collect()
    }

    /// Serving endpoints of every UDP service port of these Services (of all without `only`): flows to others are stale.
    pub(crate) fn udp_endpoints(
        &self,
        family: Family,
        only: Option<&BTreeSet<ServiceKey>>,
    ) -> Vec<(ServicePort, BTreeSet<(IpAddr, u16)>)> {
        let wanted = self.entries.iter().filter(|(key, _)| only.is_none_or(|only| only.contains(*key)));
        let mut result = Vec::new();
        for (_, entry) in wanted {
            for (name, service) in &entry.ports[family as usize] {
                if name.protocol != super::Protocol::Udp {
                    continue;
                }
                let all = of_port(&entry.slices, family, &name.port, name.protocol);
                let serving: BTreeSet<_> =
                    all.into_iter().filter(|(_, endpoint)| endpoint.serving).map(|(target, _)| target).collect();
                if !serving.is_empty() {
                    result.push((service.clone(), serving));
                }
            }
        }
        result
    }
}
