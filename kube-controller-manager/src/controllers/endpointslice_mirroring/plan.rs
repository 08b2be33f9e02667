//! The slices that mirror Endpoints: one for each set of ports and address family. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort as OldPort, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::controllers::endpointslice::{MANAGED_BY, SERVICE_NAME, ports_key};
use crate::shared::meta::MetaExt;
use crate::shared::owner::controller_ref;
use crate::shared::services::TRIGGER_TIME;

pub(super) const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What to write.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<EndpointSlice>,
}

/// Addresses that are not mirrored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Skipped {
    pub(super) invalid: usize,
    /// With the invalid ones.
    pub(super) total: usize,
}

/// Whether these Endpoints want slices: neither made by our own controller, nor a lock of an election.
pub(super) fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.label(SKIP) != Some("true") && endpoints.annotation(LEADER).is_none()
}

/// Ports of Endpoints that have the same addresses, and those addresses with their readiness.
struct Subset<'a> {
    ports: Vec<&'a OldPort>,
    addresses: BTreeMap<AddressKey<'a>, (&'a EndpointAddress, bool)>,
}

type AddressKey<'a> = (&'a str, &'a str);
type PortKey<'a> = (i32, &'a str, &'a str);

fn address_key(address: &EndpointAddress) -> AddressKey<'_> {
    (&address.ip, address.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or_default())
}

/// Puts together what belongs together, however the writer cut it into subsets. An address that is both is not ready.
fn repack(endpoints: &Endpoints) -> Vec<Subset<'_>> {
    let mut by_port: BTreeMap<Option<PortKey<'_>>, Subset<'_>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<Option<&OldPort>> = match subset.ports.as_deref() {
            None | Some([]) => vec![None],
            Some(ports) => ports.iter().map(Some).collect(),
        };
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let all = ready.chain(subset.not_ready_addresses.iter().flatten().map(|address| (address, false)));
        for (address, ready) in all {
            for port in &ports {
                let key = port.map(|port| {
                    let name = port.name.as_deref().unwrap_or_default();
                    (port.port, port.protocol.as_deref().unwrap_or("TCP"), name)
                });
                let subset = by_port
                    .entry(key)
                    .or_insert_with(|| Subset { ports: port.iter().copied().collect(), addresses: BTreeMap::new() });
                let known = subset.addresses.entry(address_key(address)).or_insert((address, ready));
                known.1 &= ready;
            }
        }
    }
    let mut packed: Vec<Subset<'_>> = Vec::new();
    for (_, subset) in by_port {
        let same = |other: &&mut Subset<'_>| {
            let mut pairs = other.addresses.iter().zip(&subset.addresses);
            other.addresses.len() == subset.addresses.len() && pairs.all(|(a, b)| a.0 == b.0 && a.1.1 == b.1.1)
        };
        match packed.iter_mut().find(same) {
            Some(other) => other.ports.extend(subset.ports),
            None => packed.push(subset),
        }
    }
    packed
}

fn ports_of(subset: &Subset<'_>) -> Vec<EndpointPort> {
    let port = |port: &&OldPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    };
    subset.ports.iter().map(port).collect()
}

fn endpoint_of(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        ..Endpoint::default()
    };
    Some((family, endpoint))
}

/// Slices by family and ports.
type SliceKey = (String, String);

fn key_of(slice: &EndpointSlice) -> SliceKey {
    (slice.address_type.clone(), ports_key(slice.ports.as_deref().unwrap_or_default()))
}

/// Compares what should be with what is.
pub(super) fn reconcile(endpoints: &Endpoints, existing: &[Arc<EndpointSlice>], max: usize) -> (Changes, Skipped) {
    let (mut changes, mut skipped) = (Changes::default(), Skipped::default());
    let mut wanted: BTreeMap<SliceKey, EndpointSlice> = BTreeMap::new();
    for subset in repack(endpoints) {
        let ports = ports_of(&subset);
        let (mut taken, total) = (0, subset.addresses.len());
        // The ready ones first: only so many are taken.
        let (ready, not): (Vec<_>, Vec<_>) = subset.addresses.into_values().partition(|(_, ready)| *ready);
        for (address, ready) in ready.into_iter().chain(not) {
            if taken >= max {
                break;
            }
            let Some((family, endpoint)) = endpoint_of(address, ready) else {
                skipped.invalid += 1;
                continue;
            };
            taken += 1;
            let slice = wanted.entry((family.to_owned(), ports_key(&ports)));
            slice.or_insert_with(|| mirror(endpoints, family, &ports)).endpoints.get_or_insert_default().push(endpoint);
        }
        skipped.total += total - taken;
    }
    let mut spare: Vec<&EndpointSlice> = Vec::new();
    let mut matched: BTreeMap<SliceKey, &EndpointSlice> = BTreeMap::new();
    for slice in existing {
        let key = key_of(slice);
        match wanted.contains_key(&key) && !matched.contains_key(&key) {
            true => drop(matched.insert(key, slice)),
            false => spare.push(slice),
        }
    }
    for (key, mut slice) in wanted {
        if let Some(old) = matched.get(&key) {
            if !is_same(old, &slice) {
                slice.metadata.name = old.metadata.name.clone();
                changes.update.push(slice);
            }
        } else if let Some(at) = spare.iter().position(|old| old.address_type == slice.address_type) {
            slice.metadata.name = spare.swap_remove(at).metadata.name.clone();
            changes.update.push(slice);
        } else {
            slice.metadata.generate_name = Some(format!("{}-", endpoints.name_str()));
            changes.create.push(slice);
        }
    }
    changes.delete = spare.into_iter().cloned().collect();
    (changes, skipped)
}

