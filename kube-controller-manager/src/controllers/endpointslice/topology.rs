//! Topology aware routing (annotation `service.kubernetes.io/topology-mode: Auto`): every zone gets endpoints by its share of the
//! cluster's CPUs, unless that would overload one of them.

use std::collections::BTreeMap;

use common::meta::Quantity;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::hints::{self, Slices};
use crate::shared::meta::MetaExt;
use crate::shared::services::ZONE;

/// How much more than its share an endpoint may have to carry.
const OVERLOAD: f64 = 0.2;

/// Of each zone its share of all CPUs.
pub(super) type Shares = BTreeMap<String, f64>;
/// Of each zone its endpoints.
pub(super) type Counts = BTreeMap<String, usize>;

/// What one zone may get.
struct Allocation {
    maximum: usize,
    desired: f64,
}

/// The shares of the zones; None: they cannot be told.
pub(super) fn shares<'a>(nodes: impl Iterator<Item = &'a Node>) -> Option<Shares> {
    let mut millis: BTreeMap<String, i64> = BTreeMap::new();
    for node in nodes {
        let excluded = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
        if excluded.iter().any(|key| node.label(key).is_some()) || !is_ready(node) {
            continue;
        }
        let zone = node.label(ZONE).filter(|zone| !zone.is_empty())?;
        let cpu = node.status.as_ref()?.allocatable.as_ref()?.get("cpu")?;
        let cpu = cpu.0.parse::<Quantity>().ok()?.milli_value();
        *millis.entry(zone.to_owned()).or_default() += (cpu != 0).then_some(cpu)?;
    }
    let total: i64 = millis.values().sum();
    (millis.len() >= 2 && total > 0)
        .then(|| millis.into_iter().map(|(zone, cpu)| (zone, cpu as f64 / total as f64)).collect())
}

/// Condition Ready is True.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.filter(|c| c.type_ == "Ready").any(|c| c.status == "True")
}

fn least(share: f64, endpoints: usize) -> usize {
    (share * endpoints as f64 / (1.0 + OVERLOAD)).ceil() as usize
}

/// Whether a zone has fewer endpoints than it needs.
pub(super) fn is_overloaded(counts: &Counts, shares: Option<&Shares>) -> bool {
    let total: usize = counts.values().sum();
    let Some(shares) = shares else { return !counts.is_empty() };
    let short = |(zone, share): (&String, &f64)| counts.get(zone).is_none_or(|count| *count < least(*share, total));
    !counts.is_empty() && shares.iter().any(short)
}

fn allocations(shares: Option<&Shares>, endpoints: usize) -> Result<BTreeMap<&str, Allocation>, String> {
    let Some(shares) = shares else {
        return Err("Insufficient Node information: allocatable CPU or zone not specified on one or more nodes".into());
    };
    let zones = shares.len();
    if zones > endpoints {
        return Err(format!("Insufficient number of endpoints ({endpoints} endpoints, {zones} zones)"));
    }
    let minimums: BTreeMap<&str, usize> =
        shares.iter().map(|(zone, share)| (zone.as_str(), least(*share, endpoints))).collect();
    let Some(spare) = endpoints.checked_sub(minimums.values().sum()) else {
        return Err(format!(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold ({endpoints} endpoints, {zones} zones)"
        ));
    };
    let allocation = |(zone, minimum): (_, usize)| {
        let desired = (shares.get(zone).unwrap_or(&0.0) * endpoints as f64).max(minimum as f64);
        (zone, Allocation { maximum: minimum + spare, desired })
    };
    Ok(minimums.into_iter().map(allocation).collect())
}

/// Gives ready endpoints to zones. How many each zone has; else why none has hints now, without the address type.
///
/// # Errors
/// The zones cannot be served by hints; all hints are gone.
pub(super) fn assign(shares: Option<&Shares>, slices: &mut Slices<'_>) -> Result<Counts, String> {
    let assigned = try_assign(shares, slices);
    if assigned.is_err() {
        hints::set(hints::Hints::None, slices);
    }
    assigned
}

