//! `root-ca-certificate-publisher-controller`: the ConfigMap `kube-root-ca.crt` in every namespace, with which
//! pods verify the apiserver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::context::{Context, Task};
use crate::controllers::serviceaccount::is_active;
use crate::shared::apierr;
use crate::shared::meta::MetaExt;
use crate::shared::metrics::{Buckets, Counter, Histogram};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION_KEY: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

static SYNCS: Counter = Counter::new(
    "root_ca_cert_publisher_sync_total",
    "Number of namespace syncs happened in root ca cert publisher.",
    &["code"],
);
static SYNC_SECONDS: Histogram = Histogram::new(
    "root_ca_cert_publisher_sync_duration_seconds",
    "Number of namespace syncs happened in root ca cert publisher.",
    &["code"],
    Buckets::Exponential(0.001, 2.0, 15),
);

/// Sets up the controller; without `--root-ca-file` it publishes the CA of the kubeconfig's cluster.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let publisher = Arc::new(Publisher {
        client: ctx.client("root-ca-cert-publisher"),
        namespaces: ctx.factory.informer(),
        maps: ctx.factory.informer_with_field_selector(&format!("metadata.name={NAME}")),
        queue: WorkQueue::new("root_ca_cert_publisher"),
        bundle: bundle(ctx)?,
    });
    let p = publisher.clone();
    publisher.namespaces.on_event(move |event: &Event<Namespace>| {
        if !matches!(event, Event::Deleted(_)) {
            p.queue.add(object_key(&**event.object()));
        }
    });
    let p = publisher.clone();
    publisher.maps.on_event(move |event: &Event<ConfigMap>| {
        let map = event.object();
        if map.name_str() == NAME && !matches!(event, Event::Added(_)) {
            p.queue.add(map.ns_str().to_owned());
        }
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        let queue = publisher.queue.clone();
        run_workers("root_ca_cert_publisher", queue, 1, shutdown, move |key: String| {
            let publisher = publisher.clone();
            async move {
                let started = Instant::now();
                let result = publisher.sync(&key).await;
                let code = result.as_ref().err().map_or(200, |error| apierr::code(error).unwrap_or(500)).to_string();
                SYNCS.inc(&[&code]);
                SYNC_SECONDS.took(&[&code], started.elapsed());
                result
            }
        })
        .await;
    }))
}

/// The CA (PEM) with which pods verify the apiserver; empty when unknown.
///
/// # Errors
/// `--root-ca-file` cannot be read or holds none.
pub(crate) fn bundle(ctx: &Context) -> anyhow::Result<String> {
    if let Some(path) = &ctx.options.root_ca_file {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("--root-ca-file: cannot read {}", path.display()))?;
        anyhow::ensure!(text.contains("BEGIN CERTIFICATE"), "--root-ca-file: {} holds no certificate", path.display());
        return Ok(text);
    }
    Ok(ctx.cluster_ca.clone())
}

struct Publisher {
    client: Client,
    namespaces: Arc<Informer<Namespace>>,
    maps: Arc<Informer<ConfigMap>>,
    queue: Arc<WorkQueue<String>>,
    bundle: String,
}

/// What has to be written, if anything.
fn desired(namespace: &str, bundle: &str, existing: Option<&ConfigMap>) -> Option<ConfigMap> {
    let data = BTreeMap::from([("ca.crt".to_owned(), bundle.to_owned())]);
    let Some(existing) = existing else {
        return Some(ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(namespace.to_owned()),
                annotations: Some(BTreeMap::from([(DESCRIPTION_KEY.to_owned(), DESCRIPTION.to_owned())])),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        });
    };
    if existing.data.as_ref() == Some(&data) && existing.annotation(DESCRIPTION_KEY).is_some_and(|d| !d.is_empty()) {
        return None;
    }
    let mut copy = existing.clone();
    copy.data = Some(data);
    copy.metadata.annotations.get_or_insert_default().insert(DESCRIPTION_KEY.to_owned(), DESCRIPTION.to_owned());
    Some(copy)
}

impl Publisher {
    async fn sync(&self, namespace: &str) -> Result<(), kube::Error> {
        if !self.namespaces.get("", namespace).is_some_and(|ns| is_active(&ns)) {
            return Ok(());
        }
        let existing = self.maps.get(namespace, NAME);
        let Some(wanted) = desired(namespace, &self.bundle, existing.as_deref()) else { return Ok(()) };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let result = match existing {
            Some(_) => api.replace(NAME, &PostParams::default(), &wanted).await,
            None => api.create(&PostParams::default(), &wanted).await,
        };
        match result {
            Err(error) if !apierr::is_namespace_terminating(&error) && !apierr::is_already_exists(&error) => {
                apierr::ignore_not_found(Err::<(), _>(error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creates_repairs_and_leaves_alone() {
        let made = desired("ns", "CA", None).unwrap();
        assert_eq!(made.data.as_ref().unwrap()["ca.crt"], "CA");
        assert_eq!(desired("ns", "CA", Some(&made)), None);
        assert_eq!(desired("ns", "NEW", Some(&made)).unwrap().data.unwrap()["ca.crt"], "NEW");
        let mut bent = made.clone();
        bent.data.as_mut().unwrap().insert("x".into(), "y".into());
        assert_eq!(desired("ns", "CA", Some(&bent)), Some(made.clone()));
        let mut plain = made.clone();
        plain.metadata.annotations = None;
        assert_eq!(desired("ns", "CA", Some(&plain)), Some(made));
    }
}