/// A slice without endpoints and without a name.
fn mirror(endpoints: &Endpoints, family: &str, ports: &[EndpointPort]) -> EndpointSlice {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), endpoints.name_str().to_owned());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| key != TRIGGER_TIME && key != LAST_APPLIED);
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(endpoints, "v1", "Endpoints")]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        ports: Some(ports.to_vec()),
        ..EndpointSlice::default()
    }
}

fn is_same(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    let sorted = |slice: &EndpointSlice| {
        let mut list = slice.endpoints.clone().unwrap_or_default();
        list.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        list
    };
    let annotations = |slice: &EndpointSlice| slice.metadata.annotations.clone().unwrap_or_default();
    // An older object of the name is no owner.
    let owner = |slice: &EndpointSlice| slice.metadata.owner_references.iter().flatten().map(|o| o.uid.clone()).next();
    old.metadata.labels == new.metadata.labels
        && annotations(old) == annotations(new)
        && owner(old) == owner(new)
        && sorted(old) == sorted(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(subsets: Value) -> Endpoints {
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "e", "uid": "u", "labels": {"a": "b"},
            "annotations": {TRIGGER_TIME: "x", "keep": "y"}}, "subsets": subsets}))
        .unwrap()
    }

    fn named(slices: &[EndpointSlice]) -> Vec<Arc<EndpointSlice>> {
        let name = |(n, slice): (usize, &EndpointSlice)| {
            let mut slice = slice.clone();
            slice.metadata.name = Some(format!("s{n}"));
            Arc::new(slice)
        };
        slices.iter().enumerate().map(name).collect()
    }

    #[test]
    fn one_slice_for_each_family_and_set_of_ports() {
        let source = endpoints(json!([
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2", "hostname": "h"}], "ports": [{"port": 80}]},
            {"addresses": [{"ip": "fd00::1"}, {"ip": "garbage"}], "notReadyAddresses": [{"ip": "fd00::2"}],
             "ports": [{"port": 80}, {"name": "x", "port": 81}]},
        ]));
        let (changes, skipped) = reconcile(&source, &[], 1000);
        assert_eq!(skipped, Skipped { invalid: 2, total: 2 }, "once for each set of ports");
        let shape: Vec<_> = changes
            .create
            .iter()
            .map(|s| (s.address_type.as_str(), s.ports.as_ref().unwrap().len(), s.endpoints.as_ref().unwrap().len()))
            .collect();
        assert_eq!(shape, [("IPv4", 1, 2), ("IPv6", 1, 2), ("IPv6", 1, 2)]);
        let first = &changes.create[0];
        assert_eq!(first.label("a"), Some("b"));
        assert_eq!(first.label(MANAGED_BY), Some(CONTROLLER));
        assert_eq!((first.annotation(TRIGGER_TIME), first.annotation("keep")), (None, Some("y")));
        assert_eq!(first.metadata.generate_name.as_deref(), Some("e-"));
        assert_eq!(first.metadata.owner_references.as_ref().unwrap()[0].kind, "Endpoints");

        let existing = named(&changes.create);
        assert_eq!(reconcile(&source, &existing, 1000).0, Changes::default(), "nothing to do");
    }

    #[test]
    fn as_few_writes_as_possible() {
        let one = endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]));
        let existing = named(&reconcile(&one, &[], 10).0.create);
        // Another port: the slice is used again.
        let other = endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 81}]}]));
        let changes = reconcile(&other, &existing, 10).0;
        assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 1, 0));
        assert_eq!(changes.update[0].name_str(), "s0");
        // Not ready.
        let not = endpoints(json!([{"notReadyAddresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]));
        assert_eq!(reconcile(&not, &existing, 10).0.update.len(), 1);
        // No addresses.
        assert_eq!(reconcile(&endpoints(json!([])), &existing, 10).0.delete.len(), 1);
        // New Endpoints of the same name.
        let mut again = one.clone();
        again.metadata.uid = Some("other".into());
        assert_eq!(reconcile(&again, &existing, 10).0.update.len(), 1);
    }

    #[test]
    fn limits_and_contradictions() {
        let many: Vec<_> = (1..=20).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
        let source = endpoints(json!([{"addresses": many, "ports": [{"port": 80}]}]));
        let (changes, skipped) = reconcile(&source, &[], 15);
        assert_eq!(changes.create[0].endpoints.as_ref().unwrap().len(), 15);
        assert_eq!(skipped, Skipped { invalid: 0, total: 5 });
        let both = json!([{"addresses": [{"ip": "10.0.0.1"}], "notReadyAddresses": [{"ip": "10.0.0.1"}]}]);
        let slice = reconcile(&endpoints(both), &[], 15).0.create.remove(0);
        assert_eq!(slice.endpoints.unwrap()[0].conditions.as_ref().unwrap().ready, Some(false));
        let mut source = endpoints(json!([]));
        assert!(is_mirrored(&source));
        source.metadata.annotations.as_mut().unwrap().insert(LEADER.into(), "{}".into());
        assert!(!is_mirrored(&source));
    }
}
