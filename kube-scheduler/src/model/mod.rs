//! Slow, obviously right models of the plugins, and random clusters to compare the plugins with them.
//!
//! A model reads API objects only: no template, no column, no count that outlives a question. The plugins under test live as
//! long as a whole history of events, so that whatever they keep between cycles is tested too.

mod nodes;
mod pods;
mod whole;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::framework::plugin::{Plugin, PreFiltered, PreScored};
use crate::framework::pod::PodInfo;
use crate::testing::{Cluster, INTERNER, PodBuilder, node, pod};

pub const HOST: &str = "kubernetes.io/hostname";
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// The same cluster twice: as objects, and as the scheduler has it.
pub struct World {
    pub nodes: BTreeMap<String, Arc<Node>>,
    pub running: BTreeMap<String, Pod>,
    pub cluster: Cluster,
    dice: StdRng,
    made: usize,
}

/// Random choices.
impl World {
    pub fn new(seed: u64) -> Self {
        let dice = StdRng::seed_from_u64(seed);
        let mut world =
            Self { nodes: BTreeMap::new(), running: BTreeMap::new(), cluster: Cluster::new(&[]), dice, made: 0 };
        (0..world.below(6) + 1).for_each(|_| world.set_node());
        world.cluster.refresh();
        world
    }

    fn below(&mut self, end: usize) -> usize {
        self.dice.random_range(0..end)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// One event: a node comes, changes or goes, a pod starts or ends.
    pub fn step(&mut self) {
        match self.below(10) {
            0..2 => self.set_node(),
            2 => {
                if let Some(name) = self.some_node() {
                    self.nodes.remove(&name);
                    self.cluster.cache.remove_node(&name);
                }
            }
            3..5 => {
                let names: Vec<String> = self.running.keys().cloned().collect();
                if !names.is_empty() {
                    let gone = &names[self.below(names.len())];
                    self.running.remove(gone);
                    self.cluster.cache.remove_pod(gone);
                }
            }
            _ => {
                if let Some(name) = self.some_node() {
                    let pod = self.pod();
                    self.run(pod, &name);
                }
            }
        }
        // Several changes may meet between two cycles.
        if !self.one_in(3) {
            self.cluster.refresh();
        }
    }

    /// A pod runs on a node.
    pub fn run(&mut self, mut pod: Pod, on: &str) {
        pod.spec.as_mut().unwrap().node_name = Some(on.to_owned());
        self.cluster.cache.add_pod(Arc::new(PodInfo::new(&pod, &INTERNER))).unwrap();
        self.running.insert(pod.metadata.uid.clone().unwrap(), pod);
    }

    fn some_node(&mut self) -> Option<String> {
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        (!names.is_empty()).then(|| names[self.below(names.len())].clone())
    }

    fn set_node(&mut self) {
        let name = format!("n{}", self.below(7));
        let mut made = node(&name).cpu(self.pick(&["1", "2", "4"])).memory(self.pick(&["1Gi", "4Gi"]));
        made = made.pods(self.pick(&["2", "110"]));
        if !self.one_in(4) {
            made = made.label(ZONE, self.pick(&["a", "b", "c"]));
        }
        if self.one_in(3) {
            made = made.label("disk", self.pick(&["ssd", "hdd", "9"]));
        }
        for (key, value, effect) in
            [("team", "x", "NoSchedule"), ("soft", "", "PreferNoSchedule"), ("gone", "", "NoExecute")]
        {
            if self.one_in(6) {
                made = made.taint(key, value, effect);
            }
        }
        if self.one_in(8) {
            made = made.cordoned();
        }
        if self.one_in(3) {
            made = made.allocatable("example.com/gpu", self.pick(&["1", "3"]));
        }
        for (image, size) in [("small:1", 30 << 20), ("large:1", 900 << 20)] {
            if self.one_in(2) {
                made = made.image(image, size);
            }
        }
        let made = made.build();
        self.cluster.cache.set_node(made.clone());
        self.nodes.insert(name, made);
    }

    /// A pod that may have any of what plugins look at, but mostly little of it.
    pub fn pod(&mut self) -> Pod {
        self.made += 1;
        let mut made = pod(&format!("p{}", self.made)).namespace(self.pick(&["default", "default", "other"]));
        made = made.images(&[self.pick(&["small:1", "large:1", "unknown:1"])]);
        made = made.spec("priority", json!(self.below(3)));
        if !self.one_in(4) {
            made = made.label("app", self.pick(&["web", "db"]));
        }
        made = self.requests(made);
        made = self.nodes_wanted(made);
        made = self.neighbours_wanted(made);
        if self.one_in(4) {
            let ip = self.pick(&["0.0.0.0", "127.0.0.1", "127.0.0.2"]);
            let port = json!({"protocol": self.pick(&["TCP", "UDP"]), "hostIP": ip, "hostPort": 80 + self.below(2), "containerPort": 1});
            let mut value = serde_json::to_value(made.build()).unwrap();
            value["spec"]["containers"][0]["ports"] = json!([port]);
            return serde_json::from_value(value).unwrap();
        }
        made.build()
    }

    fn requests(&mut self, mut made: PodBuilder) -> PodBuilder {
        for (resource, amounts) in
            [("cpu", ["100m", "500m", "3"]), ("memory", ["1Mi", "500Mi", "2Gi"]), ("example.com/gpu", ["1", "1", "2"])]
        {
            let rare = if resource == "example.com/gpu" { 5 } else { 2 };
            if self.one_in(rare) {
                made = made.request(resource, self.pick(&amounts));
            }
        }
        made
    }

    fn nodes_wanted(&mut self, mut made: PodBuilder) -> PodBuilder {
        if self.one_in(4) {
            made = made.toleration("team", "Equal", self.pick(&["x", "y"]), "NoSchedule");
        }
        if self.one_in(4) {
            made = made.toleration("", "Exists", "", self.pick(&["", "NoExecute", "PreferNoSchedule"]));
        }
        if self.one_in(6) {
            made = made.node_selector(ZONE, self.pick(&["a", "b"]));
        }
        if self.one_in(3) {
            let required: Vec<Value> = (0..self.below(2)).map(|_| self.node_term()).collect();
            let preferred: Vec<Value> = (0..self.below(3))
                .map(|_| json!({"weight": self.below(5) + 1, "preference": self.node_term()}))
                .collect();
            let mut affinity = json!({"preferredDuringSchedulingIgnoredDuringExecution": preferred});
            if !required.is_empty() {
                affinity["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": required});
            }
            made = made.node_affinity(affinity);
        }
        made
    }

