//! One node: a kubelet between the fake runtime and an API server, everything below one directory.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Node as NodeObject, Pod};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{ApiServer, FakeRuntime, eventually};

/// The node `n1` and its neighbours.
pub struct Node {
    pub api_server: ApiServer,
    pub runtime: FakeRuntime,
    pub client: kube::Client,
    dir: tempfile::TempDir,
    /// Changes to the configuration file.
    settings: Value,
    kubelet: Option<(JoinHandle<anyhow::Result<()>>, CancellationToken)>,
}

impl Node {
    /// A node whose kubelet runs and is registered.
    pub async fn start() -> Self {
        Self::start_with(json!({})).await
    }

    /// The same with changes to the configuration file.
    pub async fn start_with(settings: Value) -> Self {
        let mut node = Self::prepare(settings).await;
        node.api_server.boot().await;
        node.start_kubelet();
        node.wait_for_ready("True").await;
        node
    }

    /// Nothing but the runtime runs yet.
    pub async fn prepare(settings: Value) -> Self {
        Self::prepare_with(settings, &[]).await
    }

    /// The same with flags for the API server.
    pub async fn prepare_with(settings: Value, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("manifests")).unwrap();
        let own = ["--enable-admission-plugins=NodeRestriction", "--disable-admission-plugins=ServiceAccount"];
        let api_server = ApiServer::prepare_with(&[&own[..], flags].concat());
        let runtime = FakeRuntime::start(&dir.path().join("cri.sock"));
        let client = api_server.admin().await;
        Self { api_server, runtime, client, dir, settings, kubelet: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command line, with the configuration file written.
    pub fn command_line(&self) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", path("cri.sock")),
            "staticPodPath": path("manifests"), "podLogsDir": path("logs"),
            "fileCheckFrequency": "1s", "syncFrequency": "5s", "nodeStatusUpdateFrequency": "1s",
            "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
            "evictionHard": {"memory.available": "1Ki"}, "imageGCHighThresholdPercent": 100,
            "enableServer": false, "healthzPort": 0, "failSwapOn": false, "failCgroupV1": false,
            "cgroupsPerQOS": false, "enforceNodeAllocatable": [],
        });
        for (key, value) in self.settings.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(self.path("config.yaml"), config.to_string()).unwrap();
        vec![
            "kubelet".into(),
            format!("--config={}", path("config.yaml")),
            format!("--kubeconfig={}", self.api_server.kubeconfig("system:node:n1", &["system:nodes"]).display()),
            format!("--root-dir={}", path("kubelet")),
            format!("--cert-dir={}", path("pki")),
            "--hostname-override=n1".into(),
            "--node-ip=127.0.0.1".into(),
        ]
    }

    pub fn start_kubelet(&mut self) {
        self.start_kubelet_with(&[]);
    }

    /// Starts the kubelet with these flags in place of its own of the same name.
    pub fn start_kubelet_with(&mut self, flags: &[String]) {
        let name = |flag: &String| flag.split('=').next().unwrap_or_default().to_owned();
        let mut line = self.command_line();
        line.retain(|own| !flags.iter().any(|flag| name(flag) == name(own)));
        line.extend_from_slice(flags);
        let options: kubelet::Options = common::config::try_parse_from(line).unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(kubelet::run(options, shutdown.clone()));
        self.kubelet = Some((task, shutdown));
    }

    pub async fn stop_kubelet(&mut self) {
        let (task, shutdown) = self.kubelet.take().unwrap();
        shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap().unwrap();
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates a pod, bound to the node.
    pub async fn run(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = "n1".into();
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                if container.get("image").is_none() {
                    container["image"] = "example.com/app:1".into();
                }
            }
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
    }

    /// A pod with its status as a tree; `Null` when there is none.
    pub async fn pod(&self, name: &str) -> Value {
        match self.pods().get_opt(name).await {
            Ok(pod) => serde_json::to_value(pod).unwrap(),
            Err(error) => json!({"error": error.to_string()}),
        }
    }

    /// Waits until the value at `pointer` of the pod is `want`, and returns the pod.
    pub async fn wait_for_pod(&self, name: &str, pointer: &str, want: impl Into<Value>) -> Value {
        let want = want.into();
        eventually(&format!("{pointer} of {name} to be {want}"), async || {
            let pod = self.pod(name).await;
            let seen = pod.pointer(pointer).cloned().unwrap_or_default();
            if seen == want { Ok(pod) } else { Err(format!("{seen}; status: {}", pod["status"])) }
        })
        .await
    }

    /// Waits for the `Ready` condition of a pod.
    pub async fn wait_for_pod_ready(&self, name: &str, want: &str) {
        eventually(&format!("{name} Ready={want}"), async || {
            let pod = self.pod(name).await;
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == want);
            if ready { Ok(()) } else { Err(pod["status"].to_string()) }
        })
        .await;
    }

    pub async fn wait_until_gone(&self, name: &str) {
        eventually(&format!("{name} to be gone"), async || match self.pod(name).await {
            Value::Null => Ok(()),
            pod => Err(pod.to_string()),
        })
        .await;
    }

    /// Asks for a pod's deletion; answers the pod as it terminates, nothing when it is gone at once.
    pub async fn delete(&self, name: &str, grace: Option<u32>) -> Option<Pod> {
        let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        self.pods().delete(name, &params).await.unwrap().left()
    }

    /// Waits for the node's `Ready` condition; answers its message.
    pub async fn wait_for_ready(&self, want: &str) -> String {
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        eventually(&format!("the node to say Ready={want}"), async || {
            let node = nodes.get_opt("n1").await.map_err(|error| error.to_string())?.ok_or("not registered")?;
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").ok_or("no condition")?;
            if ready.status == want { Ok(ready.message.unwrap_or_default()) } else { Err(format!("{ready:?}")) }
        })
        .await
    }

    /// Waits for an event of that reason about an object; answers its message.
    pub async fn wait_for_event(&self, object: &str, reason: &str) -> String {
        let events: Api<Event> = Api::all(self.client.clone());
        eventually(&format!("event {reason} of {object}"), async || {
            let list = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let about = list.items.iter().filter(|event| event.involved_object.name.as_deref() == Some(object));
            let found = about.clone().find(|event| event.reason.as_deref() == Some(reason));
            let seen: Vec<_> = about.filter_map(|event| event.reason.clone()).collect();
            found.map(|event| event.message.clone().unwrap_or_default()).ok_or(format!("{seen:?}"))
        })
        .await
    }
}
