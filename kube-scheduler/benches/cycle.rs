//! The decision alone: no API server, no bindings. `cargo bench -p kube-scheduler --bench cycle [-- FILTER]`, where the filter is
//! part of `workload/nodes`.
//!
//! Every decision is assumed at once, as the scheduler does, so the next one sees a cluster with one more pod; what is timed
//! is the snapshot's update, the decision and the assumption. Workloads are shaped like upstream's scheduler_perf.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube_scheduler::cache::Cache;
use kube_scheduler::cache::snapshot::Snapshot;
use kube_scheduler::config::defaults::set_defaults;
use kube_scheduler::config::types::KubeSchedulerConfiguration;
use kube_scheduler::cycle::decide::Decider;
use kube_scheduler::framework::pod::PodInfo;
use kube_scheduler::framework::profile::Profile;
use kube_scheduler::framework::template::Interner;
use kube_scheduler::plugins::registry::{Services, profile};
use kube_scheduler::queue::nominator::Nominator;
use serde_json::{Value, json};

const NODES: [usize; 4] = [100, 1000, 5000, 50_000];
/// Decisions in a row before the cluster is as it was.
const BATCH: usize = 1000;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A workload: what runs already, and what is to be placed.
#[derive(Clone)]
struct Workload {
    name: &'static str,
    /// Pods per node that run already, what each asks for, and their spec.
    before: (usize, &'static str, Value),
    priority: i32,
    cpu: &'static str,
    spec: Value,
    /// `percentageOfNodesToScore`; zero is the adaptive default.
    percentage: i32,
}

fn workloads() -> Vec<Workload> {
    let term = |key: &str| json!({"topologyKey": key, "labelSelector": {"matchLabels": {"color": "green"}}});
    let required = |kind: &str, key: &str| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term(key)]}}});
    let anti = required("podAntiAffinity", "kubernetes.io/hostname");
    let near = required("podAffinity", "topology.kubernetes.io/zone");
    let spread = |when: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"color": "green"}}}]})
    };
    let zones = json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-0", "zone-1"]});
    let on_zones = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [zones]}]}}}});
    let plain = || (1, "100m", json!({}));
    let one = |name, before, cpu, spec| Workload { name, before, priority: 0, cpu, spec, percentage: 0 };
    let basic = one("basic", plain(), "100m", json!({}));
    vec![
        Workload { name: "basic-all-nodes", percentage: 100, ..basic.clone() },
        basic,
        one("node-affinity", plain(), "100m", on_zones),
        one("anti-affinity", (0, "100m", json!({})), "100m", anti),
        one("affinity", (1, "100m", near.clone()), "100m", near),
        one("spread", plain(), "100m", spread("DoNotSchedule")),
        one("preferred-spread", plain(), "100m", spread("ScheduleAnyway")),
        one("unschedulable", plain(), "9", json!({})),
        Workload { priority: 10, ..one("preemption", (4, "900m", json!({})), "3", json!({})) },
    ]
}

fn node(number: usize) -> Result<Node> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("node-{number}"), "labels": {
            "kubernetes.io/hostname": format!("node-{number}"),
            "topology.kubernetes.io/zone": format!("zone-{}", number % 3)}},
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
    }))?)
}

fn pod(name: &str, priority: i32, cpu: &str, spec: &Value) -> Result<Pod> {
    let container = json!({"name": "c", "image": "pause", "resources": {"requests": {"cpu": cpu, "memory": "500Mi"}}});
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"color": "green"}},
        "spec": {"containers": [container], "priority": priority},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    Ok(serde_json::from_value(pod)?)
}

/// A cluster with a workload's first pods, and the pods to be placed.
struct Field {
    profile: Profile,
    cache: Cache,
    decider: Decider,
    nominator: Nominator,
    snapshot: Snapshot,
    pending: Vec<PodInfo>,
    placed: Vec<Arc<PodInfo>>,
}

impl Field {
    fn new(nodes: usize, workload: &Workload) -> Result<Self> {
        let mut config = KubeSchedulerConfiguration::default();
        set_defaults(&mut config);
        let cache = Cache::new(Duration::ZERO);
        let interner = Interner::default();
        for number in 0..nodes {
            cache.set_node(Arc::new(node(number)?));
            let (count, cpu, spec) = &workload.before;
            for index in 0..*count {
                let running = pod(&format!("old-{number}-{index}"), 0, cpu, spec)?;
                let info = PodInfo::new(&running, &interner).on_node(format!("node-{number}").into());
                cache.add_pod(Arc::new(info))?;
            }
        }
        let new = |number| pod(&format!("new-{number}"), workload.priority, workload.cpu, &workload.spec);
        // Half of the nodes stay free of pods that want one for themselves.
        let pending: Result<Vec<_>> =
            (0..BATCH.min(nodes / 2)).map(|number| Ok(PodInfo::new(&new(number)?, &interner))).collect();
        Ok(Self {
            profile: profile(&config.profiles[0], &Services::default())?,
            cache,
            decider: Decider::new(workload.percentage, 1),
            nominator: Nominator::default(),
            snapshot: Snapshot::default(),
            pending: pending?,
            placed: Vec::new(),
        })
    }

    /// One decision, and what the scheduler's loop does around it.
    fn decide(&mut self, pod: usize) {
        self.cache.update_snapshot(&mut self.snapshot);
        let pod = &self.pending[pod];
        if let Ok(decision) = self.decider.decide(&self.profile, &self.snapshot, pod, &self.nominator) {
            let assumed = Arc::new(pod.on_node(decision.node));
            if self.cache.assume(assumed.clone()).is_ok() {
                self.placed.push(assumed);
            }
        }
    }

    /// Takes the placed pods back; the next decisions find the snapshot up to date.
    fn clear(&mut self) {
        for pod in self.placed.drain(..) {
            let _ = self.cache.forget(&pod);
        }
        self.cache.update_snapshot(&mut self.snapshot);
    }

    /// The time that so many decisions take.
    fn spend(&mut self, decisions: u64) -> Duration {
        let (mut spent, mut left) = (Duration::ZERO, decisions as usize);
        while left > 0 {
            self.clear();
            let batch = left.min(self.pending.len());
            let started = Instant::now();
            (0..batch).for_each(|pod| self.decide(pod));
            spent += started.elapsed();
            left -= batch;
        }
        spent
    }
}

fn decisions(criterion: &mut Criterion) {
    for workload in workloads() {
        let mut group = criterion.benchmark_group(workload.name);
        group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(1));
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        for nodes in NODES {
            let mut field = None;
            group.bench_with_input(BenchmarkId::from_parameter(nodes), &nodes, |bencher, nodes| {
                let field = field.get_or_insert_with(|| match Field::new(*nodes, &workload) {
                    Ok(field) => field,
                    Err(error) => panic!("making the cluster: {error}"),
                });
                bencher.iter_custom(|decisions| field.spend(decisions));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
