//! InterPodAffinity: pods that want to be near to, or far from, other pods.
//!
//! Matches are counted per (topology key, value number). Pods of one template match alike, so each term is evaluated once per
//! template, not per pod; only nodes that hold pods with terms of their own are searched for those.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::Node;

use crate::cache::labels::ABSENT;
use crate::cache::snapshot::{NodeView, Snapshot};
use crate::config::args::InterPodAffinityArgs;
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::listers::Listers;
use crate::framework::plugin::{
    CycleContext, EnqueueExtensions, Filter, MAX_SCORE, Plugin, PreFilter, PreFiltered, PreScore, PreScored, Score,
    State, StateData, state_of,
};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};
use crate::framework::template::{AffinityTerm, Template};

/// The plugin.
pub struct InterPodAffinity {
    hard_weight: i64,
    ignore_preferred_of_existing: bool,
    listers: Arc<dyn Listers>,
}

/// Upstream's name.
pub const NAME: &str = "InterPodAffinity";

static AFFINITY: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unresolvable(NAME, "node(s) didn't match pod affinity rules"));
static ANTI_AFFINITY: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unschedulable(NAME, "node(s) didn't match pod anti-affinity rules"));
static EXISTING: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unschedulable(NAME, "node(s) didn't satisfy existing pods anti-affinity rules"));

/// Numbers per (topology key, value number).
#[derive(Clone, Default, Debug)]
struct Tally(HashMap<String, HashMap<u32, i64>>);

impl Tally {
    fn add(&mut self, snapshot: &Snapshot, slot: u32, key: &str, by: i64) {
        let value = domain(snapshot, key, slot);
        if value == ABSENT {
            return;
        }
        if !self.0.contains_key(key) {
            self.0.insert(key.to_owned(), HashMap::new());
        }
        let Some(values) = self.0.get_mut(key) else { return };
        let entry = values.entry(value).or_default();
        *entry += by;
        if *entry == 0 {
            values.remove(&value);
        }
    }

    fn get(&self, snapshot: &Snapshot, slot: u32, key: &str) -> i64 {
        self.0.get(key).and_then(|values| values.get(&domain(snapshot, key, slot))).copied().unwrap_or(0)
    }

    fn is_empty(&self) -> bool {
        self.0.values().all(HashMap::is_empty)
    }
}

#[derive(Clone)]
struct Counts {
    existing_anti: Tally,
    affinity: Tally,
    anti_affinity: Tally,
}

fn domain(snapshot: &Snapshot, key: &str, slot: u32) -> u32 {
    snapshot.labels.column(key).map_or(ABSENT, |column| column.values[slot as usize])
}

impl InterPodAffinity {
    /// With the profile's arguments.
    pub fn new(args: &InterPodAffinityArgs, listers: Arc<dyn Listers>) -> Self {
        Self {
            hard_weight: i64::from(args.hard_pod_affinity_weight),
            ignore_preferred_of_existing: args.ignore_preferred_terms_of_existing_pods,
            listers,
        }
    }

    /// Whether a term selects a pod.
    fn matches(&self, term: &AffinityTerm, other: &Template) -> bool {
        let namespace = &*other.namespace;
        let in_namespace = || {
            term.namespaces.iter().any(|listed| listed == namespace)
                || term
                    .namespace_selector
                    .as_ref()
                    .is_some_and(|selector| selector.matches(&self.listers.namespace_labels(namespace)))
        };
        term.selector.matches(&other.labels) && in_namespace()
    }

    fn matches_all(&self, terms: &[AffinityTerm], other: &Template) -> bool {
        !terms.is_empty() && terms.iter().all(|term| self.matches(term, other))
    }

    /// Counts one pod on a node (or uncounts it).
    fn count(&self, counts: &mut Counts, cx: &CycleContext<'_>, other: &PodInfo, slot: u32, by: i64) {
        let own = &cx.pod.template.affinity;
        for term in &other.template.affinity.required_anti {
            if self.matches(term, &cx.pod.template) {
                counts.existing_anti.add(cx.snapshot, slot, &term.topology_key, by);
            }
        }
        if self.matches_all(&own.required, &other.template) {
            for term in &own.required {
                counts.affinity.add(cx.snapshot, slot, &term.topology_key, by);
            }
        }
        for term in &own.required_anti {
            if self.matches(term, &other.template) {
                counts.anti_affinity.add(cx.snapshot, slot, &term.topology_key, by);
            }
        }
    }

