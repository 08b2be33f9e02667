//! NodeAffinity: spec.nodeSelector, required and preferred node affinity, and the affinity that the profile adds.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::Node;

use crate::cache::snapshot::NodeView;
use crate::config::args::NodeAffinityArgs;
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::plugin::{
    CycleContext, EnqueueExtensions, Filter, Plugin, PreFilter, PreFiltered, PreScore, PreScored, Scope, Score,
    StateData, normalize_by_max,
};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};
use crate::framework::template::Template;
use common::meta::nodeselector::{Operator, Term, WeightedTerm};

/// The plugin, with the terms that the profile's `addedAffinity` puts on every pod.
#[derive(Default)]
pub struct NodeAffinity {
    added_required: Option<Vec<Term>>,
    added_preferred: Vec<WeightedTerm>,
}

/// Upstream's name.
pub const NAME: &str = "NodeAffinity";

static MISMATCH: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unresolvable(NAME, "node(s) didn't match Pod's node affinity/selector"));
static ENFORCED: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unresolvable(NAME, "node(s) didn't match scheduler-enforced node affinity"));
static CONFLICT: LazyLock<Arc<Status>> = LazyLock::new(|| Status::unresolvable(NAME, "pod affinity terms conflict"));

impl NodeAffinity {
    /// With the profile's arguments.
    pub fn new(args: &NodeAffinityArgs) -> Self {
        let added = args.added_affinity.as_ref();
        Self {
            added_required: added
                .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
                .map(Term::parse_all),
            added_preferred: added
                .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_deref())
                .map(WeightedTerm::parse_all)
                .unwrap_or_default(),
        }
    }
}

fn any_term<'a>(terms: &[Term], name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    terms.iter().any(|term| term.matches(name, &label))
}

/// Whether a node satisfies the pod's own nodeSelector and required affinity.
pub fn required_matches<'a>(template: &Template, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    template.node_selector.iter().all(|(key, value)| label(key) == Some(value))
        && template.node_affinity.as_ref().is_none_or(|terms| any_term(terms, name, label))
}

/// The node names that the terms pin the pod to; `None` when some term leaves the name open.
fn pinned_names(terms: &[Term]) -> Option<BTreeSet<&str>> {
    let mut names = BTreeSet::new();
    if terms.is_empty() {
        return None;
    }
    for term in terms {
        let mut own: Option<BTreeSet<&str>> = None;
        for field in &term.fields {
            if let Operator::In(values) = &field.operator {
                let set: BTreeSet<&str> = values.iter().map(String::as_str).collect();
                own = Some(own.map_or(set.clone(), |own| own.intersection(&set).copied().collect()));
            }
        }
        names.extend(own?);
    }
    Some(names)
}

fn node_labels<'a>(node: &'a Node) -> impl Fn(&str) -> Option<&'a str> {
    move |key| node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

extension_points!(NodeAffinity {
    as_pre_filter: PreFilter,
    as_filter: Filter,
    as_pre_score: PreScore,
    as_score: Score,
    as_enqueue: EnqueueExtensions
});

impl PreFilter for NodeAffinity {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        let template = &cx.pod.template;
        if template.node_affinity.is_none() && self.added_required.is_none() && template.node_selector.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        let nodes = match template.node_affinity.as_deref().and_then(pinned_names) {
            Some(names) if names.is_empty() => return Err(CONFLICT.clone()),
            Some(names) => Some(names.iter().filter_map(|name| cx.snapshot.by_name.get(*name).copied()).collect()),
            None => None,
        };
        Ok(PreFiltered::Continue { state: None, nodes })
    }
}

impl Filter for NodeAffinity {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn filter(&self, cx: &CycleContext<'_>, _state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        let label = |key: &str| node.label(key);
        if self.added_required.as_ref().is_some_and(|terms| !any_term(terms, node.name(), label)) {
            return Err(ENFORCED.clone());
        }
        if !required_matches(&cx.pod.template, node.name(), label) {
            return Err(MISMATCH.clone());
        }
        Ok(())
    }
}

impl PreScore for NodeAffinity {
    fn pre_score(&self, cx: &CycleContext<'_>, _nodes: &[u32]) -> Result<PreScored, Arc<Status>> {
        let nothing = self.added_preferred.is_empty() && cx.pod.template.preferred_nodes.is_empty();
        Ok(if nothing { PreScored::Skip } else { PreScored::Continue(None) })
    }
}

impl Score for NodeAffinity {
    fn score(
        &self,
        cx: &CycleContext<'_>,
        _state: Option<&dyn StateData>,
        nodes: &[u32],
        scores: &mut [i64],
    ) -> Result<(), Arc<Status>> {
        for (score, slot) in scores.iter_mut().zip(nodes) {
            let node = cx.snapshot.node(*slot);
            let preferred = self.added_preferred.iter().chain(&cx.pod.template.preferred_nodes);
            *score = preferred
                .filter(|preferred| preferred.term.matches(node.name(), |key| node.label(key)))
                .map(|preferred| preferred.weight)
                .sum();
        }
        Ok(())
    }

