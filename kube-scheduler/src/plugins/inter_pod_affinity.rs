//! InterPodAffinity: pods that want to be near to, or far from, other pods.
//!
//! Matches are counted per (topology key, value number) and followed from cycle to cycle ([`TallyMemo`]). Pods of one
//! template match alike, so each term is evaluated once per pair of templates. Verdicts are worked out for all nodes at once.

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;

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
use crate::framework::tally::{Part, Tally, TallyMemo, domain};
use crate::framework::template::{AffinityTerm, Template};

/// The plugin.
pub struct InterPodAffinity {
    hard_weight: i64,
    ignore_preferred_of_existing: bool,
    listers: Arc<dyn Listers>,
    required: Mutex<TallyMemo<3>>,
    preferred: Mutex<TallyMemo<1>>,
}

/// Upstream's name.
pub const NAME: &str = "InterPodAffinity";

static AFFINITY: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unresolvable(NAME, "node(s) didn't match pod affinity rules"));
static ANTI_AFFINITY: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unschedulable(NAME, "node(s) didn't match pod anti-affinity rules"));
static EXISTING: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unschedulable(NAME, "node(s) didn't satisfy existing pods anti-affinity rules"));

#[derive(Clone)]
struct Counts {
    existing_anti: Tally,
    affinity: Tally,
    anti_affinity: Tally,
    /// What [`InterPodAffinity::verdict`] says of every slot; gone once pods were added or removed on trial.
    verdicts: Option<Arc<Vec<u8>>>,
}

const PASS: u8 = 0;
const FAR: u8 = 1;
const CROWDED: u8 = 2;
const KEPT_AWAY: u8 = 3;

