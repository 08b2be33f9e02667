//! `serviceaccount-controller`: every active namespace has its `default` ServiceAccount.

use std::sync::Arc;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::context::{Context, Task};
use crate::shared::apierr;
use crate::shared::meta::MetaExt;

const NAME: &str = "default";

/// Is the namespace one in which things may be created?
pub(crate) fn is_active(ns: &Namespace) -> bool {
    !ns.is_deleting() && ns.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("service-account-controller");
    let namespaces: Arc<Informer<Namespace>> = ctx.factory.informer();
    let accounts: Arc<Informer<ServiceAccount>> = ctx.factory.informer();
    let queue = WorkQueue::new("serviceaccount");
    let q = queue.clone();
    namespaces.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            q.add(object_key(&**event.object()));
        }
    });
    let q = queue.clone();
    accounts.on_event(move |event| {
        if let Event::Deleted(account) = event
            && account.name_str() == NAME
        {
            q.add(account.ns_str().to_owned());
        }
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        run_workers("serviceaccount", queue, 1, shutdown, move |key: String| {
            let (client, namespaces, accounts) = (client.clone(), namespaces.clone(), accounts.clone());
            async move { sync(&client, &namespaces, &accounts, &key).await }
        })
        .await;
    }))
}

async fn sync(
    client: &Client,
    namespaces: &Informer<Namespace>,
    accounts: &Informer<ServiceAccount>,
    namespace: &str,
) -> Result<(), kube::Error> {
    let wanted = namespaces.get("", namespace).is_some_and(|ns| is_active(&ns));
    if !wanted || accounts.get(namespace, NAME).is_some() {
        return Ok(());
    }
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.into()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    match Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &account).await {
        Err(error)
            if !apierr::is_already_exists(&error)
                && !apierr::is_namespace_terminating(&error)
                && !apierr::is_not_found(&error) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}
