//! Table of pod situations and what must be done in each.

use super::*;
use crate::runtime::SandboxView;

#[derive(Default)]
struct Probes {
    failed: Vec<&'static str>,
    not_started: Vec<&'static str>,
}

impl ProbeView for Probes {
    fn started(&self, _: &Container, id: &str) -> bool {
        !self.not_started.contains(&id)
    }
    fn failed(&self, id: &str) -> Option<&'static str> {
        self.failed.contains(&id).then_some("liveness")
    }
}

fn container(name: &str, policy: Option<&str>) -> Container {
    Container { name: name.into(), restart_policy: policy.map(str::to_owned), ..Default::default() }
}

fn pod(policy: &str, inits: &[(&str, Option<&str>)], names: &[&str]) -> Pod {
    let spec = PodSpec {
        restart_policy: Some(policy.into()),
        init_containers: Some(inits.iter().map(|(name, policy)| container(name, *policy)).collect()),
        containers: names.iter().map(|name| container(name, None)).collect(),
        ..Default::default()
    };
    Pod { spec: Some(spec), ..Default::default() }
}

fn runtime(containers: &[(&str, ContainerState, i32)]) -> PodRuntime {
    let sandbox = SandboxView {
        id: "s".into(),
        ready: true,
        created_at: 1,
        attempt: 0,
        ips: vec!["10.0.0.1".into()],
        host_network: false,
    };
    let containers = containers
        .iter()
        .map(|(name, state, exit_code)| ContainerView {
            id: format!("{name}-id"),
            name: (*name).into(),
            sandbox_id: "s".into(),
            state: *state,
            created_at: 1,
            started_at: 1,
            finished_at: 0,
            exit_code: *exit_code,
            image: String::new(),
            image_ref: String::new(),
            reason: String::new(),
            message: String::new(),
            hash: String::new(),
            restart_count: 0,
            log_path: String::new(),
            annotations: Default::default(),
            termination_log: None,
        })
        .collect();
    PodRuntime { sandboxes: vec![sandbox], containers }
}

use ContainerState::{Exited, Running};

#[test]
fn a_new_pod_gets_a_sandbox_and_starts_its_containers() {
    let actions =
        compute(&pod("Always", &[], &["a", "b"]), &PodRuntime::default(), &Probes::default(), &PodStatus::default());
    assert_eq!(actions.create_sandbox, Some(0));
    assert_eq!(actions.start, ["a", "b"]);
    let actions = compute(
        &pod("Always", &[("i", None)], &["a"]),
        &PodRuntime::default(),
        &Probes::default(),
        &PodStatus::default(),
    );
    assert_eq!((actions.start_init, actions.start.len()), (vec!["i".to_owned()], 0));
}

#[test]
fn running_containers_are_left_alone() {
    let actions =
        compute(&pod("Always", &[], &["a"]), &runtime(&[("a", Running, 0)]), &Probes::default(), &PodStatus::default());
    assert_eq!(actions, Actions::default());
}

#[test]
fn restart_policies() {
    for (policy, exit_code, restart) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let actions = compute(
            &pod(policy, &[], &["a"]),
            &runtime(&[("a", Exited, exit_code)]),
            &Probes::default(),
            &PodStatus::default(),
        );
        assert_eq!(actions.start.len() == 1, restart, "{policy} {exit_code}");
        assert_eq!(actions.kill_pod, !restart, "{policy} {exit_code}");
    }
}

