//! `kube-apiserver-serving-clustertrustbundle-publisher-controller`: the ClusterTrustBundle with which clients verify the apiserver.
//! Its name has a hash of the bundle, so that consumers of the old one keep it until they see the new one.

use std::sync::Arc;
use std::time::Instant;

use common::informer::{Informer, WorkQueue, run_workers};
use k8s_openapi::api::certificates::v1beta1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use ring::digest;

use crate::context::{Context, Task};
use crate::controllers::root_ca_publisher;
use crate::shared::apierr;
use crate::shared::meta::MetaExt;
use crate::shared::metrics::{Buckets, Counter, Histogram};

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
const QUEUE: &str = "ca_cert_publisher_cluster_trust_bundles";

static SYNCS: Counter = Counter::new(
    "clustertrustbundle_publisher_sync_total",
    "Number of syncs that occurred in cluster trust bundle publisher.",
    &["code"],
);
static SYNC_SECONDS: Histogram = Histogram::new(
    "clustertrustbundle_publisher_sync_duration_seconds",
    "The time it took to sync a cluster trust bundle.",
    &["code"],
    Buckets::Exponential(0.001, 2.0, 15),
);

/// Sets up the controller; without a CA there is nothing to publish.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let bundle = root_ca_publisher::bundle(ctx)?;
    if bundle.is_empty() {
        tracing::info!("no CA of the apiserver is known: no cluster trust bundle is published");
        return Ok(Box::pin(async {}));
    }
    let bundles = ctx.factory.informer_with_field_selector(&format!("spec.signerName={SIGNER}"));
    let client = ctx.client("kube-apiserver-serving-clustertrustbundle-publisher");
    let publisher = Arc::new(Publisher { client, bundles, bundle });
    let queue = WorkQueue::new(QUEUE);
    let changed = queue.clone();
    publisher.bundles.on_event(move |_| changed.add(()));
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        queue.add(());
        run_workers(QUEUE, queue, 1, shutdown, move |()| {
            let publisher = publisher.clone();
            async move {
                let started = Instant::now();
                let result = publisher.sync().await;
                let code = result.as_ref().err().map_or(200, |error| apierr::code(error).unwrap_or(500)).to_string();
                SYNCS.inc(&[&code]);
                SYNC_SECONDS.took(&[&code], started.elapsed());
                result
            }
        })
        .await;
    }))
}

struct Publisher {
    client: Client,
    bundles: Arc<Informer<ClusterTrustBundle>>,
    bundle: String,
}

/// The signer and the start of the bundle's SHA-256.
fn bundle_name(bundle: &str) -> String {
    let hash = digest::digest(&digest::SHA256, bundle.as_bytes());
    let hex: String = hash.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{hex}", SIGNER.replace('/', ":"))
}

/// What to write: the bundle unless it is there as it should be, and the names of those that are not it.
fn desired(bundle: &str, existing: &[Arc<ClusterTrustBundle>]) -> (Option<ClusterTrustBundle>, Vec<String>) {
    let name = bundle_name(bundle);
    let ours = existing.iter().find(|object| object.name_str() == name);
    let others = existing.iter().map(|object| object.name_str().to_owned()).filter(|other| *other != name).collect();
    let write = match ours {
        Some(object) if object.spec.trust_bundle == bundle => None,
        Some(object) => {
            let mut object = (**object).clone();
            bundle.clone_into(&mut object.spec.trust_bundle);
            Some(object)
        }
        None => Some(ClusterTrustBundle {
            metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() },
            spec: ClusterTrustBundleSpec { signer_name: Some(SIGNER.to_owned()), trust_bundle: bundle.to_owned() },
        }),
    };
    (write, others)
}

impl Publisher {
    async fn sync(&self) -> Result<(), kube::Error> {
        let api: Api<ClusterTrustBundle> = Api::all(self.client.clone());
        let (write, others) = desired(&self.bundle, &self.bundles.list());
        if let Some(object) = write {
            match object.metadata.resource_version {
                Some(_) => api.replace(object.name_str(), &PostParams::default(), &object).await?,
                None => api.create(&PostParams::default(), &object).await?,
            };
        }
        let mut result = Ok(());
        for name in others {
            // One that fails holds up no other.
            result = result.and(apierr::ignore_not_found(api.delete(&name, &DeleteParams::default()).await));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bundle_stays() {
        let (made, others) = desired("CA", &[]);
        let mut made = made.unwrap();
        assert_eq!(
            made.name_str(),
            "kubernetes.io:kube-apiserver-serving:4b650e5c4785025dee7bd65e",
            "the SHA-256 of CA"
        );
        assert!(others.is_empty());
        made.metadata.resource_version = Some("1".into());
        let there = Arc::new(made.clone());
        assert_eq!(desired("CA", std::slice::from_ref(&there)), (None, vec![]));
        let (new, old) = desired("NEW", &[there]);
        assert_eq!((new.unwrap().spec.trust_bundle.as_str(), old), ("NEW", vec![bundle_name("CA")]));
        made.spec.trust_bundle = "bent".into();
        assert_eq!(desired("CA", &[Arc::new(made)]).0.unwrap().spec.trust_bundle, "CA");
    }
}
