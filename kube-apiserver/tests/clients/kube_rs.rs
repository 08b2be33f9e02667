//! kube-rs: typed objects, patches and applies, subresources, and watchers that list first or stream all.

use futures::{Stream, StreamExt};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams},
    core::PartialObjectMetaExt,
    runtime::{
        WatchStreamExt, reflector, wait,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::support::{Cluster, call, wait_for};

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn deployment(name: &str) -> Deployment {
    object(json!({
        "metadata": {"name": name},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]},
        }},
    }))
}

fn images(deployment: &Deployment) -> Vec<String> {
    let pod = deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    pod.containers.iter().map(|container| container.image.clone().unwrap()).collect()
}

/// The code of a refusal.
fn code<T: std::fmt::Debug>(result: kube::Result<T>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_rs_writes_and_reads_typed_objects() {
    let mut cluster = Cluster::start().await;
    let api: Api<Deployment> = Api::namespaced(cluster.admin().await, "default");
    let made = api.create(&PostParams::default(), &deployment("web")).await.unwrap();
    assert_eq!(made.spec.as_ref().unwrap().revision_history_limit, Some(10), "a default");
    assert_eq!(api.get("web").await.unwrap(), made);
    let mut changed = made.clone();
    changed.spec.as_mut().unwrap().replicas = Some(3);
    let changed = api.replace("web", &PostParams::default(), &changed).await.unwrap();
    assert_eq!(changed.metadata.generation, Some(2));
    assert_eq!(code(api.replace("web", &PostParams::default(), &made).await), 409);
    assert_eq!(code(api.create(&PostParams::default(), &deployment("web")).await), 409);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&dry, &deployment("dry")).await.unwrap();
    assert_eq!(api.get_opt("dry").await.unwrap(), None);
    assert_eq!(api.get_metadata("web").await.unwrap().metadata.uid, made.metadata.uid);
    let mut names = Vec::new();
    let mut params = ListParams::default().limit(2);
    for name in ["a", "b", "c"] {
        api.create(&PostParams::default(), &deployment(name)).await.unwrap();
    }
    loop {
        let page = api.list(&params).await.unwrap();
        names.extend(page.items.iter().map(ResourceExt::name_any));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "c", "web"]);
    let mut selected = ListParams::default().fields("metadata.name=b");
    selected.label_selector = Some("!nothing".into());
    assert_eq!(api.list_metadata(&selected).await.unwrap().items.len(), 1);
    api.delete("a", &DeleteParams::background()).await.unwrap();
    api.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    assert!(api.list(&ListParams::default()).await.unwrap().items.is_empty());
    assert_eq!(code(api.get("a").await), 404);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_rs_patches_and_applies() {
    let mut cluster = Cluster::start().await;
    let api: Api<Deployment> = Api::namespaced(cluster.admin().await, "default");
    api.create(&PostParams::default(), &deployment("web")).await.unwrap();
    let plain = PatchParams::default();
    let containers = |list: Value| json!({"spec": {"template": {"spec": {"containers": list}}}});
    let strategic = containers(json!([{"name": "s", "image": "i:s"}]));
    let patched = api.patch("web", &plain, &Patch::Strategic(strategic)).await.unwrap();
    assert_eq!(images(&patched), ["i:s", "i:1"]);
    let merge = containers(json!([{"name": "m", "image": "i:m"}]));
    let patched = api.patch("web", &plain, &Patch::Merge(merge)).await.unwrap();
    assert_eq!(images(&patched), ["i:m"]);
    let operations = json!([
        {"op": "test", "path": "/spec/replicas", "value": 2},
        {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "i:j"},
    ]);
    let operations: json_patch::Patch = serde_json::from_value(operations).unwrap();
    let patched = api.patch("web", &plain, &Patch::Json::<()>(operations.clone())).await.unwrap();
    assert_eq!(images(&patched), ["i:j"]);
    api.patch("web", &plain, &Patch::Merge(json!({"spec": {"replicas": 5}}))).await.unwrap();
    assert_eq!(code(api.patch("web", &plain, &Patch::Json::<()>(operations)).await), 422);

    let mut wanted = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "applied"},
        "spec": deployment("applied").spec});
    let one = PatchParams::apply("one");
    let made = api.patch("applied", &one, &Patch::Apply(&wanted)).await.unwrap();
    assert_eq!(made.managed_fields()[0].manager.as_deref(), Some("one"));
    wanted["spec"]["template"]["spec"]["containers"][0]["image"] = "i:2".into();
    let two = PatchParams::apply("two");
    assert_eq!(code(api.patch("applied", &two, &Patch::Apply(&wanted)).await), 409);
    let forced = api.patch("applied", &two.clone().force(), &Patch::Apply(&wanted)).await.unwrap();
    assert_eq!(images(&forced), ["i:2"]);
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "status": {"replicas": 4}});
    let shown = api.patch_status("applied", &one, &Patch::Apply(&status)).await.unwrap();
    assert_eq!(shown.status.unwrap().replicas, Some(4));
    let labels = json!({"labels": {"l": "v"}});
    let meta: kube::api::ObjectMeta = serde_json::from_value(labels).unwrap();
    let meta = meta.into_request_partial::<Deployment>();
    let shown = api.patch_metadata("applied", &PatchParams::apply("meta"), &Patch::Apply(&meta)).await.unwrap();
    assert_eq!(shown.labels()["l"], "v");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_rs_uses_subresources() {
    let mut cluster = Cluster::start().await;
    let client = cluster.admin().await;
    let api: Api<Deployment> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &deployment("web")).await.unwrap();
    let mut scale = api.get_scale("web").await.unwrap();
    assert_eq!(scale.status.as_ref().unwrap().selector.as_deref(), Some("app=web"));
    scale.spec.as_mut().unwrap().replicas = Some(7);
    api.replace_scale("web", &PostParams::default(), &scale).await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"replicas": 8}}));
    let scale = api.patch_scale("web", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(8));
    let mut whole = api.get("web").await.unwrap();
    whole.status = Some(object(json!({"replicas": 1, "readyReplicas": 1})));
    whole.spec.as_mut().unwrap().paused = Some(true);
    let shown = api.replace_status("web", &PostParams::default(), &whole).await.unwrap();
    assert_eq!((shown.status.unwrap().ready_replicas, shown.spec.unwrap().paused), (Some(1), None));

    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    accounts.create(&PostParams::default(), &object(json!({"metadata": {"name": "default"}}))).await.unwrap();
    let token = object(json!({"spec": {"audiences": ["a"], "expirationSeconds": 3600}}));
    let token = accounts.create_token_request("default", &PostParams::default(), &token).await.unwrap();
    assert!(token.status.unwrap().token.unwrap().starts_with("ey"));
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    pods.create(&PostParams::default(), &object(pod)).await.unwrap();
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}});
    let shown =
        pods.patch_ephemeral_containers("p", &PatchParams::default(), &Patch::Strategic(debugger)).await.unwrap();
    assert_eq!(shown.spec.unwrap().ephemeral_containers.unwrap()[0].name, "d");
    pods.evict("p", &EvictParams::default()).await.unwrap();
    assert_eq!(pods.get_opt("p").await.unwrap(), None);
    cluster.stop().await;
}