    /// What the pods of one template contribute, worked out once.
    fn contribution(&self, cx: &CycleContext<'_>, other: &Template) -> Contribution {
        let own = &cx.pod.template.affinity;
        let keys = |terms: &[AffinityTerm], matching: &dyn Fn(&AffinityTerm) -> bool| {
            terms.iter().filter(|term| matching(term)).map(|term| term.topology_key.clone()).collect()
        };
        let all = self.matches_all(&own.required, other);
        Contribution {
            existing_anti: keys(&other.affinity.required_anti, &|term| self.matches(term, &cx.pod.template)),
            affinity: keys(&own.required, &|_| all),
            anti_affinity: keys(&own.required_anti, &|term| self.matches(term, other)),
        }
    }

    /// Weighted keys that the pods of one template add to the scores of their domains.
    fn attraction(&self, cx: &CycleContext<'_>, other: &Template) -> Vec<(String, i64)> {
        let own = &cx.pod.template;
        let mut found = Vec::new();
        let mut take = |terms: &[AffinityTerm], target: &Template, weight: &dyn Fn(&AffinityTerm) -> i64| {
            for term in terms {
                let weight = weight(term);
                if weight != 0 && self.matches(term, target) {
                    found.push((term.topology_key.clone(), weight));
                }
            }
        };
        take(&own.affinity.preferred, other, &|term| term.weight);
        take(&own.affinity.preferred_anti, other, &|term| -term.weight);
        take(&other.affinity.required, own, &|_| self.hard_weight);
        take(&other.affinity.preferred, own, &|term| term.weight);
        take(&other.affinity.preferred_anti, own, &|term| -term.weight);
        found
    }
}

struct Contribution {
    existing_anti: Vec<String>,
    affinity: Vec<String>,
    anti_affinity: Vec<String>,
}

extension_points!(InterPodAffinity {
    as_pre_filter: PreFilter,
    as_filter: Filter,
    as_pre_score: PreScore,
    as_score: Score,
    as_enqueue: EnqueueExtensions
});

/// Live slots among a set, or all of them.
fn slots(snapshot: &Snapshot, all: bool, some: &crate::framework::bitset::BitSet) -> Vec<u32> {
    if all { snapshot.order.clone() } else { some.iter().filter(|slot| snapshot.live.contains(*slot)).collect() }
}

impl PreFilter for InterPodAffinity {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        let own = &cx.pod.template.affinity;
        let has_terms = !own.required.is_empty() || !own.required_anti.is_empty();
        let mut counts =
            Counts { existing_anti: Tally::default(), affinity: Tally::default(), anti_affinity: Tally::default() };
        let mut known: HashMap<u64, Contribution> = HashMap::new();
        for slot in slots(cx.snapshot, has_terms, &cx.snapshot.with_anti_affinity) {
            for other in cx.snapshot.pods[slot as usize].iter() {
                let template = &other.template;
                let part = known.entry(template.id).or_insert_with(|| self.contribution(cx, template));
                for (tally, keys) in [
                    (&mut counts.existing_anti, &part.existing_anti),
                    (&mut counts.affinity, &part.affinity),
                    (&mut counts.anti_affinity, &part.anti_affinity),
                ] {
                    keys.iter().for_each(|key| tally.add(cx.snapshot, slot, key, 1));
                }
            }
        }
        if !has_terms && counts.existing_anti.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        Ok(PreFiltered::with(counts))
    }

    fn add_pod(&self, cx: &CycleContext<'_>, state: &mut dyn StateData, added: &PodInfo, node: &NodeView<'_>) {
        if let Some(counts) = state.as_any_mut().downcast_mut() {
            self.count(counts, cx, added, node.slot, 1);
        }
    }

    fn remove_pod(&self, cx: &CycleContext<'_>, state: &mut dyn StateData, gone: &PodInfo, node: &NodeView<'_>) {
        if let Some(counts) = state.as_any_mut().downcast_mut() {
            self.count(counts, cx, gone, node.slot, -1);
        }
    }
}

