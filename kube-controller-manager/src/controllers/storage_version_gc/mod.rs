//! `storageversion-garbage-collector-controller`: the entries of apiservers that are gone leave the StorageVersions.

mod plan;

use std::sync::Arc;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use k8s_openapi::api::apiserverinternal::v1alpha1::StorageVersion;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};

use self::plan::{Change, servers, without};
use crate::context::{Context, Task};
use crate::shared::apierr;
use crate::shared::meta::{MetaExt, now};

const NAMESPACE: &str = "kube-system";
const LEASES: &str = "storage_version_garbage_collector_leases";
const VERSIONS: &str = "storage_version_garbage_collector_storageversions";

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let collector = Arc::new(Collector {
        client: ctx.client("storage-version-garbage-collector"),
        leases: ctx.factory.informer(),
        versions: ctx.factory.informer(),
        gone: WorkQueue::new(LEASES),
        doubtful: WorkQueue::new(VERSIONS),
    });
    let c = collector.clone();
    collector.leases.on_event(move |event: &Event<Lease>| {
        if let Event::Deleted(lease) = event
            && is_identity(lease)
        {
            c.gone.add(lease.name_str().to_owned());
        }
    });
    let c = collector.clone();
    collector.versions.on_event(move |event: &Event<StorageVersion>| {
        let version = event.object();
        let known = |id: &str| c.leases.get(NAMESPACE, id).is_some_and(|lease| is_identity(&lease));
        if !matches!(event, Event::Deleted(_)) && !servers(version).all(known) {
            c.doubtful.add(object_key(&**version));
        }
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        let (gone, doubtful) = (collector.gone.clone(), collector.doubtful.clone());
        let for_gone = collector.clone();
        let leases = run_workers(LEASES, gone, 1, shutdown.clone(), move |name: String| {
            let collector = for_gone.clone();
            async move { collector.lease_gone(&name).await }
        });
        let versions = run_workers(VERSIONS, doubtful, 1, shutdown, move |name: String| {
            let collector = collector.clone();
            async move { collector.check(&name).await }
        });
        futures::join!(leases, versions);
    }))
}

/// The lease by which an apiserver says that it lives.
fn is_identity(lease: &Lease) -> bool {
    lease.ns_str() == NAMESPACE && lease.label("apiserver.kubernetes.io/identity") == Some("kube-apiserver")
}

struct Collector {
    client: Client,
    leases: Arc<Informer<Lease>>,
    versions: Arc<Informer<StorageVersion>>,
    gone: Arc<WorkQueue<String>>,
    doubtful: Arc<WorkQueue<String>>,
}

impl Collector {
    /// The server is asked, the cache may be behind.
    async fn lives(&self, id: &str) -> Result<bool, kube::Error> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        Ok(api.get_opt(id).await?.is_some_and(|lease| is_identity(&lease)))
    }

    async fn lease_gone(&self, name: &str) -> Result<(), kube::Error> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        if leases.get_opt(name).await?.is_some() {
            return Ok(());
        }
        let versions: Api<StorageVersion> = Api::all(self.client.clone());
        let mut result = Ok(());
        for version in versions.list(&ListParams::default()).await? {
            // One that fails holds up no other.
            result = result.and(self.write(without(version, |id| id != name, now())).await);
        }
        result
    }

    async fn check(&self, name: &str) -> Result<(), kube::Error> {
        let versions: Api<StorageVersion> = Api::all(self.client.clone());
        let Some(version) = versions.get_opt(name).await? else { return Ok(()) };
        let mut living = Vec::new();
        for id in servers(&version) {
            if self.lives(id).await? {
                living.push(id.to_owned());
            }
        }
        self.write(without(version, |id| living.iter().any(|living| living == id), now())).await
    }

    async fn write(&self, change: Option<Change>) -> Result<(), kube::Error> {
        let api: Api<StorageVersion> = Api::all(self.client.clone());
        match change {
            None => Ok(()),
            Some(Change::Delete(name)) => apierr::ignore_not_found(api.delete(&name, &DeleteParams::default()).await),
            Some(Change::Update(version)) => {
                let written = api.replace_status(version.name_str(), &PostParams::default(), &version).await;
                apierr::ignore_not_found(written)
            }
        }
    }
}
