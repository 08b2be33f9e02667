//! Pods that the apiserver binds to this node.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use tokio_util::sync::CancellationToken;

use super::spec;
use crate::shared::Kubelet;

/// Feeds pods of the API to the manager until shutdown. A lost apiserver changes nothing: pods run on.
pub(crate) async fn run(kubelet: Arc<Kubelet>, client: kube::Client, shutdown: CancellationToken) {
    let api: kube::Api<Pod> = kube::Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", kubelet.config.node_name));
    let mut stream = Box::pin(watcher(api, config).default_backoff());
    let mut listing: Vec<Pod> = Vec::new();
    let mut failing = false;
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            () = shutdown.cancelled() => return,
        };
        match event {
            Some(Ok(event)) => {
                failing = false;
                match event {
                    watcher::Event::Init => listing.clear(),
                    watcher::Event::InitApply(pod) => listing.extend(usable(pod)),
                    watcher::Event::InitDone => kubelet.pods.replace_api(std::mem::take(&mut listing)),
                    watcher::Event::Apply(pod) => usable(pod).into_iter().for_each(|pod| kubelet.pods.upsert(pod)),
                    watcher::Event::Delete(pod) => kubelet.pods.remove(&pod),
                }
            }
            Some(Err(error)) if !failing => {
                failing = true;
                tracing::warn!(%error, "cannot watch pods of this node, will retry");
            }
            Some(Err(_)) => {}
            None => return,
        }
    }
}

/// A pod of the API never counts as static, whatever its annotations claim.
fn usable(mut pod: Pod) -> Option<Pod> {
    if !spec::is_mirror(&pod)
        && let Some(annotations) = &mut pod.metadata.annotations
    {
        annotations.remove(spec::CONFIG_SOURCE);
    }
    pod.metadata.managed_fields = None;
    pod.metadata.uid.is_some().then_some(pod)
}