fn try_assign(shares: Option<&Shares>, slices: &mut Slices<'_>) -> Result<Counts, String> {
    let all = slices.create.iter().chain(&slices.update).chain(slices.unchanged.iter().copied());
    let ready = all.flat_map(|s| s.endpoints.iter().flatten()).filter(|e| hints::is_ready(e)).count();
    let allocations = allocations(shares, ready)?;
    let mut counts = Counts::new();
    slices.update_where(|slice| match zones_of(slice, &counts, &allocations) {
        Some(zones) => {
            zones.into_iter().for_each(|(zone, count)| *counts.entry(zone).or_default() += count);
            false
        }
        None => true,
    });
    for endpoint in slices.written().flat_map(|s| s.endpoints.iter_mut().flatten()) {
        endpoint.hints = None;
        if hints::is_ready(endpoint) {
            let zone = endpoint.zone.as_deref().filter(|zone| !zone.is_empty());
            let zone = zone.ok_or("One or more endpoints do not have a zone specified")?;
            endpoint.hints = Some(hints::for_zone(zone));
            *counts.entry(zone.to_owned()).or_default() += 1;
        }
    }
    let (giving, receiving) = exchange(&allocations, &counts);
    redistribute(slices, giving, receiving, &mut counts);
    if counts.is_empty() { Err("No hints allocated for zones".into()) } else { Ok(counts) }
}

/// The zones that a slice's hints name; None: they cannot stay.
fn zones_of(slice: &EndpointSlice, counts: &Counts, allocations: &BTreeMap<&str, Allocation>) -> Option<Counts> {
    let mut zones = Counts::new();
    for endpoint in slice.endpoints.iter().flatten().filter(|e| hints::is_ready(e)) {
        let named = endpoint.hints.as_ref()?.for_zones.as_ref().filter(|zones| !zones.is_empty())?;
        named.iter().for_each(|zone| *zones.entry(zone.name.clone()).or_default() += 1);
    }
    let fits = |(zone, count): (&String, &usize)| {
        let others = counts.get(zone).copied().unwrap_or(0);
        allocations.get(zone.as_str()).is_some_and(|allocation| count + others <= allocation.maximum)
    };
    zones.iter().all(fits).then_some(zones)
}

/// How many endpoints zones should give to others, and how many get.
fn exchange(allocations: &BTreeMap<&str, Allocation>, counts: &Counts) -> (Counts, Counts) {
    let mut surplus: BTreeMap<&str, f64> = allocations
        .iter()
        .map(|(zone, allocation)| (*zone, counts.get(*zone).copied().unwrap_or(0) as f64 - allocation.desired))
        .collect();
    let (mut giving, mut receiving) = (Counts::new(), Counts::new());
    loop {
        let by = |a: &(&&str, &f64), b: &(&&str, &f64)| a.1.total_cmp(b.1);
        let most = surplus.iter().max_by(by).map(|(zone, n)| (*zone, *n));
        let least = surplus.iter().min_by(by).map(|(zone, n)| (*zone, -*n));
        let (Some((giver, give)), Some((receiver, get))) = (most, least) else { break };
        if (give < 1.0 && get < 1.0) || give < 0.5 || get < 0.5 {
            break;
        }
        for (zone, side, by) in [(giver, &mut giving, -1.0), (receiver, &mut receiving, 1.0)] {
            *side.entry(zone.to_owned()).or_default() += 1;
            *surplus.entry(zone).or_default() += by;
        }
    }
    (giving, receiving)
}

