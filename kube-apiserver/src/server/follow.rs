//! Keeps the authorizers current: follows RBAC objects, pods, volumes and attachments through the watch caches.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::sync::watch;

use super::ApiServer;
use crate::{
    authz::{Mode, node, rbac},
    request::ApiResult,
    storage::{
        Revision,
        cache::{CachedObject, EventKind, ListQuery, Selection, WatchFrom, WatchItem, WatchQuery, without_managers},
    },
};

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// How far the authorizers know one resource.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// The initial state is there.
    synced: bool,
    /// The newest change that came by.
    revision: Revision,
}

/// How far the authorizers know what they decide by.
#[derive(Clone)]
pub struct Followed(Vec<(&'static str, &'static str, watch::Receiver<Progress>)>);

impl Followed {
    /// Whether the initial state of everything is there.
    pub fn synced(&self) -> bool {
        self.0.iter().all(|(.., progress)| progress.borrow().synced)
    }

    /// Waits until the authorizers know every role and binding that is stored now.
    pub async fn caught_up(self, server: &ApiServer) {
        for (group, resource, mut progress) in self.0 {
            let newest = if group == RBAC_GROUP { newest(server, resource).await.unwrap_or_default() } else { 0 };
            // An error means that the server has ended.
            let _ = progress.wait_for(|progress| progress.synced && progress.revision >= newest).await;
        }
    }
}

/// The newest revision of an object of an RBAC resource.
async fn newest(server: &ApiServer, resource: &str) -> ApiResult<Revision> {
    let store = server.registry.of(RBAC_GROUP, resource)?;
    let page = store.cache.list(ListQuery::default()).await.map_err(|error| store.cache_error(error))?;
    Ok(page.items.iter().map(|item| item.revision()).max().unwrap_or_default())
}

/// Starts one task per followed resource.
pub fn spawn(server: &Arc<ApiServer>) -> Followed {
    let mut resources: Vec<(&'static str, &'static str)> = Vec::new();
    if server.authorizer.has(Mode::Rbac) {
        resources.extend(rbac::RESOURCES.map(|r| (RBAC_GROUP, r)));
    }
    if server.authorizer.has(Mode::Node) {
        resources.extend(node::RESOURCES);
    }
    let start = |(group, resource)| {
        let (progress, receiver) = watch::channel(Progress::default());
        tokio::spawn(follow(Arc::clone(server), group, resource, progress));
        (group, resource, receiver)
    };
    Followed(resources.into_iter().map(start).collect())
}

/// Follows one resource until the server ends; starts over when the watch breaks.
async fn follow(
    server: Arc<ApiServer>,
    group: &'static str,
    resource: &'static str,
    progress: watch::Sender<Progress>,
) {
    let shutdown = server.shutdown.clone();
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = once(&server, group, resource, &progress) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}

async fn once(server: &ApiServer, group: &'static str, resource: &'static str, progress: &watch::Sender<Progress>) {
    let Ok(store) = server.registry.of(group, resource) else { return };
    let query = WatchQuery { selection: Selection::default(), from: WatchFrom::InitialEvents(None), bookmarks: true };
    let mut watcher = match store.cache.watch(query).await {
        Ok(watcher) => watcher,
        Err(error) => return tracing::debug!(resource, %error, "cannot follow yet"),
    };
    while let Some(Ok(item)) = watcher.next().await {
        match item {
            WatchItem::Event { kind, object, revision, .. } => {
                apply(server, group, resource, kind, &object);
                progress.send_modify(|progress| progress.revision = progress.revision.max(revision));
            }
            WatchItem::Bookmark { initial_events_end: true, .. } => {
                progress.send_modify(|progress| progress.synced = true);
            }
            WatchItem::Bookmark { .. } => {}
        }
    }
}

fn apply(server: &ApiServer, group: &str, resource: &str, kind: EventKind, object: &CachedObject) {
    let exists = kind != EventKind::Deleted;
    let (namespace, name) = (object.namespace(), object.name());
    if (group, resource) == ("", "pods") {
        let node = object.field("spec.nodeName").unwrap_or_default();
        let pod = exists.then(|| (node, object.bytes().clone()));
        return server.authorizer.node.apply_pod(namespace, name, pod);
    }
    let tree: Option<Value> = exists.then(|| without_managers(object.bytes()).ok()).flatten();
    if group == RBAC_GROUP {
        server.authorizer.rbac.apply(resource, namespace, name, tree.as_ref());
    } else {
        server.authorizer.node.apply(resource, name, tree.as_ref());
    }
}
