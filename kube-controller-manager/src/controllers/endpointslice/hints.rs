//! Who should use an endpoint: hints for `spec.trafficDistribution`, each from its endpoint alone.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForNode, ForZone};

use crate::shared::meta::MetaExt;

/// What a Service asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hints {
    /// Every client uses every endpoint.
    None,
    /// `PreferClose`, `PreferSameZone`: clients use the endpoints of their zone.
    Zone,
    /// `PreferSameNode`: those of their node, else of their zone.
    Node,
    /// The annotation of topology aware routing: zones get endpoints by their share of CPUs, see [`super::topology`].
    Auto,
}

impl Hints {
    /// The annotation wins over the field, the older annotation over the newer.
    pub(super) fn of(service: &Service) -> Self {
        let mode = service.annotation("service.kubernetes.io/topology-aware-hints");
        if let Some("Auto" | "auto") = mode.or_else(|| service.annotation("service.kubernetes.io/topology-mode")) {
            return Self::Auto;
        }
        match service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref()) {
            Some("PreferClose" | "PreferSameZone") => Self::Zone,
            Some("PreferSameNode") => Self::Node,
            _ => Self::None,
        }
    }

    /// The label of the metric that counts Services by what they ask for.
    pub(super) fn traffic_distribution(self, service: &Service) -> &str {
        match self {
            Self::Zone | Self::Node => {
                service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref()).unwrap_or("")
            }
            Self::None | Self::Auto => "",
        }
    }
}

/// The slices of one Service and address type on their way.
#[derive(Debug, Default)]
pub(super) struct Slices<'a> {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    /// Already as they should be, but perhaps for their hints.
    pub(super) unchanged: Vec<&'a EndpointSlice>,
}

impl Slices<'_> {
    /// The slices that will be written.
    pub(super) fn written(&mut self) -> impl Iterator<Item = &mut EndpointSlice> {
        self.create.iter_mut().chain(&mut self.update)
    }

    /// Moves unchanged slices to those that will be written.
    pub(super) fn update_where(&mut self, mut wrong: impl FnMut(&EndpointSlice) -> bool) {
        self.update.extend(self.unchanged.extract_if(.., |slice| wrong(slice)).cloned());
    }
}

/// Ready.
pub(super) fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(false)
}

/// Hints for one zone.
pub(super) fn for_zone(zone: &str) -> EndpointHints {
    EndpointHints { for_zones: Some(vec![ForZone { name: zone.to_owned() }]), for_nodes: None }
}

/// The hints that an endpoint should have; None: they do not matter, it is not ready.
fn wanted(kind: Hints, endpoint: &Endpoint) -> Option<Option<EndpointHints>> {
    if matches!(kind, Hints::None | Hints::Auto) {
        return Some(None);
    }
    if !is_ready(endpoint) {
        return None;
    }
    let zones = endpoint.zone.as_ref().map(|zone| vec![ForZone { name: zone.clone() }]);
    let nodes = endpoint.node_name.as_ref().filter(|_| kind == Hints::Node);
    let nodes = nodes.map(|node| vec![ForNode { name: node.clone() }]);
    let any = zones.is_some() || nodes.is_some();
    Some(any.then_some(EndpointHints { for_zones: zones, for_nodes: nodes }))
}

/// Gives every endpoint the hints of `kind`; [`Hints::Auto`] stands for none here.
pub(super) fn set(kind: Hints, slices: &mut Slices<'_>) {
    let differs = |endpoint: &Endpoint| wanted(kind, endpoint).is_some_and(|wanted| wanted != endpoint.hints);
    slices.update_where(|slice| slice.endpoints.iter().flatten().any(differs));
    for endpoint in slices.written().flat_map(|slice| slice.endpoints.iter_mut().flatten()) {
        if let Some(wanted) = wanted(kind, endpoint) {
            endpoint.hints = wanted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn slice(endpoints: Value) -> EndpointSlice {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": endpoints}))
            .unwrap()
    }

    #[test]
    fn what_a_service_asks_for() {
        let old = "service.kubernetes.io/topology-aware-hints";
        let new = "service.kubernetes.io/topology-mode";
        for (annotations, field, want) in [
            (json!({}), Value::Null, Hints::None),
            (json!({}), json!("PreferClose"), Hints::Zone),
            (json!({}), json!("PreferSameZone"), Hints::Zone),
            (json!({}), json!("PreferSameNode"), Hints::Node),
            (json!({}), json!("Other"), Hints::None),
            (json!({new: "Auto"}), json!("PreferClose"), Hints::Auto),
            (json!({old: "disabled", new: "Auto"}), json!("PreferClose"), Hints::Zone),
            (json!({old: "auto"}), Value::Null, Hints::Auto),
            (json!({new: "AUTO"}), Value::Null, Hints::None),
        ] {
            let value = json!({"metadata": {"annotations": annotations}, "spec": {"trafficDistribution": field}});
            assert_eq!(Hints::of(&serde_json::from_value(value.clone()).unwrap()), want, "{value}");
        }
    }

    #[test]
    fn hints_follow_the_place_of_ready_endpoints() {
        let endpoint = |ready: bool, zone: Value, hints: Value| json!({"addresses": ["10.0.0.1"], "nodeName": "n1", "zone": zone, "conditions": {"ready": ready}, "hints": hints});
        let a = || json!({"forZones": [{"name": "a"}]});
        let a_n1 = || json!({"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]});
        for (kind, ready, zone, had, want, written) in [
            (Hints::Zone, true, json!("a"), Value::Null, a(), true),
            (Hints::Zone, true, json!("a"), a(), a(), false),
            (Hints::Zone, true, json!("a"), json!({"forZones": [{"name": "b"}]}), a(), true),
            (Hints::Zone, true, json!("a"), a_n1(), a(), true),
            (Hints::Zone, true, Value::Null, a(), Value::Null, true),
            (Hints::Zone, false, json!("a"), Value::Null, Value::Null, false),
            (Hints::Zone, false, json!("a"), a(), a(), false),
            (Hints::Node, true, json!("a"), a(), a_n1(), true),
            (Hints::Node, true, Value::Null, Value::Null, json!({"forNodes": [{"name": "n1"}]}), true),
            (Hints::None, true, json!("a"), a(), Value::Null, true),
            (Hints::None, false, json!("a"), a(), Value::Null, true),
            (Hints::None, true, json!("a"), Value::Null, Value::Null, false),
        ] {
            let row = format!("{kind:?} {ready} {zone} {had}");
            let before = slice(json!([endpoint(ready, zone, had)]));
            let mut slices = Slices { unchanged: vec![&before], ..Slices::default() };
            set(kind, &mut slices);
            assert_eq!(!slices.update.is_empty(), written, "{row}");
            let after = slices.update.iter().chain(slices.unchanged.iter().copied()).next().unwrap();
            let hints = serde_json::to_value(&after.endpoints.as_ref().unwrap()[0].hints).unwrap();
            assert_eq!(hints, want, "{row}");
        }
    }
}
