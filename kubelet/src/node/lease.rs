//! The node's Lease in kube-node-lease: the cheap heartbeat.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::PostParams;
use tokio_util::sync::CancellationToken;

use crate::shared::Kubelet;

const NAMESPACE: &str = "kube-node-lease";

/// Renews the lease until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, client: kube::Client, shutdown: CancellationToken) {
    let api: kube::Api<Lease> = kube::Api::namespaced(client, NAMESPACE);
    let duration = kubelet.config.file.node_lease_duration_seconds;
    let period = Duration::from_secs(u64::try_from(duration).unwrap_or(40)) / 4;
    let mut latest: Option<Lease> = None;
    let mut failures = 0u32;
    loop {
        let pause = match renew(&kubelet, &api, &mut latest, duration).await {
            Ok(()) => {
                failures = 0;
                period
            }
            Err(error) => {
                failures += 1;
                latest = None;
                if failures == 1 {
                    tracing::warn!(%error, "failed to renew the node's lease, will retry");
                }
                Duration::from_millis(200 * (1 << failures.min(5))).min(Duration::from_secs(7))
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn renew(
    kubelet: &Kubelet,
    api: &kube::Api<Lease>,
    latest: &mut Option<Lease>,
    duration: i32,
) -> anyhow::Result<()> {
    let name = &kubelet.config.node_name;
    let existing = match latest.take() {
        Some(lease) => Some(lease),
        None => api.get_opt(name).await?,
    };
    let owner = kubelet.node.object().and_then(|node| node.metadata.uid.clone()).map(|uid| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid,
        ..OwnerReference::default()
    });
    let mut lease = existing.clone().unwrap_or_default();
    lease.metadata.name = Some(name.clone());
    lease.metadata.namespace = Some(NAMESPACE.into());
    if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty) {
        lease.metadata.owner_references = owner.map(|owner| vec![owner]);
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(name.clone());
    spec.lease_duration_seconds = Some(duration);
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    let params = PostParams::default();
    *latest = Some(match existing {
        Some(_) => api.replace(name, &params, &lease).await?,
        None => api.create(&params, &lease).await?,
    });
    Ok(())
}
