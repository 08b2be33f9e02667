use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::informer::Event;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::decide::{Decider, enough};
use super::outlet::Outlet;
use super::*;
use crate::config::defaults::{set_defaults, set_defaults_with};
use crate::config::types::KubeSchedulerConfiguration;
use crate::framework::plugin::{Bind, Plugin};
use crate::framework::profile::PluginRef;
use crate::plugins::registry::{Services, profile};
use crate::queue::backoff::Backoff;
use crate::queue::clock::SystemClock;
use crate::testing::{Cluster, NodeBuilder, PodBuilder, node, pod, pod_info};

/// Remembers everything; binds as told.
#[derive(Default)]
struct World {
    pods: Mutex<HashMap<String, Arc<Pod>>>,
    events: Mutex<Vec<String>>,
    patches: Mutex<Vec<Value>>,
    bindings: Mutex<Vec<(String, String)>>,
    refuse: Mutex<Vec<String>>,
}

#[async_trait]
impl Outlet for World {
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods.lock().get(&format!("{namespace}/{name}")).cloned()
    }
    fn event(&self, _pod: &PodInfo, _warning: bool, reason: &str, _action: &str, note: &str) {
        self.events.lock().push(format!("{reason}: {note}"));
    }
    async fn patch_status(&self, _namespace: &str, _name: &str, patch: Value) -> Result<(), String> {
        self.patches.lock().push(patch);
        Ok(())
    }
}

struct Binder(Arc<World>);

impl Plugin for Binder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }
    fn as_bind(&self) -> Option<&dyn Bind> {
        Some(self)
    }
}

#[async_trait]
impl Bind for Binder {
    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<bool, Arc<Status>> {
        if let Some(message) = self.0.refuse.lock().pop() {
            return Err(Status::error("DefaultBinder", message));
        }
        self.0.bindings.lock().push((pod.name.to_string(), node.to_owned()));
        Ok(true)
    }
}

struct Bench {
    scheduler: Arc<Scheduler>,
    world: Arc<World>,
    decider: Decider,
    snapshot: Snapshot,
}

fn default_profile() -> Profile {
    let mut config = KubeSchedulerConfiguration::default();
    set_defaults(&mut config);
    profile(&config.profiles[0], &Services::default()).unwrap()
}

fn bench(nodes: &[NodeBuilder]) -> Bench {
    bench_of(default_profile(), Arc::default(), nodes)
}

fn bench_of(mut profile: Profile, groups: Arc<Groups>, nodes: &[NodeBuilder]) -> Bench {
    let world = Arc::new(World::default());
    let binder: PluginRef = Arc::new(Binder(world.clone()));
    profile.points.bind = vec![binder];
    let profiles = Arc::new(Profiles::new(vec![profile]).unwrap());
    let backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(10) };
    let clock = Arc::new(SystemClock::default());
    let queue = SchedulingQueue::new(profiles.clone(), clock, backoff, Duration::from_secs(300));
    let mut scheduler = Scheduler::new(Cache::new(Duration::ZERO), queue, profiles, world.clone());
    scheduler.groups = groups;
    for node in nodes {
        scheduler.on_node(&Event::Added(node.build()));
    }
    Bench { scheduler: Arc::new(scheduler), world, decider: Decider::new(0, 1), snapshot: Snapshot::default() }
}

impl Bench {
    fn arrive(&self, builder: &PodBuilder) -> Arc<Pod> {
        let pod = Arc::new(builder.build());
        let info = pod_info(builder);
        self.world.pods.lock().insert(info.key(), pod.clone());
        self.scheduler.on_pod(&Event::Added(pod.clone()));
        pod
    }

    /// Schedules everything that is active, bindings included.
    async fn settle(&mut self) {
        while let Some(queued) = self.scheduler.queue.try_pop() {
            let permit = self.scheduler.permit().await.unwrap();
            let runtime = Handle::current();
            self.scheduler.schedule_one(queued, &mut self.decider, &mut self.snapshot, permit, &runtime);
            self.scheduler.drain().await;
            if self.world.events.lock().len() > 50 {
                panic!("no end: {:?}", self.world.events.lock());
            }
        }
    }
}

#[tokio::test]
async fn a_pod_is_bound_and_its_room_is_taken() {
    let mut bench = bench(&[node("n1").cpu("2"), node("n2").cpu("1")]);
    bench.arrive(&pod("a").requests("1500m", "1Gi"));
    bench.settle().await;
    assert_eq!(*bench.world.bindings.lock(), [("a".to_owned(), "n1".to_owned())]);
    assert_eq!(*bench.world.events.lock(), ["Scheduled: Successfully assigned default/a to n1"]);
    assert!(bench.scheduler.cache.is_assumed("a"));
    bench.arrive(&pod("b").requests("1", "1Gi"));
    bench.settle().await;
    assert_eq!(bench.world.bindings.lock()[1].1, "n2", "the assumed pod holds its room");
}

