//! Pods from the API: running, ending, restarting, probes, hooks, deletion.

use std::time::Duration;

use serde_json::json;

use crate::support::{Node, Script, eventually};

const NOW: Option<Duration> = Some(Duration::ZERO);

fn exits(code: i32) -> Script {
    Script { exits: NOW.map(|after| (after, code)), ..Script::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_and_says_so() {
    let node = Node::start().await;
    node.run("web", json!({"containers": [{"name": "main", "env": [{"name": "COLOR", "value": "blue"}]}]})).await;
    node.wait_for_pod_ready("web", "True").await;
    let pod = node.pod("web").await;
    let status = &pod["status"];
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "127.0.0.1");
    assert_eq!(status["hostIP"], "127.0.0.1");
    assert_eq!(status["qosClass"], "BestEffort");
    let container = &status["containerStatuses"][0];
    assert_eq!(
        (&container["ready"], &container["started"], &container["restartCount"]),
        (&json!(true), &json!(true), &json!(0))
    );
    assert!(container["state"]["running"]["startedAt"].is_string(), "{container}");
    assert!(container["containerID"].as_str().unwrap().starts_with("fake://container"), "{container}");
    for condition in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled"] {
        let conditions = status["conditions"].as_array().unwrap();
        assert!(conditions.iter().any(|c| c["type"] == condition && c["status"] == "True"), "{condition}: {status}");
    }
    for reason in ["Pulling", "Pulled", "Created", "Started"] {
        node.wait_for_event("web", reason).await;
    }
    let config = node.runtime.config("main").unwrap();
    assert!(config.envs.iter().any(|env| env.key == "COLOR" && env.value == "blue"), "{:?}", config.envs);
    assert!(config.envs.iter().any(|env| env.key == "KUBERNETES_SERVICE_HOST"), "{:?}", config.envs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_ends_well_has_succeeded() {
    let node = Node::start().await;
    node.runtime.script("main", exits(0));
    node.run("job", json!({"restartPolicy": "Never", "containers": [{"name": "main"}]})).await;
    let pod = node.wait_for_pod("job", "/status/phase", "Succeeded").await;
    let terminated = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&terminated["exitCode"], &terminated["reason"]), (&json!(0), &json!("Completed")));
    node.runtime.script("main", exits(4));
    node.run("bad-job", json!({"restartPolicy": "Never", "containers": [{"name": "main"}]})).await;
    let pod = node.wait_for_pod("bad-job", "/status/phase", "Failed").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 4);
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashing_container_is_restarted_with_back_off() {
    let node = Node::start().await;
    node.runtime.script("main", exits(3));
    node.run("crash", json!({"containers": [{"name": "main"}]})).await;
    let waiting = "/status/containerStatuses/0/state/waiting/reason";
    let pod = node.wait_for_pod("crash", waiting, "CrashLoopBackOff").await;
    let status = &pod["status"]["containerStatuses"][0];
    let message = status["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with("back-off 1s restarting failed container=main pod=crash_default("), "{message}");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    node.wait_for_event("crash", "BackOff").await;
    eventually("more restarts", async || {
        let count = node.pod("crash").await["status"]["containerStatuses"][0]["restartCount"].clone();
        if count.as_i64() >= Some(3) { Ok(()) } else { Err(count.to_string()) }
    })
    .await;
    // Cured, it stays.
    node.runtime.script("main", Script::default());
    node.wait_for_pod_ready("crash", "True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_run_one_by_one_before_the_others() {
    let node = Node::start().await;
    let quick = Script { exits: Some((Duration::from_millis(300), 0)), ..Script::default() };
    node.runtime.script("first", quick.clone());
    node.runtime.script("second", quick);
    let spec = json!({
        "initContainers": [{"name": "first"}, {"name": "side", "restartPolicy": "Always"}, {"name": "second"}],
        "containers": [{"name": "main"}],
    });
    node.run("staged", spec).await;
    node.wait_for_pod_ready("staged", "True").await;
    assert_eq!(node.runtime.calls(&["start"]), ["start first", "start side", "start second", "start main"]);
    let pod = node.pod("staged").await;
    let inits = &pod["status"]["initContainerStatuses"];
    assert_eq!(inits[0]["state"]["terminated"]["reason"], "Completed");
    assert!(inits[1]["state"]["running"].is_object(), "{inits}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_init_container_keeps_the_others_from_starting() {
    let node = Node::start().await;
    node.runtime.script("first", exits(1));
    let spec = |policy| json!({"restartPolicy": policy, "initContainers": [{"name": "first"}], "containers": [{"name": "main"}]});
    node.run("once", spec("Never")).await;
    node.wait_for_pod("once", "/status/phase", "Failed").await;
    node.run("again", spec("Always")).await;
    let pod =
        node.wait_for_pod("again", "/status/initContainerStatuses/0/state/waiting/reason", "CrashLoopBackOff").await;
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(node.runtime.calls(&["start"]).iter().filter(|call| *call == "start main").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_liveness_probe_restarts_the_container() {
    let node = Node::start().await;
    let probe = json!({"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 2});
    node.run(
        "sick",
        json!({"terminationGracePeriodSeconds": 5, "containers": [{"name": "main", "livenessProbe": probe}]}),
    )
    .await;
    node.wait_for_pod_ready("sick", "True").await;
    node.runtime.exec_code("alive", 1);
    assert!(node.wait_for_event("sick", "Unhealthy").await.starts_with("Liveness probe failed"));
    node.wait_for_event("sick", "Killing").await;
    node.runtime.exec_code("alive", 0);
    eventually("a restart", async || {
        let status = node.pod("sick").await["status"]["containerStatuses"][0].clone();
        if status["restartCount"].as_i64() >= Some(1) && status["ready"] == true {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .await;
    assert!(node.runtime.calls(&["stop"]).contains(&"stop main 5".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_its_probe_without_restarts() {
    let node = Node::start().await;
    node.runtime.exec_code("ready", 1);
    let probe = json!({"exec": {"command": ["ready"]}, "periodSeconds": 1, "failureThreshold": 1});
    node.run("slow", json!({"containers": [{"name": "main", "readinessProbe": probe}]})).await;
    node.wait_for_pod("slow", "/status/phase", "Running").await;
    node.wait_for_pod_ready("slow", "False").await;
    node.runtime.exec_code("ready", 0);
    node.wait_for_pod_ready("slow", "True").await;
    node.runtime.exec_code("ready", 1);
    node.wait_for_pod_ready("slow", "False").await;
    assert_eq!(node.runtime.calls(&["start"]), ["start main"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_startup_probe_holds_the_others_back() {
    let node = Node::start().await;
    node.runtime.exec_code("up", 1);
    let probe = |command: &str, failures: u32| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": failures});
    let container = json!({"name": "main", "startupProbe": probe("up", 60), "livenessProbe": probe("alive", 1)});
    node.run("lazy", json!({"containers": [container]})).await;
    eventually("the startup probe", async || {
        let asked = node.runtime.calls(&["exec"]);
        if asked.len() >= 2 { Ok(()) } else { Err(format!("{asked:?}")) }
    })
    .await;
    assert!(!node.runtime.calls(&["exec"]).contains(&"exec main alive".to_owned()));
    assert_eq!(node.pod("lazy").await["status"]["containerStatuses"][0]["started"], false);
    node.runtime.exec_code("up", 0);
    node.wait_for_pod_ready("lazy", "True").await;
    eventually("the liveness probe", async || {
        let asked = node.runtime.calls(&["exec"]);
        if asked.contains(&"exec main alive".to_owned()) { Ok(()) } else { Err(format!("{asked:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_runs_the_hook_and_gives_time() {
    let node = Node::start().await;
    node.runtime.script("main", Script { stops_after: Duration::from_secs(2), ..Script::default() });
    let hook = json!({"preStop": {"exec": {"command": ["bye"]}}});
    node.run(
        "gentle",
        json!({"terminationGracePeriodSeconds": 20, "containers": [{"name": "main", "lifecycle": hook}]}),
    )
    .await;
    node.wait_for_pod_ready("gentle", "True").await;
    let pod = node.delete("gentle", None).await.unwrap();
    assert_eq!(pod.metadata.deletion_grace_period_seconds, Some(20));
    node.wait_until_gone("gentle").await;
    let calls = node.runtime.calls(&["exec", "stop"]);
    // The hook's time counts.
    let [hook, stop] = calls.as_slice() else { panic!("{calls:?}") };
    assert_eq!(hook, "exec main bye");
    assert!((10..=20).contains(&stop.strip_prefix("stop main ").unwrap().parse().unwrap()), "{stop}");
    eventually("nothing to be left", async || if node.runtime.is_empty() { Ok(()) } else { Err("containers".into()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forced_deletion_cuts_the_grace_short() {
    let node = Node::start().await;
    node.runtime.script("main", Script { stops_after: Duration::from_secs(600), ..Script::default() });
    node.run("stubborn", json!({"terminationGracePeriodSeconds": 600, "containers": [{"name": "main"}]})).await;
    node.wait_for_pod_ready("stubborn", "True").await;
    node.delete("stubborn", None).await;
    eventually("the stop signal", async || {
        let calls = node.runtime.calls(&["stop"]);
        if calls.iter().any(|call| call.starts_with("stop main ")) { Ok(()) } else { Err(format!("{calls:?}")) }
    })
    .await;
    node.delete("stubborn", Some(0)).await;
    node.wait_until_gone("stubborn").await;
    eventually("nothing to be left", async || if node.runtime.is_empty() { Ok(()) } else { Err("containers".into()) })
        .await;
    let last = node.runtime.calls(&["stop"]).last().cloned();
    assert!(matches!(last.as_deref(), Some("stop main 0" | "stop main 1" | "stop main 2")), "{last:?}");
}