impl Filter for InterPodAffinity {
    fn filter(&self, cx: &CycleContext<'_>, state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        let Some(counts) = state_of::<Counts>(state) else { return Ok(()) };
        let own = &cx.pod.template.affinity;
        let mut near = true;
        for term in &own.required {
            if domain(cx.snapshot, &term.topology_key, node.slot) == ABSENT {
                return Err(AFFINITY.clone());
            }
            near &= counts.affinity.get(cx.snapshot, node.slot, &term.topology_key) > 0;
        }
        // The first pod of a group that wants to be near itself may go anywhere.
        let first = || counts.affinity.is_empty() && self.matches_all(&own.required, &cx.pod.template);
        if !near && !first() {
            return Err(AFFINITY.clone());
        }
        let crowded = |term: &AffinityTerm| counts.anti_affinity.get(cx.snapshot, node.slot, &term.topology_key) > 0;
        if own.required_anti.iter().any(crowded) {
            return Err(ANTI_AFFINITY.clone());
        }
        if counts.existing_anti.0.keys().any(|key| counts.existing_anti.get(cx.snapshot, node.slot, key) > 0) {
            return Err(EXISTING.clone());
        }
        Ok(())
    }
}

impl PreScore for InterPodAffinity {
    fn pre_score(&self, cx: &CycleContext<'_>, _nodes: &[u32]) -> Result<PreScored, Arc<Status>> {
        let own = &cx.pod.template.affinity;
        let has_terms = !own.preferred.is_empty() || !own.preferred_anti.is_empty();
        if self.ignore_preferred_of_existing && !has_terms {
            return Ok(PreScored::Skip);
        }
        let mut tally = Tally::default();
        let mut known: HashMap<u64, Vec<(String, i64)>> = HashMap::new();
        for slot in slots(cx.snapshot, has_terms, &cx.snapshot.with_affinity) {
            for other in cx.snapshot.pods[slot as usize].iter() {
                let template = &other.template;
                for (key, weight) in known.entry(template.id).or_insert_with(|| self.attraction(cx, template)) {
                    tally.add(cx.snapshot, slot, key, *weight);
                }
            }
        }
        if tally.0.is_empty() {
            return Ok(PreScored::Skip);
        }
        let state: State = Box::new(tally);
        Ok(PreScored::Continue(Some(state)))
    }
}

impl Score for InterPodAffinity {
    fn score(
        &self,
        cx: &CycleContext<'_>,
        state: Option<&dyn StateData>,
        nodes: &[u32],
        scores: &mut [i64],
    ) -> Result<(), Arc<Status>> {
        scores.fill(0);
        let Some(tally) = state_of::<Tally>(state) else { return Ok(()) };
        for key in tally.0.keys() {
            for (score, slot) in scores.iter_mut().zip(nodes) {
                *score += tally.get(cx.snapshot, *slot, key);
            }
        }
        Ok(())
    }

    fn normalize(&self, _cx: &CycleContext<'_>, _state: Option<&dyn StateData>, _nodes: &[u32], scores: &mut [i64]) {
        let min = scores.iter().copied().min().unwrap_or(0);
        let spread = scores.iter().copied().max().unwrap_or(0) - min;
        for score in scores {
            let part = if spread > 0 { (*score - min) as f64 / spread as f64 } else { 0.0 };
            *score = (MAX_SCORE as f64 * part) as i64;
        }
    }
}

impl InterPodAffinity {
    fn pod_hint(&self, pod: &PodInfo, old: Option<&Arc<PodInfo>>, new: Option<&Arc<PodInfo>>) -> bool {
        let own = &pod.template.affinity;
        let placed = |other: &PodInfo| other.node_name.is_some() || other.nominated.is_some();
        let wanted = |other: &PodInfo| self.matches_all(&own.required, &other.template);
        let unwanted = |other: &PodInfo| self.matches_all(&own.required_anti, &other.template);
        match (old, new) {
            (Some(_), Some(new)) if new.uid == pod.uid => true,
            (old, new) if !old.into_iter().chain(new).all(|other| placed(other)) => false,
            (Some(old), Some(new)) => (!wanted(old) && wanted(new)) || (unwanted(old) && !unwanted(new)),
            (None, Some(new)) => wanted(new),
            (Some(old), None) => unwanted(old) || self.matches_all(&old.template.affinity.required_anti, &pod.template),
            (None, None) => true,
        }
    }
}

