//! Where pods go, as the server has it in the end.

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client, ResourceExt, api::ListParams};
use kube_scheduler::run;
use serde_json::json;

use crate::{
    USER,
    neighbour::{ApiServer, Daemon, add_node, create, delete, eventually},
};

pub async fn start() -> (ApiServer, Client, Api<Pod>, Daemon) {
    let server = ApiServer::start().await;
    let client = server.admin().await;
    // There is no controller that makes it.
    create(&Api::<ServiceAccount>::default_namespaced(client.clone()), json!({"metadata": {"name": "default"}})).await;
    let daemon = server.daemon(run, USER, &["--leader-elect=false"]).await;
    (server, client.clone(), Api::default_namespaced(client), daemon)
}

/// A pod that wants one CPU.
async fn add_pod(api: &Api<Pod>, name: &str) {
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}});
    create(api, json!({"metadata": {"name": name}, "spec": {"containers": [container]}})).await;
}

fn node(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

pub async fn bound(api: &Api<Pod>, name: &str) -> String {
    eventually(&format!("{name} has a node"), async || node(&api.get(name).await.unwrap())).await
}

/// Waits for the verdict that no node fits; returns its message.
pub async fn unschedulable(api: &Api<Pod>, name: &str) -> String {
    eventually(&format!("{name} is unschedulable"), async || {
        let conditions = api.get(name).await.unwrap().status?.conditions?;
        let found = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled")?;
        assert_eq!((found.status.as_str(), found.reason.as_deref()), ("False", Some("Unschedulable")));
        found.message
    })
    .await
}

async fn told(client: &Client, pod: &str, reason: &str) -> Event {
    let events: Api<Event> = Api::default_namespaced(client.clone());
    eventually(&format!("{reason} of {pod} is told"), async || {
        events.list(&ListParams::default()).await.unwrap().items.into_iter().find(|event| {
            event.reason.as_deref() == Some(reason)
                && event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some(pod)
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_for_a_node_and_then_runs_there() {
    let (_server, client, api, daemon) = start().await;
    add_pod(&api, "first").await;
    assert!(unschedulable(&api, "first").await.starts_with("no nodes available to schedule pods"));
    told(&client, "first", "FailedScheduling").await;
    add_node(&client, "n1", 1).await;
    assert_eq!(bound(&api, "first").await, "n1");
    assert_eq!(told(&client, "first", "Scheduled").await.note.unwrap(), "Successfully assigned default/first to n1");

    add_pod(&api, "second").await;
    let message = unschedulable(&api, "second").await;
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{message}");
    delete(&api, "first").await;
    // Nobody plays the kubelet, which would confirm the deletion.
    api.delete("first", &kube::api::DeleteParams::default().grace_period(0)).await.ok();
    assert_eq!(bound(&api, "second").await, "n1");
    daemon.passes("/readyz").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_gets_no_second_pod() {
    let (_server, client, api, daemon) = start().await;
    for name in ["n1", "n2", "n3"] {
        add_node(&client, name, 2).await;
    }
    let names: Vec<String> = (0..10).map(|index| format!("p{index}")).collect();
    futures::future::join_all(names.iter().map(|name| add_pod(&api, name))).await;
    let pods = eventually("six pods are bound and four are known not to fit", async || {
        let pods = api.list(&ListParams::default()).await.unwrap().items;
        let refused = |pod: &&Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "PodScheduled" && c.status == "False"))
        };
        let waiting = pods.iter().filter(|pod| node(pod).is_none()).filter(refused).count();
        (waiting == 4 && pods.iter().filter_map(node).count() == 6).then_some(pods)
    })
    .await;
    for name in ["n1", "n2", "n3"] {
        assert_eq!(pods.iter().filter(|pod| node(pod).as_deref() == Some(name)).count(), 2, "{name}");
    }
    let waiting: Vec<String> = pods.iter().filter(|pod| node(pod).is_none()).map(ResourceExt::name_any).collect();
    add_node(&client, "n4", 4).await;
    for name in waiting {
        assert_eq!(bound(&api, &name).await, "n4");
    }
    daemon.stop().await;
}