/// The next event as `what name`.
async fn next<S>(events: &mut S) -> String
where
    S: Stream<Item = watcher::Result<Event<ConfigMap>>> + Unpin,
{
    match events.next().await.unwrap().unwrap() {
        Event::Init => "init".to_owned(),
        Event::InitApply(map) => format!("there {}", map.name_any()),
        Event::InitDone => "done".to_owned(),
        Event::Apply(map) => format!("apply {}", map.name_any()),
        Event::Delete(map) => format!("delete {}", map.name_any()),
    }
}

async fn watches(client: Client, config: watcher::Config, prefix: &str) {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let map = |name: &str| {
        object::<ConfigMap>(json!({"metadata": {"name": format!("{prefix}-{name}"), "labels": {"by": prefix}}}))
    };
    for name in ["a", "b"] {
        api.create(&PostParams::default(), &map(name)).await.unwrap();
    }
    // A stream starts with any state that the server has at hand.
    let any = ListParams::default().labels(&format!("by={prefix}")).at("0");
    wait_for("the watch cache has both", async || api.list(&any).await.unwrap().items.len() == 2).await;
    let mut events = Box::pin(kube::runtime::watcher(api.clone(), config.labels(&format!("by={prefix}"))));
    for want in ["init".to_owned(), format!("there {prefix}-a"), format!("there {prefix}-b"), "done".to_owned()] {
        assert_eq!(next(&mut events).await, want);
    }
    api.create(&PostParams::default(), &map("c")).await.unwrap();
    assert_eq!(next(&mut events).await, format!("apply {prefix}-c"));
    let unlabel = Patch::Merge(json!({"metadata": {"labels": null}}));
    api.patch(&format!("{prefix}-a"), &PatchParams::default(), &unlabel).await.unwrap();
    assert_eq!(next(&mut events).await, format!("delete {prefix}-a"));
    api.delete(&format!("{prefix}-b"), &DeleteParams::default()).await.unwrap();
    assert_eq!(next(&mut events).await, format!("delete {prefix}-b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_rs_watches() {
    let mut cluster = Cluster::start().await;
    let client = cluster.admin().await;
    watches(client.clone(), watcher::Config::default().page_size(1), "listing").await;
    watches(client.clone(), watcher::Config::default().streaming_lists(), "streaming").await;

    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let (reader, writer) = reflector::store();
    let config = watcher::Config::default().streaming_lists().labels("by=cache");
    let reflected = kube::runtime::watcher(api.clone(), config).default_backoff().reflect(writer);
    let task = tokio::spawn(reflected.for_each(async |_| {}));
    reader.wait_until_ready().await.unwrap();
    assert!(reader.is_empty());
    let map = object(json!({"metadata": {"name": "cached", "labels": {"by": "cache"}}, "data": {"k": "1"}}));
    api.create(&PostParams::default(), &map).await.unwrap();
    let change = Patch::Merge(json!({"data": {"k": "2"}}));
    api.patch("cached", &PatchParams::default(), &change).await.unwrap();
    let data = |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get("k").cloned());
    wait_for("the cache has the change", async || reader.state().iter().any(|map| data(map).as_deref() == Some("2")))
        .await;
    let changed = wait::await_condition(api, "cached", move |map: Option<&ConfigMap>| {
        map.is_some_and(|map| data(map).as_deref() == Some("3"))
    });
    let path = "/api/v1/namespaces/default/configmaps/cached";
    let (changed, _) = tokio::join!(changed, call(&client, "PATCH", path, json!({"data": {"k": "3"}})));
    assert!(changed.unwrap().is_some());
    task.abort();
    cluster.stop().await;
}