    fn node_term(&mut self) -> Value {
        let expressions: Vec<Value> = (0..self.below(2) + 1)
            .map(|_| {
                let key = self.pick(&[ZONE, "disk"]);
                let (operator, values) = match self.below(6) {
                    0 => ("NotIn", vec![self.pick(&["a", "ssd"])]),
                    1 => ("Exists", vec![]),
                    2 => ("DoesNotExist", vec![]),
                    3 => ("Gt", vec!["5"]),
                    4 => ("Lt", vec!["5"]),
                    _ => ("In", vec![self.pick(&["a", "b"]), self.pick(&["ssd", "9"])]),
                };
                json!({"key": key, "operator": operator, "values": values})
            })
            .collect();
        json!({"matchExpressions": expressions})
    }

    fn neighbours_wanted(&mut self, mut made: PodBuilder) -> PodBuilder {
        for kind in ["podAffinity", "podAntiAffinity"] {
            if self.one_in(4) {
                let required: Vec<Value> =
                    (0..self.below(2) + usize::from(self.one_in(8))).map(|_| self.pod_term()).collect();
                let preferred: Vec<Value> = (0..self.below(2))
                    .map(|_| json!({"weight": self.below(9) + 1, "podAffinityTerm": self.pod_term()}))
                    .collect();
                made = made.affinity(
                    kind,
                    json!({"requiredDuringSchedulingIgnoredDuringExecution": required,
                           "preferredDuringSchedulingIgnoredDuringExecution": preferred}),
                );
            }
        }
        if self.one_in(3) {
            let constraints: Vec<Value> = (0..self.below(2) + 1).map(|_| self.spread()).collect();
            made = made.spec("topologySpreadConstraints", json!(constraints));
        }
        made
    }

    fn pod_term(&mut self) -> Value {
        let mut term = json!({"topologyKey": self.pick(&[HOST, ZONE]), "labelSelector": self.selector()});
        if self.one_in(3) {
            term["namespaces"] = json!([self.pick(&["default", "other"])]);
        }
        if self.one_in(5) {
            term["namespaceSelector"] = json!({});
        }
        term
    }

