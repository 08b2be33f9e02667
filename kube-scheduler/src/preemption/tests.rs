use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::cache::resources;
use crate::config::defaults::set_defaults;
use crate::config::types::KubeSchedulerConfiguration;
use crate::cycle::decide::Decider;
use crate::framework::profile::Profile;
use crate::plugins::registry::{Services, profile};
use crate::queue::nominator::Nominator;
use crate::testing::{Cluster, PodBuilder, node, pod, pod_info};

fn default_profile(services: &Services) -> Profile {
    let mut config = KubeSchedulerConfiguration::default();
    set_defaults(&mut config);
    profile(&config.profiles[0], services).unwrap()
}

fn small(name: &str, priority: i32, cpu: &str, started: &str) -> PodBuilder {
    pod(name).priority(priority).requests(cpu, "0").status("startTime", json!(started))
}

/// Where a pod of this priority and size would be nominated to, or the message why not.
fn nominated(cluster: &Cluster, services: &Services, pod: &PodBuilder) -> Result<String, String> {
    let profile = default_profile(services);
    let nominator = Nominator::default();
    let failure = Decider::new(0, 1).decide(&profile, &cluster.snapshot, &pod_info(pod), &nominator).unwrap_err();
    match &failure {
        crate::cycle::decide::Failure::Unfit { nominate: Some(Some(node)), .. } => Ok(node.to_string()),
        _ => Err(failure.message()),
    }
}

#[test]
fn messages_are_upstreams() {
    let mut cluster = Cluster::new(&[node("n1").cpu("2"), node("n2").taint("k", "", "NoSchedule")]);
    cluster.place(&small("a", 10, "2", "2026-01-01T00:00:00Z"), "n1");
    let services = Services::default();
    assert_eq!(
        nominated(&cluster, &services, &pod("p").requests("1", "0")).unwrap_err(),
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). no new claims to deallocate, \
         preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, \
         1 Preemption is not helpful for scheduling."
    );
    let never = pod("p").priority(100).spec("preemptionPolicy", json!("Never")).requests("1", "0");
    let message = nominated(&cluster, &services, &never).unwrap_err();
    assert!(message.ends_with("preemption: not eligible due to preemptionPolicy=Never."), "{message}");
    assert_eq!(nominated(&cluster, &services, &pod("p").priority(100).requests("1", "0")).unwrap(), "n1");
}

#[test]
fn the_node_with_the_least_important_victims_is_picked() {
    let mut cluster = Cluster::new(&[node("n1").cpu("2"), node("n2").cpu("2"), node("n3").cpu("2")]);
    for (name, priority, cpu, started, on) in [
        ("a", 5, "2", "2026-01-01T00:00:00Z", "n1"),
        ("b", 1, "1", "2026-01-01T00:00:00Z", "n2"),
        ("c", 1, "1", "2026-01-01T00:00:00Z", "n2"),
        ("d", 1, "1", "2026-01-02T00:00:00Z", "n3"),
        ("e", 1, "1", "2026-01-02T00:00:00Z", "n3"),
    ] {
        cluster.place(&small(name, priority, cpu, started), on);
    }
    let services = Services::default();
    let one = pod("p").priority(100).requests("1", "0");
    assert_eq!(nominated(&cluster, &services, &one).unwrap(), "n3", "lower priority, then the later start");
}

struct Protective;

impl Listers for Protective {
    fn namespace_labels(&self, _namespace: &str) -> std::collections::BTreeMap<String, String> {
        Default::default()
    }
    fn default_selector(
        &self,
        _template: &crate::framework::template::Template,
    ) -> Option<common::meta::selector::LabelSelector> {
        None
    }
    fn budgets(&self, _namespace: &str) -> Vec<Budget> {
        let selector = common::meta::selector::LabelSelector::parse("app=db").unwrap();
        vec![Budget { selector, allowed: 0, disrupted: Vec::new() }]
    }
}

#[test]
fn budgets_are_spared_when_possible() {
    let mut cluster = Cluster::new(&[node("n1").cpu("2"), node("n2").cpu("2")]);
    cluster.place(&small("db", 1, "2", "2026-01-02T00:00:00Z").label("app", "db"), "n1");
    cluster.place(&small("web", 5, "2", "2026-01-01T00:00:00Z"), "n2");
    let services = Services { listers: Arc::new(Protective), ..Services::default() };
    let preemptor = pod("p").priority(100).requests("1", "0");
    assert_eq!(nominated(&cluster, &services, &preemptor).unwrap(), "n2");
    cluster.cache.remove_node("n2");
    cluster.refresh();
    assert_eq!(nominated(&cluster, &services, &preemptor).unwrap(), "n1", "rather break it than wait");
}

#[test]
fn trials_leave_the_snapshot_alone() {
    let mut cluster = Cluster::new(&[node("n1").cpu("2")]);
    cluster.place(&small("a", 1, "2", "2026-01-01T00:00:00Z"), "n1");
    nominated(&cluster, &Services::default(), &pod("p").priority(9).requests("2", "0")).unwrap();
    assert_eq!(cluster.snapshot.node(0).requested(resources::CPU), 2000);
    assert_eq!(cluster.snapshot.node(0).pods().len(), 1);
}