#[tokio::test]
async fn failure_is_told_in_upstreams_words_and_healed_by_a_node() {
    let mut bench = bench(&[node("n1").cpu("1"), node("n2").taint("k", "v", "NoSchedule")]);
    let waiting = pod("a").requests("2", "1Gi");
    bench.arrive(&waiting);
    bench.settle().await;
    let message = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). no new \
                   claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    assert_eq!(bench.world.events.lock()[0], format!("FailedScheduling: {message}"));
    let patch = bench.world.patches.lock()[0].clone();
    let condition = &patch["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"]),
        (&json!("PodScheduled"), &json!("False"), &json!("Unschedulable"))
    );
    assert_eq!(condition["message"], message);
    assert!(bench.world.bindings.lock().is_empty());
    bench.scheduler.on_node(&Event::Added(node("n3").cpu("4").build()));
    bench.settle().await;
    assert_eq!(bench.world.bindings.lock()[0].1, "n3");
}

#[tokio::test]
async fn a_refused_binding_gives_the_room_back() {
    let mut bench = bench(&[node("n1").cpu("1")]);
    bench.world.refuse.lock().push("Operation cannot be fulfilled: conflict".into());
    bench.arrive(&pod("a").requests("1", "1Gi"));
    bench.settle().await;
    assert!(!bench.scheduler.cache.is_assumed("a"));
    assert!(bench.world.events.lock()[0].contains("running Bind plugin \"DefaultBinder\": Operation cannot"));
    assert_eq!(bench.world.patches.lock()[0]["status"]["conditions"][0]["reason"], "SchedulerError");
    assert_eq!(bench.scheduler.queue.sizes()[1], ("backoff", 1), "errors back off");
    bench.arrive(&pod("b").requests("1", "1Gi"));
    bench.settle().await;
    assert_eq!(*bench.world.bindings.lock(), [("b".to_owned(), "n1".to_owned())]);
}

#[tokio::test]
async fn a_pod_bound_behind_our_back_is_not_queued_again() {
    let mut bench = bench(&[node("n1").cpu("1")]);
    bench.world.refuse.lock().push("pod a is already assigned to node \"n1\"".into());
    let old = bench.arrive(&pod("a").requests("1", "1Gi"));
    let bound = Arc::new(pod("a").requests("1", "1Gi").spec("nodeName", json!("n1")).build());
    bench.world.pods.lock().insert("default/a".into(), bound.clone());
    bench.settle().await;
    assert_eq!(bench.scheduler.queue.sizes().iter().map(|(_, size)| size).sum::<usize>(), 0);
    bench.scheduler.on_pod(&Event::Updated { old, new: bound });
    assert_eq!(bench.scheduler.cache.sizes(), (1, 1, 0), "counted once, as bound");
}

#[tokio::test]
async fn foreign_terminating_and_deleted_pods_are_left_alone() {
    let mut bench = bench(&[node("n1")]);
    bench.arrive(&pod("foreign").scheduler("other"));
    let mut dying = pod("dying").build();
    dying.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    bench.scheduler.on_pod(&Event::Added(Arc::new(dying)));
    let gone = bench.arrive(&pod("gone"));
    bench.scheduler.on_pod(&Event::Deleted(gone));
    bench.settle().await;
    assert!(bench.world.bindings.lock().is_empty());
    assert_eq!(*bench.world.events.lock(), ["FailedScheduling: skip schedule deleting pod: default/dying"]);
}

#[tokio::test]
async fn cache_and_queue_account_for_every_pod() {
    let mut bench = bench(&[node("n1").cpu("1"), node("n2").cpu("1")]);
    let fits = bench.arrive(&pod("fits").requests("1", "1Gi"));
    let waits = bench.arrive(&pod("waits").requests("5", "1Gi"));
    bench.settle().await;
    let nodes = [node("n1").build(), node("n3").build()];
    let stranger = Arc::new(pod("stranger").build());
    let [(_, of_nodes), (_, of_pods)] = bench.scheduler.compare(&nodes, &[fits, waits, stranger]);
    assert_eq!((of_nodes.missed, of_nodes.redundant), (vec!["n3".to_owned()], vec!["n2".to_owned()]));
    assert_eq!((of_pods.missed, of_pods.redundant), (vec!["stranger".to_owned()], vec![]));
    bench.scheduler.dump();
}

#[tokio::test]
async fn no_nodes_at_all() {
    let mut bench = bench(&[]);
    bench.arrive(&pod("a"));
    bench.settle().await;
    assert_eq!(bench.world.events.lock()[0], "FailedScheduling: no nodes available to schedule pods");
}

#[test]
fn sampling_follows_upstreams_table() {
    for (nodes, percentage, expected) in [
        (10, 0, 10),
        (99, 5, 99),
        (100, 0, 100),
        (1000, 0, 420),
        (5000, 0, 500),
        (6000, 0, 300),
        (50_000, 0, 2500),
        (1000, 40, 400),
        (1000, 5, 100),
        (1000, 100, 1000),
    ] {
        assert_eq!(enough(nodes, percentage), expected, "{nodes} nodes, {percentage}%");
    }
}

