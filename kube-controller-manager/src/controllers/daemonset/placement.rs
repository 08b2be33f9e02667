//! On which nodes a daemon pod belongs: the scheduler's rules that a DaemonSet cannot overrule, simulated.

use std::collections::BTreeMap;

use common::meta::nodeselector::Term;
use common::meta::tolerations::any_tolerates;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use crate::shared::meta::MetaExt;
use crate::shared::{pods, selector};

/// Taints of the node's own making: daemons run nevertheless.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// And this one, for those that use the host's network.
const NO_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");
/// The field by which a pod asks for one node.
const NODE_NAME: &str = "metadata.name";

/// What a node means for a DaemonSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fit {
    /// A pod is wanted.
    pub(super) should_run: bool,
    /// A pod that is there may stay.
    pub(super) may_stay: bool,
}

/// A DaemonSet's wishes, parsed once for all nodes.
pub(super) struct Placement {
    node_name: Option<String>,
    node_selector: BTreeMap<String, String>,
    /// Absent: no required affinity.
    terms: Option<Vec<Term>>,
    tolerations: Vec<Toleration>,
}

impl Placement {
    pub(super) fn new(ds: &DaemonSet) -> Self {
        let spec = ds.spec.as_ref().and_then(|s| s.template.spec.clone()).unwrap_or_default();
        let required = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = required.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
        let mut tolerations = spec.tolerations.unwrap_or_default();
        add_tolerations(&mut tolerations, spec.host_network.unwrap_or(false));
        Self {
            node_name: spec.node_name.filter(|n| !n.is_empty()),
            node_selector: spec.node_selector.unwrap_or_default(),
            terms: required.map(Term::parse_all),
            tolerations,
        }
    }

    pub(super) fn fit(&self, node: &Node) -> Fit {
        const NO: Fit = Fit { should_run: false, may_stay: false };
        let name = node.name_str();
        let label = |key: &str| node.label(key);
        let wanted = self.node_name.as_ref().is_none_or(|wanted| wanted == name)
            && selector::map_selects(&self.node_selector, node.metadata.labels.as_ref())
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(name, label)));
        if !wanted {
            return NO;
        }
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or(&[]);
        let refused = |effects: &[&str]| {
            taints.iter().any(|t| effects.contains(&t.effect.as_str()) && !any_tolerates(&self.tolerations, t))
        };
        let should_run = !refused(&["NoSchedule", "NoExecute"]);
        Fit { should_run, may_stay: should_run || !refused(&["NoExecute"]) }
    }
}

/// Adds what every daemon tolerates, replacing what says less about the same taint.
pub(super) fn add_tolerations(list: &mut Vec<Toleration>, host_network: bool) {
    for (key, effect) in TOLERATED.into_iter().chain(host_network.then_some(NO_NETWORK)) {
        let wanted = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        let text = |v: &Option<String>| v.clone().unwrap_or_default();
        let same = |t: &Toleration| {
            let equal = |operator: String| if operator.is_empty() { "Equal".to_owned() } else { operator };
            text(&t.key) == key
                && text(&t.effect) == effect
                && equal(text(&t.operator)) == "Exists"
                && text(&t.value).is_empty()
        };
        match list.iter_mut().find(|t| same(t)) {
            Some(known) => *known = wanted,
            None => list.push(wanted),
        }
    }
}

/// Ties a pod to a node: the affinity's required terms are replaced, the scheduler does the rest.
pub(super) fn pin(spec: &mut PodSpec, node: &str) {
    let term = NodeSelectorTerm {
        match_fields: Some(vec![NodeSelectorRequirement {
            key: NODE_NAME.to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node.to_owned()]),
        }]),
        ..NodeSelectorTerm::default()
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let node_affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    node_affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

/// The node that a pod is on, or is tied to while nobody has scheduled it.
pub(super) fn target_node(pod: &Pod) -> Option<&str> {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return Some(bound);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut fields = terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let field = fields.find(|f| f.key == NODE_NAME && f.operator == "In")?;
    match field.values.as_deref() {
        Some([node]) => Some(node),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn placement(spec: Value) -> Placement {
        let ds = json!({"spec": {"selector": {}, "template": {"spec": spec}}});
        Placement::new(&serde_json::from_value(ds).unwrap())
    }

    fn node(taints: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"a": "b"}}, "spec": {"taints": taints}}))
            .unwrap()
    }

    #[test]
    fn where_daemons_run() {
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        let affinity = |terms: Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        for (name, spec, taints, want) in [
            ("plain", json!({"containers": []}), json!([]), (true, true)),
            ("this node", json!({"containers": [], "nodeName": "n1"}), json!([]), (true, true)),
            ("another node", json!({"containers": [], "nodeName": "n2"}), json!([]), (false, false)),
            ("label", json!({"containers": [], "nodeSelector": {"a": "b"}}), json!([]), (true, true)),
            ("no such label", json!({"containers": [], "nodeSelector": {"a": "c"}}), json!([]), (false, false)),
            (
                "field",
                affinity(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])),
                json!([]),
                (true, true),
            ),
            (
                "expression",
                affinity(json!([{"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}])),
                json!([]),
                (false, false),
            ),
            (
                "cordoned",
                json!({"containers": []}),
                taint("node.kubernetes.io/unschedulable", "NoSchedule"),
                (true, true),
            ),
            ("silent", json!({"containers": []}), taint("node.kubernetes.io/unreachable", "NoExecute"), (true, true)),
            (
                "no network",
                json!({"containers": []}),
                taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
                (false, true),
            ),
            (
                "host network",
                json!({"containers": [], "hostNetwork": true}),
                taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
                (true, true),
            ),
            ("tainted", json!({"containers": []}), taint("x", "NoSchedule"), (false, true)),
            ("driven out", json!({"containers": []}), taint("x", "NoExecute"), (false, false)),
            ("discouraged", json!({"containers": []}), taint("x", "PreferNoSchedule"), (true, true)),
            (
                "tolerated",
                json!({"containers": [], "tolerations": [{"key": "x", "operator": "Exists"}]}),
                taint("x", "NoExecute"),
                (true, true),
            ),
        ] {
            let fit = placement(spec).fit(&node(taints));
            assert_eq!((fit.should_run, fit.may_stay), want, "{name}");
        }
    }

    #[test]
    fn tolerations_and_pins() {
        let mut list: Vec<Toleration> = serde_json::from_value(
            json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 5}, {"key": "mine"}]),
        )
        .unwrap();
        add_tolerations(&mut list, true);
        assert_eq!(list.len(), 8);
        assert_eq!(list[0].toleration_seconds, None);
        let mut pod: Pod = serde_json::from_value(json!({"spec": {"containers": []}})).unwrap();
        assert_eq!(target_node(&pod), None);
        pin(pod.spec.as_mut().unwrap(), "n1");
        assert_eq!(target_node(&pod), Some("n1"));
        pod.spec.as_mut().unwrap().node_name = Some("n2".into());
        assert_eq!(target_node(&pod), Some("n2"));
    }
}