#[test]
fn init_containers_run_in_order() {
    let pod = pod("Always", &[("i", None), ("j", None)], &["a"]);
    let next = |containers: &[(&str, ContainerState, i32)]| {
        let actions = compute(&pod, &runtime(containers), &Probes::default(), &PodStatus::default());
        (actions.start_init, actions.start)
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(next(&[("i", Running, 0)]), (names(&[]), names(&[])));
    assert_eq!(next(&[("i", Exited, 1)]), (names(&["i"]), names(&[])));
    assert_eq!(next(&[("i", Exited, 0)]), (names(&["j"]), names(&[])));
    assert_eq!(next(&[("i", Exited, 0), ("j", Exited, 0)]), (names(&[]), names(&["a"])));
    assert_eq!(next(&[("j", Exited, 0)]), (names(&[]), names(&["a"])), "i was removed after j ran");
    assert_eq!(next(&[("a", Exited, 0)]), (names(&[]), names(&["a"])), "init containers do not run again");
}

#[test]
fn sidecars_start_first_and_come_back() {
    let pod = pod("Never", &[("s", Some("Always"))], &["a"]);
    let probes = Probes { not_started: vec!["s-id"], ..Probes::default() };
    assert!(compute(&pod, &runtime(&[("s", Running, 0)]), &probes, &PodStatus::default()).start.is_empty());
    assert_eq!(compute(&pod, &runtime(&[("s", Running, 0)]), &Probes::default(), &PodStatus::default()).start, ["a"]);
    let actions =
        compute(&pod, &runtime(&[("s", Exited, 1), ("a", Running, 0)]), &Probes::default(), &PodStatus::default());
    assert_eq!((actions.start_init, actions.kill_pod), (vec!["s".to_owned()], false));
    let actions =
        compute(&pod, &runtime(&[("s", Running, 0), ("a", Exited, 0)]), &Probes::default(), &PodStatus::default());
    assert_eq!((actions.start_init.len(), actions.kill_pod), (0, true));
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let actions = compute(
        &pod("Never", &[("i", None)], &["a"]),
        &runtime(&[("i", Exited, 1)]),
        &Probes::default(),
        &PodStatus::default(),
    );
    assert!(actions.kill_pod && actions.start_init.is_empty());
}

#[test]
fn a_failed_liveness_probe_restarts_the_container() {
    let probes = Probes { failed: vec!["a-id"], ..Probes::default() };
    let actions = compute(
        &pod("Always", &[], &["a", "b"]),
        &runtime(&[("a", Running, 0), ("b", Running, 0)]),
        &probes,
        &PodStatus::default(),
    );
    assert_eq!(actions.kill[0].message, "Container a failed liveness probe, will be restarted");
    assert_eq!(actions.start, ["a"]);
}

#[test]
fn a_dead_sandbox_is_made_anew() {
    let mut held = runtime(&[("a", Exited, 0)]);
    held.sandboxes[0].ready = false;
    let actions = compute(&pod("Always", &[], &["a"]), &held, &Probes::default(), &PodStatus::default());
    assert_eq!((actions.kill_pod, actions.create_sandbox), (true, Some(1)));
    let actions = compute(&pod("Never", &[], &["a"]), &held, &Probes::default(), &PodStatus::default());
    assert_eq!((actions.kill_pod, actions.create_sandbox), (true, None));
}

#[test]
fn all_start_anew_when_a_rule_says_so() {
    let rules =
        serde_json::json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]);
    let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
        "restartPolicy": "Never",
        "initContainers": [{"name": "init"}],
        "containers": [{"name": "main"}, {"name": "watch", "restartPolicy": "Never", "restartPolicyRules": rules}],
    }}))
    .unwrap();
    let spec = pod.spec.as_ref().unwrap();
    let view = |name: &str, state, exit_code| ContainerView {
        id: format!("{name}-1"),
        name: name.to_owned(),
        sandbox_id: "s".into(),
        state,
        created_at: 1,
        started_at: 1,
        finished_at: 0,
        exit_code,
        image: String::new(),
        image_ref: String::new(),
        reason: String::new(),
        message: String::new(),
        hash: String::new(),
        restart_count: 0,
        log_path: String::new(),
        annotations: crate::runtime::labels::ContainerAnnotations::default(),
        termination_log: None,
    };
    let mut runtime = PodRuntime {
        sandboxes: Vec::new(),
        containers: vec![
            view("init", ContainerState::Exited, 0),
            view("main", ContainerState::Running, 0),
            view("watch", ContainerState::Exited, 1),
        ],
    };
    assert!(!restarts_all(spec, &runtime, &PodStatus::default()));
    runtime.containers[2].exit_code = 88;
    assert!(restarts_all(spec, &runtime, &PodStatus::default()));
    assert_eq!(reset_order(spec, &runtime), ["main-1", "init-1", "watch-1"]);
    let begun: PodStatus = serde_json::from_value(
        serde_json::json!({"conditions": [{"type": "AllContainersRestarting", "status": "True"}]}),
    )
    .unwrap();
    runtime.containers.pop();
    assert!(restarts_all(spec, &runtime, &begun), "what was begun is ended");
    runtime.containers.clear();
    assert!(is_reset(spec, &runtime));
}