impl InterPodAffinity {
    /// With the profile's arguments.
    pub fn new(args: &InterPodAffinityArgs, listers: Arc<dyn Listers>) -> Self {
        Self {
            hard_weight: i64::from(args.hard_pod_affinity_weight),
            ignore_preferred_of_existing: args.ignore_preferred_terms_of_existing_pods,
            listers,
            required: Mutex::default(),
            preferred: Mutex::default(),
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

    /// What a pod of another template adds: to the anti-affinity of existing pods, to the pod's own affinity and to its
    /// own anti-affinity.
    fn part(&self, own: &Template, other: &Template) -> Part {
        let all = self.matches_all(&own.affinity.required, other);
        let existing = other.affinity.required_anti.iter().filter(|term| self.matches(term, own)).map(|t| (0, t));
        let near = own.affinity.required.iter().filter(|_| all).map(|term| (1, term));
        let far = own.affinity.required_anti.iter().filter(|term| self.matches(term, other)).map(|term| (2, term));
        existing.chain(near).chain(far).map(|(tally, term)| (tally, term.topology_key.as_str().into(), 1)).collect()
    }

    /// Verdicts of all slots.
    fn verdicts(&self, cx: &CycleContext<'_>, counts: &Counts) -> Vec<u8> {
        let own = &cx.pod.template.affinity;
        let mut verdicts = vec![PASS; cx.snapshot.slots()];
        // In reverse order of precedence, so that the reason named is the one a node-by-node look would find first.
        for key in counts.existing_anti.keys() {
            mark(&mut verdicts, cx.snapshot, key, counts.existing_anti.numbers(key), KEPT_AWAY, |count| count > 0);
        }
        for term in &own.required_anti {
            let key = &term.topology_key;
            mark(&mut verdicts, cx.snapshot, key, counts.anti_affinity.numbers(key), CROWDED, |count| count > 0);
        }
        let alone =
            !own.required.is_empty() && counts.affinity.is_empty() && self.matches_all(&own.required, &cx.pod.template);
        for term in &own.required {
            match cx.snapshot.labels.column(&term.topology_key) {
                None => verdicts.fill(FAR),
                Some(column) => {
                    let numbers = counts.affinity.numbers(&term.topology_key);
                    for (verdict, value) in verdicts.iter_mut().zip(&column.values) {
                        let near = alone || numbers.get(*value as usize).is_some_and(|count| *count > 0);
                        if *value == ABSENT || !near {
                            *verdict = FAR;
                        }
                    }
                }
            }
        }
        verdicts
    }

    /// Weighted keys that the pods of one template add to the scores of their domains.
    fn attraction(&self, own: &Template, other: &Template) -> Part {
        let mut found = Vec::new();
        let mut take = |terms: &[AffinityTerm], target: &Template, weight: &dyn Fn(&AffinityTerm) -> i64| {
            for term in terms {
                let weight = weight(term);
                if weight != 0 && self.matches(term, target) {
                    found.push((0, term.topology_key.as_str().into(), weight));
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

/// Marks the slots whose domain's number is of a kind.
fn mark(verdicts: &mut [u8], snapshot: &Snapshot, key: &str, numbers: &[i64], with: u8, when: impl Fn(i64) -> bool) {
    let Some(column) = snapshot.labels.column(key) else { return };
    for (verdict, value) in verdicts.iter_mut().zip(&column.values) {
        if *value != ABSENT && numbers.get(*value as usize).is_some_and(|number| when(*number)) {
            *verdict = with;
        }
    }
}

extension_points!(InterPodAffinity {
    as_pre_filter: PreFilter,
    as_filter: Filter,
    as_pre_score: PreScore,
    as_score: Score,
    as_enqueue: EnqueueExtensions
});

impl PreFilter for InterPodAffinity {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        let own = &cx.pod.template;
        let has_terms = !own.affinity.required.is_empty() || !own.affinity.required_anti.is_empty();
        let some = &cx.snapshot.with_anti_affinity;
        if !has_terms && some.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        let [existing_anti, affinity, anti_affinity] = self.required.lock().tallies(
            own.id,
            self.listers.namespaces_version(),
            cx.snapshot,
            |slot| has_terms || some.contains(slot),
            |other| self.part(own, other),
        );
        if !has_terms && existing_anti.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        let mut counts = Counts { existing_anti, affinity, anti_affinity, verdicts: None };
        counts.verdicts = Some(Arc::new(self.verdicts(cx, &counts)));
        Ok(PreFiltered::with(counts))
    }

    fn add_pod(&self, cx: &CycleContext<'_>, state: &mut dyn StateData, added: &PodInfo, node: &NodeView<'_>) {
        if let Some(counts) = state.as_any_mut().downcast_mut::<Counts>() {
            counts.verdicts = None;
            self.count(counts, cx, added, node.slot, 1);
        }
    }

    fn remove_pod(&self, cx: &CycleContext<'_>, state: &mut dyn StateData, gone: &PodInfo, node: &NodeView<'_>) {
        if let Some(counts) = state.as_any_mut().downcast_mut::<Counts>() {
            counts.verdicts = None;
            self.count(counts, cx, gone, node.slot, -1);
        }
    }
}

impl Filter for InterPodAffinity {
    fn filter(&self, cx: &CycleContext<'_>, state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        let Some(counts) = state_of::<Counts>(state) else { return Ok(()) };
        let verdict = match &counts.verdicts {
            Some(verdicts) => verdicts[node.slot as usize],
            None => self.verdict(cx, counts, node.slot),
        };
        match verdict {
            PASS => Ok(()),
            FAR => Err(AFFINITY.clone()),
            CROWDED => Err(ANTI_AFFINITY.clone()),
            _ => Err(EXISTING.clone()),
        }
    }
}

impl InterPodAffinity {
    /// The verdict on one node, from its domains' counts.
    fn verdict(&self, cx: &CycleContext<'_>, counts: &Counts, slot: u32) -> u8 {
        let own = &cx.pod.template.affinity;
        let mut near = true;
        for term in &own.required {
            if domain(cx.snapshot, &term.topology_key, slot) == ABSENT {
                return FAR;
            }
            near &= counts.affinity.get(cx.snapshot, slot, &term.topology_key) > 0;
        }
        // The first pod of a group that wants to be near itself may go anywhere.
        let first = || counts.affinity.is_empty() && self.matches_all(&own.required, &cx.pod.template);
        if !near && !first() {
            return FAR;
        }
        if own.required_anti.iter().any(|term| counts.anti_affinity.get(cx.snapshot, slot, &term.topology_key) > 0) {
            return CROWDED;
        }
        if counts.existing_anti.keys().any(|key| counts.existing_anti.get(cx.snapshot, slot, key) > 0) {
            return KEPT_AWAY;
        }
        PASS
    }
}

impl PreScore for InterPodAffinity {
    fn pre_score(&self, cx: &CycleContext<'_>, _nodes: &[u32]) -> Result<PreScored, Arc<Status>> {
        let own = &cx.pod.template.affinity;
        let has_terms = !own.preferred.is_empty() || !own.preferred_anti.is_empty();
        if self.ignore_preferred_of_existing && !has_terms {
            return Ok(PreScored::Skip);
        }
        let some = &cx.snapshot.with_affinity;
        if !has_terms && some.is_empty() {
            return Ok(PreScored::Skip);
        }
        let own = &cx.pod.template;
        let [tally] = self.preferred.lock().tallies(
            own.id,
            self.listers.namespaces_version(),
            cx.snapshot,
            |slot| has_terms || some.contains(slot),
            |other| self.attraction(own, other),
        );
        if tally.is_empty() {
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
        for key in tally.keys() {
            let Some(column) = cx.snapshot.labels.column(key) else { continue };
            let numbers = tally.numbers(key);
            for (score, slot) in scores.iter_mut().zip(nodes) {
                *score += numbers.get(column.values[*slot as usize] as usize).copied().unwrap_or(0);
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
