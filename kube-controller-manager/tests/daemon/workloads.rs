//! DaemonSets and StatefulSets from birth over an update to the end, with a played kubelet.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::loops::{make_ready, start};
use crate::neighbour::{add_node, create, delete, eventually, merge};

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": image}]}})
}

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

/// The node that a daemon pod asks for.
fn wanted_node(pod: &Pod) -> String {
    let affinity =
        json!(pod.spec)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"].clone();
    affinity["nodeSelectorTerms"][0]["matchFields"][0]["values"][0].as_str().unwrap().to_owned()
}

async fn bind(client: &Client, pod: &Pod, node: &str) {
    let binding = json!({"metadata": {"name": pod.name_any()}, "target": {"kind": "Node", "name": node}});
    let path = format!("/api/v1/namespaces/default/pods/{}/binding", pod.name_any());
    let request = http::Request::post(path).header("content-type", "application/json");
    client.request_text(request.body(binding.to_string().into_bytes()).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_covers_its_nodes_and_rolls() {
    let (_server, client, daemon) = start().await;
    let sets: Api<DaemonSet> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let list = async || pods.list(&ListParams::default()).await.unwrap().items;
    add_node(&client, "n1", 8).await;
    let selector = json!({"matchLabels": {"app": "x"}});
    create(&sets, json!({"metadata": {"name": "d"}, "spec": {"selector": selector, "template": template("one")}}))
        .await;
    let there = async |count: usize| {
        eventually(&format!("{count} daemon pods"), async || Some(list().await).filter(|l| l.len() == count)).await
    };
    let first = there(1).await.remove(0);
    assert_eq!(wanted_node(&first), "n1");
    assert_eq!(first.owner_references()[0].kind, "DaemonSet");
    add_node(&client, "n2", 8).await;
    for pod in there(2).await {
        let node = wanted_node(&pod);
        bind(&client, &pod, &node).await;
        make_ready(&pods, &pod, "10.0.0.1").await;
    }
    let status = async |wanted: [i32; 4]| {
        eventually(&format!("desired, current, available, updated are {wanted:?}"), async || {
            let s = sets.get("d").await.unwrap().status?;
            let got = [
                s.desired_number_scheduled,
                s.current_number_scheduled,
                s.number_available.unwrap_or(0),
                s.updated_number_scheduled.unwrap_or(0),
            ];
            (got == wanted).then_some(())
        })
        .await;
    };
    status([2, 2, 2, 2]).await;

    // The update goes node by node: the second old pod stays until the first new one is ready.
    merge(&sets, "d", false, json!({"spec": {"template": template("two")}})).await;
    for step in 1..=2 {
        let new = eventually("the next new pod", async || {
            let new = |p: &Pod| image(p) == "two" && p.spec.as_ref().unwrap().node_name.is_none();
            list().await.into_iter().find(new)
        })
        .await;
        let old = list().await.into_iter().filter(|p| image(p) == "one").count();
        assert_eq!(old, 2 - step, "maxUnavailable is 1");
        let node = wanted_node(&new);
        bind(&client, &new, &node).await;
        make_ready(&pods, &new, "10.0.0.2").await;
    }
    status([2, 2, 2, 2]).await;
    let revisions: Api<ControllerRevision> = Api::default_namespaced(client.clone());
    let mut numbers: Vec<i64> =
        revisions.list(&ListParams::default()).await.unwrap().items.into_iter().map(|r| r.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);

    // Going back to the first template makes its revision the newest again.
    merge(&sets, "d", false, json!({"spec": {"template": template("one"), "updateStrategy": {"type": "OnDelete"}}}))
        .await;
    eventually("revision 3", async || {
        let all = revisions.list(&ListParams::default()).await.unwrap().items;
        (all.len() == 2 && all.iter().any(|r| r.revision == 3)).then_some(())
    })
    .await;
    // A failed pod is replaced, with the new template.
    let failed = list().await.remove(0);
    merge(&pods, &failed.name_any(), true, json!({"status": {"phase": "Failed"}})).await;
    eventually("the failed pod is replaced", async || {
        let list = list().await;
        let replaced = list.iter().all(|p| p.uid() != failed.uid()) && list.iter().any(|p| image(p) == "one");
        (list.len() == 2 && replaced).then_some(())
    })
    .await;
    delete(&sets, "d").await;
    there(0).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_works_in_order_and_keeps_claims() {
    let (_server, client, daemon) = start().await;
    let sets: Api<StatefulSet> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let names = async || {
        let list = pods.list(&ListParams::default()).await.unwrap().items;
        list.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    let become_ready = async |name: &str, old: Option<&str>, image_wanted: &str| {
        let what = format!("{name} is there with {image_wanted}");
        let pod = eventually(&what, async || {
            let pod = pods.get_opt(name).await.unwrap()?;
            (pod.uid().as_deref() != old && image(&pod) == image_wanted).then_some(pod)
        })
        .await;
        make_ready(&pods, &pod, "10.0.0.1").await;
        pod
    };
    let data = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none",
        "resources": {"requests": {"storage": "1Gi"}}}}]);
    let policy = json!({"whenDeleted": "Retain", "whenScaled": "Delete"});
    let selector = json!({"matchLabels": {"app": "x"}});
    create(
        &sets,
        json!({"metadata": {"name": "w"}, "spec": {"serviceName": "w", "replicas": 2, "selector": selector,
        "template": template("one"), "volumeClaimTemplates": data, "persistentVolumeClaimRetentionPolicy": policy}}),
    )
    .await;
    let first = eventually("the first pod", async || pods.get_opt("w-0").await.unwrap()).await;
    assert_eq!(names().await, ["w-0"], "the second waits for the first");
    assert_eq!(first.labels()["apps.kubernetes.io/pod-index"], "0");
    let zero = become_ready("w-0", None, "one").await;
    let one = become_ready("w-1", None, "one").await;
    eventually("it is complete", async || {
        let status = sets.get("w").await.unwrap().status?;
        (status.ready_replicas == Some(2) && status.current_revision == status.update_revision).then_some(())
    })
    .await;
    for name in ["data-w-0", "data-w-1"] {
        assert!(claims.get_opt(name).await.unwrap().is_some(), "{name}");
    }

    merge(&sets, "w", false, json!({"spec": {"template": template("two")}})).await;
    become_ready("w-1", one.uid().as_deref(), "two").await;
    become_ready("w-0", zero.uid().as_deref(), "two").await;
    eventually("the update is complete", async || {
        let status = sets.get("w").await.unwrap().status?;
        (status.updated_replicas == Some(2) && status.current_revision == status.update_revision).then_some(())
    })
    .await;

    merge(&sets, "w", false, json!({"spec": {"replicas": 1}})).await;
    eventually("the last goes, with its claim", async || {
        let gone = claims.get_opt("data-w-1").await.unwrap().is_none();
        (gone && names().await == ["w-0"]).then_some(())
    })
    .await;
    delete(&sets, "w").await;
    eventually("the pods are collected", async || names().await.is_empty().then_some(())).await;
    assert!(claims.get_opt("data-w-0").await.unwrap().is_some(), "claims are retained");
    daemon.stop().await;
}
