//! Devices for pods: allocation, reservation and binding, as the server has them in the end.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::{
    neighbour::{add_node, create, delete, eventually},
    placing::{bound, start, unschedulable},
};

/// Nodes n1 and n2, so many GPUs on each, and the class `gpu`.
async fn equip(client: &Client, gpus: [usize; 2]) {
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "example.com/gpu", "selectors": [
        {"cel": {"expression": "device.driver == 'gpu.example.com'"}}]}});
    create(&Api::<DeviceClass>::all(client.clone()), class).await;
    for (number, count) in (1..).zip(gpus) {
        let node = format!("n{number}");
        add_node(client, &node, 8).await;
        let devices: Vec<_> = (0..count)
            .map(|at| json!({"name": format!("gpu-{at}"), "attributes": {"memory": {"int": 40 * (at + 1)}}}))
            .collect();
        let pool = json!({"name": node, "generation": 1, "resourceSliceCount": 1});
        let spec = json!({"driver": "gpu.example.com", "pool": pool, "nodeName": node, "devices": devices});
        create(&Api::<ResourceSlice>::all(client.clone()), json!({"metadata": {"name": node}, "spec": spec})).await;
    }
}

fn request(expression: Option<&str>) -> Value {
    let mut exactly = json!({"deviceClassName": "gpu"});
    if let Some(expression) = expression {
        exactly["selectors"] = json!([{"cel": {"expression": expression}}]);
    }
    json!({"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}})
}

async fn add_claim(client: &Client, name: &str, spec: Value) {
    create(&claims(client), json!({"metadata": {"name": name}, "spec": spec})).await;
}

fn claims(client: &Client) -> Api<ResourceClaim> {
    Api::default_namespaced(client.clone())
}

async fn add_user(api: &Api<Pod>, name: &str, claim: Value) {
    let container = json!({"name": "c", "image": "i", "resources": {"claims": [{"name": "gpu"}]}});
    let mut reference = json!({"name": "gpu"});
    reference.as_object_mut().unwrap().extend(claim.as_object().unwrap().clone());
    let spec = json!({"containers": [container], "resourceClaims": [reference]});
    create(api, json!({"metadata": {"name": name}, "spec": spec})).await;
}

/// Which device a claim has, and for whom it is reserved.
async fn held(client: &Client, name: &str) -> (String, Vec<String>) {
    let claim = claims(client).get(name).await.unwrap();
    assert_eq!(claim.finalizers(), ["resource.kubernetes.io/delete-protection"]);
    let status = claim.status.unwrap();
    let result = &status.allocation.unwrap().devices.unwrap().results.unwrap()[0];
    let reserved = status.reserved_for.unwrap_or_default().into_iter().map(|consumer| consumer.name).collect();
    (format!("{}/{}", result.pool, result.device), reserved)
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_get_devices_and_pods_follow_them() {
    let (_server, client, api, daemon) = start().await;
    equip(&client, [1, 1]).await;
    add_user(&api, "p1", json!({"resourceClaimName": "shared"})).await;
    // Until the claim is there, the pod is not even tried, and nothing is said.
    add_claim(&client, "shared", request(None)).await;
    let node = bound(&api, "p1").await;
    assert_eq!(held(&client, "shared").await, (format!("{node}/gpu-0"), vec!["p1".to_owned()]));

    // Others that share the claim go where its device is.
    for name in ["p2", "p3"] {
        add_user(&api, name, json!({"resourceClaimName": "shared"})).await;
        assert_eq!(bound(&api, name).await, node);
    }
    let (_, mut reserved) = held(&client, "shared").await;
    reserved.sort();
    assert_eq!(reserved, ["p1", "p2", "p3"]);

    // The other node has the other device; then there is none.
    add_claim(&client, "own", request(None)).await;
    add_user(&api, "p4", json!({"resourceClaimName": "own"})).await;
    let other = bound(&api, "p4").await;
    assert_ne!(other, node);
    add_claim(&client, "late", request(None)).await;
    add_user(&api, "p5", json!({"resourceClaimName": "late"})).await;
    let message = unschedulable(&api, "p5").await;
    assert!(
        message.starts_with("0/2 nodes are available: 2 cannot allocate all claims. still not schedulable"),
        "{message}"
    );

    // A device given back helps who waits.
    delete(&api, "p4").await;
    api.delete("p4", &DeleteParams::default().grace_period(0)).await.ok();
    let free = json!({"status": {"allocation": null, "reservedFor": null}});
    claims(&client).patch_status("own", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    assert_eq!(bound(&api, "p5").await, other);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_made_from_templates_and_selectors() {
    let (_server, client, api, daemon) = start().await;
    equip(&client, [1, 3]).await;
    add_user(&api, "p1", json!({"resourceClaimTemplateName": "template"})).await;
    // What the controller does.
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p1", "controller": true,
                       "uid": api.get("p1").await.unwrap().uid()});
    let meta = json!({"name": "p1-gpu", "ownerReferences": [owner]});
    let wanted = "device.attributes['gpu.example.com'].memory >= 100";
    create(&claims(&client), json!({"metadata": meta, "spec": request(Some(wanted))})).await;
    let status = json!({"status": {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "p1-gpu"}]}});
    api.patch_status("p1", &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    assert_eq!(bound(&api, "p1").await, "n2");
    assert_eq!(held(&client, "p1-gpu").await, ("n2/gpu-2".to_owned(), vec!["p1".to_owned()]));

    add_claim(&client, "broken", request(Some("device.attributes['gpu.example.com'].absent"))).await;
    add_user(&api, "p2", json!({"resourceClaimName": "broken"})).await;
    eventually("the broken selector is told", async || {
        let conditions = api.get("p2").await.unwrap().status?.conditions?;
        let found = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled")?;
        assert_eq!(found.reason.as_deref(), Some("SchedulerError"));
        let message = found.message?;
        assert!(
            message.contains("claim default/broken: selector #0: CEL runtime error: no such key: absent"),
            "{message}"
        );
        Some(())
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_resources_backed_by_devices() {
    let (_server, client, api, daemon) = start().await;
    equip(&client, [0, 1]).await;
    let container = json!({"name": "c", "image": "i", "resources": {"limits": {"example.com/gpu": "1"}}});
    for name in ["p1", "p2"] {
        create(&api, json!({"metadata": {"name": name}, "spec": {"containers": [container]}})).await;
        if name == "p1" {
            assert_eq!(bound(&api, name).await, "n2");
        }
    }
    let status = api.get("p1").await.unwrap().status.unwrap().extended_resource_claim_status.unwrap();
    assert_eq!(status.request_mappings[0].request_name, "container-0-request-0");
    let claim = status.resource_claim_name;
    assert!(claim.starts_with("p1-extended-resources-"), "{claim}");
    assert_eq!(held(&client, &claim).await, ("n2/gpu-0".to_owned(), vec!["p1".to_owned()]));
    assert!(unschedulable(&api, "p2").await.contains("2 cannot allocate all claims"));
    daemon.stop().await;
}