fn redistribute(slices: &mut Slices<'_>, mut giving: Counts, mut receiving: Counts, counts: &mut Counts) {
    let endpoints = slices.written().flat_map(|s| s.endpoints.iter_mut().flatten());
    for endpoint in endpoints.filter(|e| hints::is_ready(e)) {
        let Some(left) = endpoint.zone.as_deref().and_then(|zone| giving.get_mut(zone)).filter(|left| **left > 0)
        else {
            continue;
        };
        let Some((receiver, wanted)) = receiving.iter_mut().find(|(_, wanted)| **wanted > 0) else { return };
        *left -= 1;
        *wanted -= 1;
        endpoint.hints = Some(hints::for_zone(receiver));
        *counts.entry(receiver.clone()).or_default() += 1;
        if let Some(count) = endpoint.zone.as_ref().and_then(|zone| counts.get_mut(zone)) {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(zone: Value, cpu: &str, ready: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"labels": {ZONE: zone}}, "status": {"allocatable": {"cpu": cpu},
            "conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    #[test]
    fn shares_need_ready_nodes_in_zones() {
        let of = |nodes: &[Node]| shares(nodes.iter());
        let two = [node(json!("a"), "1", "True"), node(json!("b"), "3", "True")];
        assert_eq!(of(&two), Some(Shares::from([("a".into(), 0.25), ("b".into(), 0.75)])));
        assert_eq!(of(&two[..1]), None, "one zone");
        let with = |other: Node| of(&[two[0].clone(), two[1].clone(), other]);
        assert_eq!(with(node(json!(""), "1", "True")), None, "a node without zone");
        assert_eq!(with(node(json!("a"), "0", "True")), None, "a node without CPU");
        assert_eq!(with(node(json!("a"), "9", "False")), of(&two), "not ready");
    }

    /// A slice whose endpoints are in these zones; a digit: one that is not ready.
    fn slice(zones: &str) -> EndpointSlice {
        let endpoint = |zone: char| {
            let zone_name = if zone.is_ascii_alphabetic() { json!(zone.to_string()) } else { Value::Null };
            json!({"addresses": ["10.0.0.1"], "zone": zone_name, "conditions": {"ready": !zone.is_ascii_digit()}})
        };
        let endpoints: Vec<Value> = zones.chars().map(endpoint).collect();
        serde_json::from_value(json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints})).unwrap()
    }

    /// The zones of the hints in order; `.` for none.
    fn hinted(slices: &[EndpointSlice]) -> String {
        let endpoints = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
        let zone = |e: &k8s_openapi::api::discovery::v1::Endpoint| {
            e.hints.as_ref().map(|h| h.for_zones.as_ref().unwrap()[0].name.clone())
        };
        endpoints.map(|e| zone(e).unwrap_or_else(|| ".".into())).collect()
    }

    #[test]
    fn endpoints_go_to_zones_by_share() {
        let even = Shares::from([("a".into(), 0.5), ("b".into(), 0.5)]);
        let third = Shares::from([("a".into(), 1.0 / 3.0), ("b".into(), 1.0 / 3.0), ("c".into(), 1.0 / 3.0)]);
        for (shares, zones, want) in [
            (Some(&even), "ab", Ok("ab")),
            (Some(&even), "aaab", Ok("baab")),
            (Some(&even), "aaaa", Ok("bbaa")),
            (Some(&even), "ab1", Ok("ab.")),
            (Some(&third), "aabbcc", Ok("aabbcc")),
            (Some(&third), "aaabbb", Ok("caacbb")),
            (Some(&even), "a", Err("Insufficient number of endpoints (1 endpoints, 2 zones)")),
            (
                Some(&third),
                "abca",
                Err(
                    "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (4 endpoints, 3 zones)",
                ),
            ),
            (Some(&even), "abab--", Err("One or more endpoints do not have a zone specified")),
            (
                None,
                "ab",
                Err("Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"),
            ),
        ] {
            let mut slices = Slices { create: vec![slice(zones)], ..Slices::default() };
            let got = assign(shares, &mut slices);
            match want {
                // Which endpoint goes where does not matter, how many do.
                Ok(want) => {
                    let counts = got.unwrap();
                    let hinted = hinted(&slices.create);
                    for zone in ["a", "b", "c"] {
                        assert_eq!(hinted.matches(zone).count(), want.matches(zone).count(), "{zones} {zone}");
                        assert_eq!(
                            counts.get(zone).copied().unwrap_or(0),
                            want.matches(zone).count(),
                            "{zones} {zone}"
                        );
                    }
                    assert!(!is_overloaded(&counts, shares), "{zones}");
                }
                Err(want) => {
                    assert_eq!(got.unwrap_err(), want, "{zones}");
                    assert!(hinted(&slices.create).chars().all(|zone| zone == '.'), "{zones}");
                }
            }
        }
    }

    #[test]
    fn good_slices_stay_and_bad_ones_are_written() {
        let even = Shares::from([("a".into(), 0.5), ("b".into(), 0.5)]);
        let mut slices = Slices { create: vec![slice("aabb")], ..Slices::default() };
        assign(Some(&even), &mut slices).unwrap();
        let mut again = Slices { unchanged: slices.create.iter().collect(), ..Slices::default() };
        assign(Some(&even), &mut again).unwrap();
        assert!(again.update.is_empty(), "nothing to write");
        assign(Some(&Shares::from([("a".into(), 0.5), ("c".into(), 0.5)])), &mut again).unwrap();
        assert_eq!(again.update.len(), 1, "zone b is gone");
        assert!(is_overloaded(&Counts::from([("a".into(), 3)]), Some(&even)));
        assert!(is_overloaded(&Counts::from([("a".into(), 5), ("b".into(), 1)]), Some(&even)));
        assert!(!is_overloaded(&Counts::from([("a".into(), 6), ("b".into(), 5)]), Some(&even)));
        assert!(!is_overloaded(&Counts::new(), None));
    }
}