    fn selector(&mut self) -> Value {
        match self.below(4) {
            0 => json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
            1 => json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]}),
            _ => json!({"matchLabels": {"app": self.pick(&["web", "db"])}}),
        }
    }

    fn spread(&mut self) -> Value {
        let when = self.pick(&["DoNotSchedule", "ScheduleAnyway"]);
        let mut constraint = json!({"maxSkew": self.below(3) + 1, "topologyKey": self.pick(&[HOST, ZONE]),
            "whenUnsatisfiable": when, "labelSelector": self.selector()});
        if when == "DoNotSchedule" && self.one_in(3) {
            constraint["minDomains"] = json!(self.below(4) + 1);
        }
        if self.one_in(3) {
            constraint["nodeAffinityPolicy"] = json!(self.pick(&["Honor", "Ignore"]));
        }
        if self.one_in(3) {
            constraint["nodeTaintsPolicy"] = json!(self.pick(&["Honor", "Ignore"]));
        }
        constraint
    }

    /// The pods on a node.
    pub fn on<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.running.values().filter(move |pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(name))
    }

    /// What the plugin says of each node; empty means yes.
    pub fn verdicts(&mut self, plugin: &dyn Plugin, pod: &Pod) -> BTreeMap<String, String> {
        self.cluster.refresh();
        let info = PodInfo::new(pod, &INTERNER);
        let cx = self.cluster.context(&info);
        let mut state = None;
        if let Some(pre_filter) = plugin.as_pre_filter() {
            match pre_filter.pre_filter(&cx) {
                Ok(PreFiltered::Skip) => return self.nodes.keys().map(|name| (name.clone(), String::new())).collect(),
                Ok(PreFiltered::Continue { state: made, .. }) => state = made,
                Err(status) => return self.nodes.keys().map(|name| (name.clone(), status.message())).collect(),
            }
        }
        let verdict = |slot: &u32| {
            let node = self.cluster.snapshot.node(*slot);
            let verdict = plugin.as_filter().unwrap().filter(&cx, state.as_deref(), &node);
            (node.name().to_string(), verdict.map_or_else(|status| status.message(), |()| String::new()))
        };
        self.cluster.snapshot.order.iter().map(verdict).collect()
    }

    /// The plugin's normalized scores; `None` when it has no say.
    pub fn scores(&mut self, plugin: &dyn Plugin, pod: &Pod) -> Option<BTreeMap<String, i64>> {
        self.cluster.refresh();
        let info = PodInfo::new(pod, &INTERNER);
        let cx = self.cluster.context(&info);
        let slots = self.cluster.snapshot.order.clone();
        let mut state = None;
        if let Some(pre_score) = plugin.as_pre_score() {
            match pre_score.pre_score(&cx, &slots).unwrap() {
                PreScored::Skip => return None,
                PreScored::Continue(made) => state = made,
            }
        }
        let mut scores = vec![0; slots.len()];
        let score = plugin.as_score().unwrap();
        score.score(&cx, state.as_deref(), &slots, &mut scores).unwrap();
        score.normalize(&cx, state.as_deref(), &slots, &mut scores);
        let name = |slot: &u32| self.cluster.snapshot.names[*slot as usize].to_string();
        Some(slots.iter().map(name).zip(scores).collect())
    }
}

/// A node's label.
pub fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// Whether a label selector selects these labels; a missing one selects nothing.
pub fn selects(selector: Option<&LabelSelector>, pod: &Pod) -> bool {
    let Some(selector) = selector else { return false };
    let empty = BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let listed = |value: &String| expression.values.iter().flatten().any(|other| other == value);
            match (expression.operator.as_str(), labels.get(&expression.key)) {
                ("In", value) => value.is_some_and(listed),
                ("NotIn", value) => !value.is_some_and(listed),
                ("Exists", value) => value.is_some(),
                (_, value) => value.is_none(),
            }
        })
}

/// Whether a node is one that a term means; an empty term means none.
pub fn node_term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let matches = |expression: &NodeSelectorRequirement| {
        let value = label(node, &expression.key);
        let values = || expression.values.iter().flatten();
        let number = |text: &str| text.parse::<i64>().ok();
        let compared = || Some(number(value?)?.cmp(&number(values().next()?)?));
        match expression.operator.as_str() {
            "In" => values().any(|listed| Some(listed.as_str()) == value),
            "NotIn" => !values().any(|listed| Some(listed.as_str()) == value),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => compared() == Some(std::cmp::Ordering::Greater),
            _ => compared() == Some(std::cmp::Ordering::Less),
        }
    };
    expressions.clone().next().is_some() && expressions.into_iter().all(matches)
}

/// Whether a pod's nodeSelector and required node affinity allow a node.
pub fn node_affinity_allows(pod: &Pod, node: &Node) -> bool {
    let spec = pod.spec.as_ref().unwrap();
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| label(node, key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| node_term_matches(term, node)))
}

/// How many of a node's taints of these effects the pod does not tolerate. With `preferring`, only tolerations of
/// PreferNoSchedule (or of every effect) count.
pub fn untolerated_taints(pod: &Pod, node: &Node, effects: &[&str], preferring: bool) -> usize {
    let tolerations = || pod.spec.as_ref().unwrap().tolerations.iter().flatten();
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .filter(|taint| {
            !tolerations().any(|toleration| {
                let effect = toleration.effect.as_deref().unwrap_or_default();
                let key = toleration.key.as_deref().unwrap_or_default();
                let exists = toleration.operator.as_deref() == Some("Exists");
                (!preferring || effect.is_empty() || effect == "PreferNoSchedule")
                    && (effect.is_empty() || effect == taint.effect)
                    && (key.is_empty() || key == taint.key)
                    && (exists
                        || toleration.value.as_deref().unwrap_or_default()
                            == taint.value.as_deref().unwrap_or_default())
            })
        })
        .count()
}
