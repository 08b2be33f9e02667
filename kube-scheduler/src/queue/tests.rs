use std::sync::Arc;
use std::time::Duration;

use super::clock::FakeClock;
use super::*;
use crate::config::defaults::set_defaults;
use crate::config::types::KubeSchedulerConfiguration;
use crate::framework::events::{Objects, Resource, action};
use crate::framework::profiles::Profiles;
use crate::plugins::registry::{Services, profile};
use crate::testing::{node, pod, pod_info};

struct Bench {
    queue: SchedulingQueue,
    clock: Arc<FakeClock>,
}

fn bench() -> Bench {
    let mut config = KubeSchedulerConfiguration::default();
    set_defaults(&mut config);
    let profiles = Profiles::new(vec![profile(&config.profiles[0], &Services::default()).unwrap()]).unwrap();
    let clock = Arc::new(FakeClock::default());
    let backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(10) };
    let queue = SchedulingQueue::new(Arc::new(profiles), clock.clone(), backoff, Duration::from_secs(300));
    Bench { queue, clock }
}

impl Bench {
    fn pop(&self) -> Option<String> {
        self.queue.try_pop().map(|queued| queued.pod.name.to_string())
    }

    /// Pops the pod and fails it for the given plugins.
    fn fail(&self, plugins: &[&'static str]) {
        let mut queued = self.queue.try_pop().unwrap();
        queued.unschedulable_plugins = plugins.iter().copied().collect();
        self.queue.add_unschedulable(queued);
    }

    fn size(&self, pool: &str) -> usize {
        self.queue.sizes().into_iter().find(|(name, _)| *name == pool).unwrap().1
    }
}

fn node_added(cpu: &str) -> ClusterEvent {
    let objects = Objects::Node(None, Some(node("n").cpu(cpu).build()));
    ClusterEvent { resource: Resource::Node, action: action::ADD, label: "NodeAdd", objects }
}

#[test]
fn priority_then_age() {
    let bench = bench();
    for (name, priority) in [("a", 0), ("b", 10), ("c", 0)] {
        bench.queue.add(pod_info(&pod(name).priority(priority)));
        bench.clock.step(Duration::from_millis(1));
    }
    assert_eq!([bench.pop(), bench.pop(), bench.pop()].map(Option::unwrap), ["b", "a", "c"]);
    assert_eq!(bench.pop(), None);
}

#[test]
fn only_a_helpful_event_wakes_an_unschedulable_pod() {
    let bench = bench();
    bench.queue.add(pod_info(&pod("p").requests("4", "1Gi")));
    bench.fail(&["NodeResourcesFit"]);
    assert_eq!(bench.size("unschedulable"), 1);
    bench.queue.on_event(&node_added("2"), |_| true);
    assert_eq!(bench.size("unschedulable"), 1, "too small a node does not help");
    bench.clock.step(Duration::from_secs(3));
    bench.queue.on_event(&node_added("8"), |_| true);
    assert_eq!(bench.size("active"), 1, "its back-off is over");
    assert_eq!(bench.pop().as_deref(), Some("p"));
}

#[test]
fn a_pod_still_backing_off_waits_but_not_for_nothing() {
    let bench = bench();
    bench.queue.add(pod_info(&pod("p").requests("4", "1Gi")));
    bench.fail(&["NodeResourcesFit"]);
    bench.queue.on_event(&node_added("8"), |_| true);
    assert_eq!((bench.size("backoff"), bench.size("active")), (1, 0));
    assert_eq!(bench.pop().as_deref(), Some("p"), "an idle scheduler takes it early");
}

#[test]
fn errors_wait_out_their_backoff() {
    let bench = bench();
    bench.queue.add(pod_info(&pod("p")));
    bench.fail(&[]);
    assert_eq!(bench.size("backoff"), 1);
    assert_eq!(bench.pop(), None, "errors are never taken early");
    bench.queue.flush_backoff();
    assert_eq!(bench.pop(), None);
    bench.clock.step(Duration::from_secs(2));
    bench.queue.flush_backoff();
    assert_eq!(bench.pop().as_deref(), Some("p"));
}

#[test]
fn an_event_during_the_attempt_is_not_missed() {
    let bench = bench();
    bench.queue.add(pod_info(&pod("p").requests("4", "1Gi")));
    let mut queued = bench.queue.try_pop().unwrap();
    bench.queue.on_event(&node_added("8"), |_| true);
    queued.unschedulable_plugins = ["NodeResourcesFit"].into();
    bench.queue.add_unschedulable(queued);
    assert_eq!((bench.size("backoff"), bench.size("unschedulable")), (1, 0));
}

#[test]
fn left_overs_are_flushed_after_five_minutes() {
    let bench = bench();
    bench.queue.add(pod_info(&pod("p")));
    bench.fail(&["NodeAffinity"]);
    bench.clock.step(Duration::from_secs(299));
    bench.queue.flush_unschedulable();
    assert_eq!(bench.size("unschedulable"), 1);
    bench.clock.step(Duration::from_secs(2));
    bench.queue.flush_unschedulable();
    let queued = bench.queue.try_pop().unwrap();
    assert!(queued.flushed && queued.attempts == 2);
}

#[test]
fn gated_pods_enter_when_the_last_gate_goes() {
    let bench = bench();
    let gated = pod_info(&pod("p").gates(&["g"]));
    bench.queue.add(gated.clone());
    assert_eq!((bench.size("gated"), bench.size("active")), (1, 0));
    bench.queue.on_event(&node_added("8"), |_| true);
    assert_eq!(bench.size("gated"), 1, "other events do not concern a gate");
    bench.queue.update(&gated, pod_info(&pod("p")));
    assert_eq!((bench.size("gated"), bench.size("active")), (0, 1));
}

#[test]
fn updates_and_deletes_reach_every_pool() {
    let bench = bench();
    let old = pod_info(&pod("p").requests("4", "1Gi"));
    bench.queue.add(old.clone());
    let new = pod_info(&pod("p").requests("2", "1Gi"));
    bench.queue.update(&old, new.clone());
    let mut queued = bench.queue.try_pop().unwrap();
    assert_eq!(queued.pod.template.requests.cpu, 2000);
    queued.unschedulable_plugins = ["NodeResourcesFit"].into();
    bench.queue.add_unschedulable(queued);
    let smaller = pod_info(&pod("p").requests("1", "1Gi"));
    bench.queue.update(&new, smaller);
    assert_eq!(bench.size("unschedulable"), 0, "asking for less is worth another try");
    bench.queue.delete("p");
    assert_eq!(bench.pop(), None);
    assert_eq!(bench.queue.sizes().iter().map(|(_, size)| size).sum::<usize>(), 0);
}

#[test]
fn the_wildcard_of_activation_skips_the_backoff() {
    let bench = bench();
    bench.queue.add(pod_info(&pod("p")));
    bench.fail(&["NodeAffinity"]);
    bench.queue.activate(&["p".into()]);
    assert_eq!(bench.size("active"), 1);
}

#[test]
fn a_status_update_of_its_own_is_no_reason_to_retry() {
    let bench = bench();
    let old = pod_info(&pod("p").requests("4", "1Gi"));
    bench.queue.add(old.clone());
    bench.fail(&["NodeResourcesFit", "TaintToleration"]);
    bench.queue.update(&old, pod_info(&pod("p").requests("4", "1Gi").status("phase", serde_json::json!("Pending"))));
    assert_eq!(bench.size("unschedulable"), 1);
}