    fn normalize(&self, _cx: &CycleContext<'_>, _state: Option<&dyn StateData>, _nodes: &[u32], scores: &mut [i64]) {
        normalize_by_max(scores, false);
    }
}

impl EnqueueExtensions for NodeAffinity {
    fn interests(&self) -> Vec<Interest> {
        vec![Interest { resource: Resource::Node, action: action::ADD | action::NODE_LABEL }]
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        let matches = |node: &Node| {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            required_matches(&pod.template, name, node_labels(node))
        };
        let enforced = |node: &Node| {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            self.added_required.as_ref().is_none_or(|terms| any_term(terms, name, node_labels(node)))
        };
        match event.nodes() {
            (old, Some(new)) if enforced(new) && matches(new) && old.is_none_or(|old| !matches(old)) => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, node, pod, pod_info};
    use serde_json::json;

    fn cluster() -> Cluster {
        Cluster::new(&[
            node("n1").label("disk", "ssd").label("cores", "8"),
            node("n2").label("disk", "hdd"),
            node("n3"),
        ])
    }

    fn required(terms: serde_json::Value) -> crate::testing::PodBuilder {
        pod("p").node_affinity(json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}))
    }

    #[test]
    fn filter() {
        let no = "node(s) didn't match Pod's node affinity/selector";
        let expr =
            |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        let cases = [
            (pod("p").node_selector("disk", "ssd"), ["", no, no]),
            (required(json!([{"matchExpressions": [expr("disk", "In", &["ssd", "hdd"])]}])), ["", "", no]),
            (required(json!([{"matchExpressions": [expr("disk", "NotIn", &["hdd"])]}])), ["", no, ""]),
            (required(json!([{"matchExpressions": [expr("cores", "Gt", &["4"])]}])), ["", no, no]),
            (required(json!([{"matchFields": [expr("metadata.name", "In", &["n3"])]}])), [no, no, ""]),
            (
                required(json!([{"matchExpressions": [expr("disk", "In", &["ssd"])]},
                                {"matchFields": [expr("metadata.name", "In", &["n3"])]}])),
                ["", no, ""],
            ),
            (required(json!([])), [no, no, no]),
            (required(json!([{}])), [no, no, no]),
        ];
        for (builder, expected) in cases {
            let pod = pod_info(&builder);
            assert_eq!(cluster().verdicts(&NodeAffinity::default(), &pod), expected, "{:?}", pod.template);
        }
    }

    #[test]
    fn pinned_nodes_narrow_the_search() {
        let field = |name: &str| json!({"key": "metadata.name", "operator": "In", "values": [name]});
        let cluster = cluster();
        let narrowed = |builder| {
            let pod = pod_info(&builder);
            match PreFilter::pre_filter(&NodeAffinity::default(), &cluster.context(&pod)) {
                Ok(PreFiltered::Continue { nodes, .. }) => Ok(nodes),
                Ok(PreFiltered::Skip) => panic!("skipped"),
                Err(status) => Err(status.message()),
            }
        };
        assert_eq!(narrowed(required(json!([{"matchFields": [field("n2")]}]))), Ok(Some(vec![1])));
        assert_eq!(narrowed(required(json!([{"matchFields": [field("gone")]}]))), Ok(Some(vec![])));
        assert_eq!(
            narrowed(required(json!([{"matchFields": [field("n2"), field("n1")]}]))),
            Err("pod affinity terms conflict".into())
        );
        let open = json!([{"matchFields": [field("n2")]},
                          {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]);
        assert_eq!(narrowed(required(open)), Ok(None));
    }

    #[test]
    fn preferred_terms_add_up() {
        let preferred = |weight: i32, key: &str, value: &str| {
            json!({"weight": weight, "preference": {"matchExpressions": [
                {"key": key, "operator": "In", "values": [value]}]}})
        };
        let builder = pod("p").node_affinity(json!({"preferredDuringSchedulingIgnoredDuringExecution": [
            preferred(2, "disk", "ssd"), preferred(4, "cores", "8"), preferred(3, "disk", "hdd")]}));
        assert_eq!(cluster().scores(&NodeAffinity::default(), &pod_info(&builder)), [100, 50, 0]);
    }

    #[test]
    fn added_affinity_is_enforced() {
        let args: NodeAffinityArgs = serde_json::from_value(json!({"addedAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}}))
        .unwrap();
        let verdicts = cluster().verdicts(&NodeAffinity::new(&args), &pod_info(&pod("p")));
        assert_eq!(verdicts, ["", "", "node(s) didn't match scheduler-enforced node affinity"]);
    }
}
