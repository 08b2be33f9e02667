//! Watches over what quotas count, metadata only: one per resource, from the first quota that counts it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::quota::Evaluator;
use futures::StreamExt;
use kube::Api;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};

use super::Controller;
use crate::shared::discovery::Served;
use crate::shared::meta::MetaExt;

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(30);
/// Changes are joined for so long before quotas are counted again.
pub(super) const SETTLE: Duration = Duration::from_millis(200);

/// Watches a resource until the end, unless somebody does already.
pub(super) fn ensure(controller: &Arc<Controller>, resource: &Served) {
    if resource.has("watch") && controller.watched.lock().insert(resource.clone()) {
        tokio::spawn(watch(controller.clone(), resource.clone()));
    }
}

/// The resources that are watched; bounded by what is served.
pub(super) type Watched = parking_lot::Mutex<HashSet<Served>>;

async fn watch(controller: Arc<Controller>, resource: Served) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(controller.client.clone(), &resource.api_resource());
    let mut stream = watcher::watcher(api, watcher::Config::default().any_semantic().page_size(500)).boxed();
    let evaluator = Evaluator::of(&resource.group, &resource.plural);
    let counts_only = matches!(evaluator, Evaluator::Count(_));
    let mut delay = FIRST_DELAY;
    loop {
        let event = tokio::select! {
            () = controller.shutdown.cancelled() => return,
            event = stream.next() => event,
        };
        match event {
            None => return,
            Some(Err(error)) => {
                let error = common::client::brief(&error);
                tracing::warn!(resource = resource.plural, group = resource.group, error, "watch failed; retrying");
                if !controller.still_served(&resource).await {
                    controller.watched.lock().remove(&resource);
                    return;
                }
                tokio::select! {
                    () = controller.shutdown.cancelled() => return,
                    () = tokio::time::sleep(delay) => {}
                }
                delay = (delay * 2).min(LAST_DELAY);
            }
            Some(Ok(event)) => {
                delay = FIRST_DELAY;
                match event {
                    Event::Delete(object) => controller.recount(&evaluator, object.ns_str()),
                    // Of these the size can change too; of others only the number counts, which admission raises.
                    Event::Apply(object) if !counts_only => controller.recount(&evaluator, object.ns_str()),
                    // Deletions may have been missed before a list.
                    Event::InitDone => controller.recount_all(),
                    Event::Init | Event::InitApply(_) | Event::Apply(_) => {}
                }
            }
        }
    }
}
