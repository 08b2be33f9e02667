//! Keeps the authorizers current: follows RBAC objects, pods, volumes and attachments through the watch caches.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use super::ApiServer;
use crate::{
    authz::{Mode, node, rbac},
    storage::cache::{CachedObject, EventKind, Selection, WatchFrom, WatchItem, WatchQuery, without_managers},
};

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// Starts one task per followed resource.
pub fn spawn(server: &Arc<ApiServer>) -> Vec<tokio::sync::watch::Receiver<bool>> {
    let mut resources: Vec<(&'static str, &'static str)> = Vec::new();
    if server.authorizer.has(Mode::Rbac) {
        resources.extend(rbac::RESOURCES.map(|r| (RBAC_GROUP, r)));
    }
    if server.authorizer.has(Mode::Node) {
        resources.extend(node::RESOURCES);
    }
    resources
        .into_iter()
        .map(|(group, resource)| {
            let (synced, receiver) = tokio::sync::watch::channel(false);
            tokio::spawn(follow(Arc::clone(server), group, resource, synced));
            receiver
        })
        .collect()
}

/// Follows one resource until the server ends; starts over when the watch breaks.
async fn follow(
    server: Arc<ApiServer>,
    group: &'static str,
    resource: &'static str,
    synced: tokio::sync::watch::Sender<bool>,
) {
    let shutdown = server.shutdown.clone();
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = once(&server, group, resource, &synced) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}

async fn once(
    server: &ApiServer,
    group: &'static str,
    resource: &'static str,
    synced: &tokio::sync::watch::Sender<bool>,
) {
    let Ok(store) = server.registry.of(group, resource) else { return };
    let query = WatchQuery { selection: Selection::default(), from: WatchFrom::InitialEvents(None), bookmarks: true };
    let mut watcher = match store.cache.watch(query).await {
        Ok(watcher) => watcher,
        Err(error) => return tracing::debug!(resource, %error, "cannot follow yet"),
    };
    while let Some(Ok(item)) = watcher.next().await {
        match item {
            WatchItem::Event { kind, object, .. } => {
                apply(server, group, resource, kind, &object);
            }
            WatchItem::Bookmark { initial_events_end: true, .. } => {
                synced.send_replace(true);
            }
            WatchItem::Bookmark { .. } => {}
        }
    }
}

fn apply(server: &ApiServer, group: &str, resource: &str, kind: EventKind, object: &CachedObject) {
    let tree: Option<Value> = if kind == EventKind::Deleted { None } else { without_managers(object.bytes()).ok() };
    let (namespace, name) = (object.namespace(), object.name());
    if group == RBAC_GROUP {
        server.authorizer.rbac.apply(resource, namespace, name, tree.as_ref());
    } else {
        server.authorizer.node.apply(resource, namespace, name, tree.as_ref());
    }
}