/// The documented order, one criterion at a time: each case differs in one, and everything after it speaks for the other node.
#[test]
fn candidates_are_compared_in_the_documented_order() {
    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-02T00:00:00Z";
    type Victims<'a> = &'a [(i32, &'a str)];
    let candidate = |slot: u32, violations: usize, victims: Victims<'_>| Candidate {
        slot,
        violations,
        victims: victims.iter().map(|(priority, start)| pod_info(&small("v", *priority, "1", start))).collect(),
    };
    type Node<'a> = (usize, Victims<'a>);
    let cases: [(&str, Node<'_>, Node<'_>); 7] = [
        ("fewer broken budgets", (0, &[(9, EARLY), (9, EARLY)]), (1, &[(1, LATE)])),
        ("lower highest priority", (0, &[(5, EARLY), (5, EARLY)]), (0, &[(6, LATE)])),
        ("smaller sum of priorities", (0, &[(5, EARLY), (1, EARLY)]), (0, &[(5, LATE), (2, LATE)])),
        ("fewer victims", (0, &[(5, EARLY)]), (0, &[(5, LATE), (i32::MIN, LATE)])),
        ("a sum counts negative priorities as victims too", (0, &[(-5, EARLY)]), (0, &[(-5, LATE), (-9, LATE)])),
        ("later start of the most important", (0, &[(5, LATE), (1, EARLY)]), (0, &[(5, EARLY), (1, LATE)])),
        ("the earliest of the most important", (0, &[(5, LATE), (5, LATE)]), (0, &[(5, EARLY), (5, LATE)])),
    ];
    for (criterion, better, worse) in cases {
        for order in [[0, 1], [1, 0]] {
            let both = order.map(|at| {
                let (violations, victims) = [better, worse][at];
                candidate(at as u32, violations, victims)
            });
            assert_eq!(pick(both.into()).unwrap().slot, 0, "{criterion}");
        }
    }
    let equal = [candidate(3, 0, &[(1, EARLY)]), candidate(2, 0, &[(1, EARLY)])];
    assert_eq!(pick(equal.into()).unwrap().slot, 3, "the first of equals");
}

/// What a node's pods are reprieved in: protected by budgets first, then by importance.
#[test]
fn victims_are_the_least_important_that_make_room() {
    let started = |day: u32| format!("2026-01-0{day}T00:00:00Z");
    type Running<'a> = &'a [(&'a str, i32, &'a str, u32)];
    let cases: [(Running<'_>, &str, &[&str]); 4] = [
        (&[("low", 1, "1", 1), ("high", 5, "1", 1)], "1", &["low"]),
        (&[("old", 1, "1", 1), ("new", 1, "1", 2)], "1", &["new"]),
        (&[("small", 1, "500m", 1), ("large", 2, "1500m", 1)], "1", &["large"]),
        (&[("a", 1, "1", 1), ("b", 2, "1", 1)], "2", &["b", "a"]),
    ];
    for (running, wanted, expected) in cases {
        let mut cluster = Cluster::new(&[node("n1").cpu("2")]);
        for (name, priority, cpu, day) in running {
            cluster.place(&small(name, *priority, cpu, &started(*day)), "n1");
        }
        let services = Services::default();
        let (profile, nominator) = (default_profile(&services), Nominator::default());
        let pod = pod_info(&pod("p").priority(100).requests(wanted, "0"));
        let cycle = cluster.context(&pod);
        let before = profile.run_pre_filter(&cycle).unwrap();
        let diagnosis = crate::framework::diagnosis::Diagnosis::default();
        let cx = PostFilterContext {
            cycle,
            profile: &profile,
            before: &before,
            diagnosis: &diagnosis,
            nominator: &nominator,
            dice: 0,
        };
        let (candidates, _) = DryRun::new(&cx, &*services.listers).run(&[0], 0, 1).unwrap();
        let victims: Vec<_> = candidates[0].victims.iter().map(|pod| &*pod.name).collect();
        assert_eq!(victims, expected, "{running:?}");
    }
}

#[test]
fn the_same_dice_find_the_same_node() {
    let mut cluster = Cluster::new(&[]);
    for number in 0..300 {
        cluster.cache.set_node(node(&format!("n{number}")).cpu("1").build());
        cluster.place(&small(&format!("v{number}"), 1, "1", "2026-01-01T00:00:00Z"), &format!("n{number}"));
    }
    let services = Services::default();
    let play = |seed: u64| {
        let (profile, nominator) = (default_profile(&services), Nominator::default());
        let mut decider = Decider::new(0, seed);
        let mut one = |number: usize| {
            let preemptor = pod_info(&pod(&format!("p{number}")).priority(9).requests("1", "0"));
            match decider.decide(&profile, &cluster.snapshot, &preemptor, &nominator) {
                Err(crate::cycle::decide::Failure::Unfit { nominate: Some(Some(node)), .. }) => node.to_string(),
                other => panic!("{other:?}"),
            }
        };
        (0..10).map(&mut one).collect::<Vec<_>>()
    };
    assert_eq!(play(7), play(7));
    assert_ne!(play(7), play(8));
}