#[test]
fn the_search_goes_round_and_ties_are_drawn() {
    let builders: Vec<_> = (0..300).map(|n| node(&format!("n{n}"))).collect();
    let cluster = Cluster::new(&builders);
    let profile = default_profile();
    let mut decider = Decider::new(34, 7);
    let nominator = crate::queue::nominator::Nominator::default();
    let pod = pod_info(&pod("p"));
    let mut thirds = [0; 3];
    let mut distinct = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let decision = decider.decide(&profile, &cluster.snapshot, &pod, &nominator).unwrap();
        assert_eq!((decision.feasible, decision.evaluated), (102, 102));
        thirds[decision.slot as usize / 100] += 1;
        distinct.insert(decision.slot);
    }
    assert!(thirds.iter().all(|count| *count > 0), "{thirds:?}");
    assert!(distinct.len() > 15, "{distinct:?}");
}

#[test]
fn a_nominated_pod_keeps_its_room() {
    let cluster = Cluster::new(&[node("n1").cpu("2")]);
    let profile = default_profile();
    let nominator = crate::queue::nominator::Nominator::default();
    nominator.set(&pod_info(&pod("vip").priority(10).requests("2", "0")), Some(Some("n1".into())));
    let decide = |priority| {
        let pod = pod_info(&pod("p").priority(priority).requests("1", "0"));
        Decider::new(0, 1).decide(&profile, &cluster.snapshot, &pod, &nominator).map(|d| d.node.to_string())
    };
    let message = decide(0).unwrap_err().message();
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu. "), "{message}");
    assert_eq!(decide(100).unwrap(), "n1", "a higher priority need not care");
}

/// With the gates of gang scheduling on, and the gang `g`.
fn gang_bench(min_count: i32, nodes: &[NodeBuilder]) -> Bench {
    let informer = common::informer::Informer::new(common::informer::InformerOptions::default());
    let spec = json!({"schedulingPolicy": {"gang": {"minCount": min_count}}});
    let group = json!({"metadata": {"name": "g", "namespace": "default"}, "spec": spec});
    informer.apply(serde_json::from_value(group).unwrap());
    let groups = Arc::new(Groups::new(informer));
    let mut config = KubeSchedulerConfiguration::default();
    set_defaults_with(&mut config, true);
    let services = Services { groups: groups.clone(), ..Services::default() };
    bench_of(profile(&config.profiles[0], &services).unwrap(), groups, nodes)
}

fn member(name: &str) -> PodBuilder {
    pod(name).requests("1", "1Gi").spec("schedulingGroup", json!({"podGroupName": "g"}))
}

#[tokio::test]
async fn a_gang_waits_for_its_members_and_is_bound_together() {
    let mut bench = gang_bench(3, &[node("n1").cpu("2"), node("n2").cpu("2")]);
    for name in ["a", "b"] {
        bench.arrive(&member(name));
        bench.settle().await;
    }
    assert!(bench.world.events.lock().is_empty() && bench.world.bindings.lock().is_empty());
    assert_eq!(bench.scheduler.queue.sizes()[3], ("gated", 2));
    bench.arrive(&member("c"));
    bench.settle().await;
    assert_eq!(bench.world.bindings.lock().len(), 3);
    assert_eq!(bench.scheduler.queue.sizes().iter().map(|(_, size)| size).sum::<usize>(), 0);
}

#[tokio::test]
async fn a_gang_without_room_for_all_holds_none() {
    let mut bench = gang_bench(3, &[node("n1").cpu("2")]);
    for name in ["a", "b", "c"] {
        bench.arrive(&member(name));
    }
    bench.settle().await;
    assert!(bench.world.bindings.lock().is_empty());
    let (_, _, assumed) = bench.scheduler.cache.sizes();
    assert_eq!(assumed, 0);
    let mut events = bench.world.events.lock().clone();
    events.sort();
    let waiting = "FailedScheduling: waiting for minCount pods from a gang to be scheduled";
    assert_eq!(events[1..], [waiting, waiting]);
    assert!(events[0].starts_with("FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu."), "{events:?}");
    bench.scheduler.on_node(&Event::Added(node("n2").cpu("1").build()));
    bench.settle().await;
    assert_eq!(bench.world.bindings.lock().len(), 3);
}

#[tokio::test]
async fn a_gang_that_is_large_enough_leaves_the_rest_behind() {
    let mut bench = gang_bench(2, &[node("n1").cpu("2")]);
    bench.arrive(&pod("single").requests("100m", "1Gi"));
    bench.settle().await;
    bench.scheduler.on_node(&Event::Added(node("n2").cpu("1").build()));
    for name in ["a", "b", "c"] {
        bench.arrive(&member(name));
    }
    bench.settle().await;
    assert_eq!(bench.world.bindings.lock().len(), 3, "the single one and two of the gang");
    let events = bench.world.events.lock();
    assert_eq!(events.iter().filter(|event| event.starts_with("FailedScheduling")).count(), 1, "{events:?}");
}