impl EnqueueExtensions for InterPodAffinity {
    fn interests(&self) -> Vec<Interest> {
        vec![
            Interest { resource: Resource::AssignedPod, action: action::ADD | action::POD_LABEL | action::DELETE },
            Interest { resource: Resource::Node, action: action::ADD | action::NODE_LABEL },
        ]
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        let own = &pod.template.affinity;
        let value = |node: &Node, term: &AffinityTerm| {
            node.metadata.labels.as_ref().and_then(|labels| labels.get(&term.topology_key)).cloned()
        };
        let queue = match event.nodes() {
            (None, Some(new)) => {
                !own.required_anti.is_empty() || own.required.iter().any(|term| value(new, term).is_some())
            }
            (Some(old), Some(new)) => {
                let moved_in = |term: &AffinityTerm| value(new, term).is_some() && value(old, term) != value(new, term);
                let moved_out =
                    |term: &AffinityTerm| value(old, term).is_some() && value(old, term) != value(new, term);
                own.required.iter().any(moved_in) || own.required_anti.iter().any(moved_out)
            }
            _ => {
                let (old, new) = event.pods();
                self.pod_hint(pod, old, new)
            }
        };
        if queue { Hint::Queue } else { Hint::Skip }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::listers::NoListers;
    use crate::testing::{Cluster, PodBuilder, node, pod, pod_info};
    use serde_json::{Value, json};

    fn plugin() -> InterPodAffinity {
        InterPodAffinity::new(&InterPodAffinityArgs::default(), Arc::new(NoListers))
    }

    fn term(app: &str, key: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
    }

    fn required(builder: PodBuilder, kind: &str, terms: Value) -> PodBuilder {
        builder.affinity(kind, json!({"requiredDuringSchedulingIgnoredDuringExecution": terms}))
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new(&[
            node("n1").label("zone", "a"),
            node("n2").label("zone", "a"),
            node("n3").label("zone", "b"),
        ]);
        cluster.place(&pod("db").label("app", "db"), "n1");
        cluster
    }

    #[test]
    fn affinity_and_anti_affinity() {
        let near = "node(s) didn't match pod affinity rules";
        let far = "node(s) didn't match pod anti-affinity rules";
        for (builder, expected) in [
            (required(pod("p"), "podAffinity", json!([term("db", "zone")])), ["", "", near]),
            (required(pod("p"), "podAffinity", json!([term("db", "kubernetes.io/hostname")])), ["", near, near]),
            (required(pod("p"), "podAffinity", json!([term("db", "rack")])), [near, near, near]),
            (required(pod("p"), "podAntiAffinity", json!([term("db", "zone")])), [far, far, ""]),
            (required(pod("p").namespace("other"), "podAffinity", json!([term("db", "zone")])), [near, near, near]),
            (pod("p"), ["", "", ""]),
        ] {
            assert_eq!(cluster().verdicts(&plugin(), &pod_info(&builder)), expected);
        }
    }

    #[test]
    fn the_first_of_a_group_may_go_anywhere() {
        let builder = required(pod("p").label("app", "new"), "podAffinity", json!([term("new", "zone")]));
        assert_eq!(cluster().verdicts(&plugin(), &pod_info(&builder)), ["", "", ""]);
    }

    #[test]
    fn existing_pods_keep_others_away() {
        let mut cluster = cluster();
        let jealous = required(pod("jealous").label("app", "j"), "podAntiAffinity", json!([term("web", "zone")]));
        cluster.place(&jealous, "n3");
        let existing = "node(s) didn't satisfy existing pods anti-affinity rules";
        let web = pod_info(&pod("web").label("app", "web"));
        assert_eq!(cluster.verdicts(&plugin(), &web), ["", "", existing]);
    }

    #[test]
    fn preferences_score() {
        let preferred = |kind: &str| {
            pod("p").affinity(
                kind,
                json!({"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 10, "podAffinityTerm": term("db", "zone")}]}),
            )
        };
        assert_eq!(cluster().scores(&plugin(), &pod_info(&preferred("podAffinity"))), [100, 100, 0]);
        assert_eq!(cluster().scores(&plugin(), &pod_info(&preferred("podAntiAffinity"))), [0, 0, 100]);
        let mut cluster = cluster();
        let fond = required(pod("fond"), "podAffinity", json!([term("web", "zone")]));
        cluster.place(&fond, "n3");
        let web = pod_info(&pod("web").label("app", "web"));
        assert_eq!(cluster.scores(&plugin(), &web), [0, 0, 100], "hard affinity of others attracts");
    }
}
