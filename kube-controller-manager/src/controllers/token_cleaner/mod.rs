//! `token-cleaner-controller`: removes bootstrap tokens when they expire.

use std::time::Duration;

use common::informer::{Event, WorkQueue, object_key, run_workers, split_key};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;

use crate::context::{Context, Task};
use crate::shared::meta::MetaExt;
use crate::shared::pod_control::uid_precondition;
use crate::shared::{apierr, bootstrap_token};

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("token-cleaner");
    let tokens = bootstrap_token::informer(&ctx.factory);
    let queue = WorkQueue::new("token_cleaner");
    let q = queue.clone();
    tokens.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            q.add(object_key(&**event.object()));
        }
    });
    let (shutdown, q) = (ctx.shutdown.clone(), queue.clone());
    Ok(Box::pin(async move {
        run_workers("token_cleaner", queue, 1, shutdown, move |key: String| {
            let (client, tokens, queue) = (client.clone(), tokens.clone(), q.clone());
            async move {
                let (namespace, name) = split_key(&key);
                let Some(token) = tokens.get(namespace, name) else { return Ok(()) };
                let Some(left) = bootstrap_token::time_left(&token, Timestamp::now()) else { return Ok(()) };
                if left.is_positive() {
                    queue.add_after(key, Duration::try_from(left).unwrap_or_default());
                    return Ok(());
                }
                let api: Api<Secret> = Api::namespaced(client, namespace);
                let params = uid_precondition(DeleteParams::default(), token.uid_str());
                match api.delete(name, &params).await {
                    // Another one of that name by now.
                    Err(error) if apierr::is_conflict(&error) => Ok(()),
                    result => apierr::ignore_not_found(result),
                }
            }
        })
        .await;
    }))
}
