//! `namespace-controller`: empties namespaces that are being deleted, then lets them go.

mod conditions;

use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, PostParams, PropagationPolicy};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::json;

use self::conditions::Findings;
use crate::context::{Context, Task};
use crate::shared::apierr;
use crate::shared::discovery::{self, Discovered, Served};
use crate::shared::meta::MetaExt;

const FINALIZER: &str = "kubernetes";
/// Content that was only just created in an apiserver's other replica must not slip through.
const GRACE: Duration = Duration::from_millis(500);
/// Estimate for objects that wait for their finalizers.
const FINALIZER_ESTIMATE: i64 = 15;
/// Resource types of one namespace that are emptied at the same time.
const CONCURRENCY: usize = 5;

#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("unable to delete all content: {0}")]
    Content(String),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let controller = Arc::new(Controller {
        client: ctx.client("namespace-controller"),
        namespaces: ctx.factory.informer(),
        queue: WorkQueue::with_backoff("namespace", Duration::from_millis(5), Duration::from_secs(60)),
    });
    let c = controller.clone();
    controller.namespaces.on_event(move |event: &Event<Namespace>| {
        let (Event::Added(ns) | Event::Updated { new: ns, .. }) = event else { return };
        if ns.is_deleting() && !is_finalized(ns) {
            c.queue.add_after(object_key(&**ns), GRACE);
        }
    });
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.concurrent_namespace_syncs);
    Ok(Box::pin(async move {
        let queue = controller.queue.clone();
        run_workers("namespace", queue, workers, shutdown, move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        })
        .await;
    }))
}

fn is_finalized(ns: &Namespace) -> bool {
    ns.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_none_or(Vec::is_empty)
}

struct Controller {
    client: Client,
    namespaces: Arc<Informer<Namespace>>,
    queue: Arc<WorkQueue<String>>,
}

/// What is left of one resource type.
#[derive(Debug, Default, PartialEq)]
struct Left {
    count: usize,
    /// One entry per finalizer and object.
    finalizers: Vec<String>,
    /// Seconds until they may be gone.
    estimate: i64,
}

impl Controller {
    async fn sync(&self, name: &str) -> Result<(), SyncError> {
        if self.namespaces.get("", name).is_none() {
            return Ok(());
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        let Some(ns) = api.get_opt(name).await? else { return Ok(()) };
        if !ns.is_deleting() || is_finalized(&ns) {
            return Ok(());
        }
        let ns = mark_terminating(&api, ns).await?;
        let deleted_at = ns.metadata.deletion_timestamp.as_ref().map_or_else(Timestamp::now, |t| t.0);
        let mut findings = Findings::default();
        let estimate = self.delete_content(name, deleted_at, &mut findings).await;
        self.report(&api, ns, &findings).await;
        if !findings.delete_errors.is_empty() || findings.discovery_failure.is_some() {
            let mut all = findings.delete_errors;
            all.extend(findings.discovery_failure);
            return Err(SyncError::Content(all.join(", ")));
        }
        if estimate > 0 {
            // Somebody else must finish first; half of the estimate is a good time to look again.
            self.queue.add_after(name.to_owned(), Duration::from_secs(u64::try_from(estimate / 2 + 1).unwrap_or(1)));
            return Ok(());
        }
        finalize(&api, name).await?;
        Ok(())
    }

    /// Deletes pods first and the rest when no pod is left; answers how many seconds it may still take.
    async fn delete_content(&self, name: &str, deleted_at: Timestamp, findings: &mut Findings) -> i64 {
        let found = match discovery::discover(&self.client).await {
            Ok(found) => found,
            Err(error) => {
                findings.discovery_failure = Some(apierr::message(&error));
                Discovered::default()
            }
        };
        if let Some(failure) = found.failure() {
            findings.discovery_failure =
                Some(format!("Discovery failed for some groups, {} failing: {failure}", found.failed.len()));
        }
        let deletable = found.resources.into_iter().filter(|r| r.namespaced && r.has("delete"));
        let (pods, rest): (Vec<Served>, Vec<Served>) =
            deletable.partition(|r| r.group.is_empty() && r.plural == "pods");
        let mut estimate = 0;
        for wave in [pods, rest] {
            let calls = wave.into_iter().map(|resource| async move {
                let result = self.empty(&resource, name, deleted_at).await;
                (resource, result)
            });
            let results: Vec<_> = stream::iter(calls).buffer_unordered(CONCURRENCY).collect().await;
            for (resource, result) in results {
                estimate = estimate.max(note(&resource, name, result, findings));
            }
            if !findings.remaining.is_empty() {
                break;
            }
        }
        estimate
    }

    /// Deletes every object of one type and counts what stays.
    async fn empty(&self, resource: &Served, name: &str, deleted_at: Timestamp) -> Result<Left, kube::Error> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), name, &resource.api_resource());
        let estimate = match resource.group.is_empty() && resource.plural == "pods" {
            true => self.pod_grace(name, deleted_at).await?,
            false => 0,
        };
        let params =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        let mut collected = false;
        if resource.has("deletecollection") {
            collected = match api.delete_collection(&params, &ListParams::default()).await {
                Ok(_) => true,
                Err(error) if is_unsupported(&error) => false,
                Err(error) => return Err(error),
            };
        }
        if !resource.has("list") {
            return Ok(Left::default());
        }
        if !collected {
            for item in list(&api).await? {
                let result = api.delete(item.name_str(), &params).await.map(|_| ());
                if let Err(error) = result
                    && !is_unsupported(&error)
                {
                    return Err(error);
                }
            }
        }
        let items = list(&api).await?;
        let finalizers: Vec<String> =
            items.iter().flat_map(|i| i.metadata.finalizers.clone().unwrap_or_default()).collect();
        let estimate = match (items.is_empty(), estimate, finalizers.is_empty()) {
            (true, ..) => 0,
            (_, 0, false) => FINALIZER_ESTIMATE,
            (_, estimate, _) => estimate,
        };
        Ok(Left { count: items.len(), finalizers, estimate })
    }

    /// The longest grace period of the namespace's pods that is not over yet.
    async fn pod_grace(&self, name: &str, deleted_at: Timestamp) -> Result<i64, kube::Error> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), name).list(&ListParams::default()).await?.items;
        Ok(grace_left(&pods, deleted_at, Timestamp::now()))
    }

    async fn report(&self, api: &Api<Namespace>, mut ns: Namespace, findings: &Findings) {
        if !conditions::update(ns.status.get_or_insert_default(), findings) {
            return;
        }
        if let Err(error) = api.replace_status(ns.name_str(), &PostParams::default(), &ns).await
            && !apierr::is_not_found(&error)
        {
            tracing::warn!(namespace = ns.name_str(), %error, "cannot update the conditions of the namespace");
        }
    }
}

/// Adds one type's outcome to the findings; answers its estimate.
fn note(resource: &Served, namespace: &str, result: Result<Left, kube::Error>, findings: &mut Findings) -> i64 {
    match result {
        Err(error) => {
            findings.delete_errors.push(apierr::message(&error));
            0
        }
        Ok(left) => {
            if left.count > 0 {
                findings.remaining.insert(format!("{}.{}", resource.plural, resource.group), left.count);
                if left.estimate == 0 {
                    let (group, version, plural) = (&resource.group, &resource.version, &resource.plural);
                    findings.delete_errors.push(format!(
                        "unexpected items still remain in namespace: {namespace} for gvr: {group}/{version}, Resource={plural}"
                    ));
                }
            }
            for finalizer in left.finalizers {
                *findings.finalizers.entry(finalizer).or_default() += 1;
            }
            left.estimate
        }
    }
}

/// Seconds that the slowest pod may still take; finished pods take none.
fn grace_left(pods: &[Pod], deleted_at: Timestamp, now: Timestamp) -> i64 {
    let grace = pods
        .iter()
        .filter(|p| !crate::shared::pods::is_terminal(p))
        .filter_map(|p| p.spec.as_ref()?.termination_grace_period_seconds)
        .max()
        .unwrap_or(0);
    // As upstream: when the time is over they are still counted for the whole period.
    let passed = now.duration_since(deleted_at).max(SignedDuration::ZERO).as_secs();
    if passed > grace { grace } else { (grace - passed).max(i64::from(grace > 0)) }
}

fn is_unsupported(error: &kube::Error) -> bool {
    apierr::is_not_found(error) || matches!(error, kube::Error::Api(s) if s.code == 405)
}

async fn list(api: &Api<DynamicObject>) -> Result<Vec<kube::core::PartialObjectMeta<DynamicObject>>, kube::Error> {
    match api.list_metadata(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        Err(error) if is_unsupported(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn mark_terminating(api: &Api<Namespace>, mut ns: Namespace) -> Result<Namespace, kube::Error> {
    if ns.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Terminating") {
        return Ok(ns);
    }
    ns.status.get_or_insert_default().phase = Some("Terminating".into());
    let name = ns.name_str().to_owned();
    api.replace_status(&name, &PostParams::default(), &ns).await
}

/// Takes our finalizer off; a conflict is tried again on the fresh object.
async fn finalize(api: &Api<Namespace>, name: &str) -> Result<(), kube::Error> {
    for _ in 0..5 {
        let Some(ns) = api.get_opt(name).await? else { return Ok(()) };
        let Some(finalizers) = ns.spec.as_ref().and_then(|s| s.finalizers.clone()) else { return Ok(()) };
        let rest: Vec<String> = finalizers.into_iter().filter(|f| f != FINALIZER).collect();
        let body =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": ns.metadata, "spec": {"finalizers": rest}});
        let result: Result<Namespace, kube::Error> =
            api.replace_subresource("finalize", name, &PostParams::default(), &body).await;
        match result {
            Err(error) if apierr::is_conflict(&error) => {}
            other => return apierr::ignore_not_found(other),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, grace: i64) -> Pod {
        serde_json::from_value(
            json!({"spec": {"containers": [], "terminationGracePeriodSeconds": grace}, "status": {"phase": phase}}),
        )
        .unwrap()
    }

    #[test]
    fn estimates() {
        let (t0, t10): (Timestamp, Timestamp) =
            (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + SignedDuration::from_secs(10));
        assert_eq!(grace_left(&[], t0, t10), 0);
        assert_eq!(grace_left(&[pod("Running", 30), pod("Running", 5), pod("Succeeded", 600)], t0, t10), 20);
        assert_eq!(grace_left(&[pod("Running", 5)], t0, t10), 5);
        assert_eq!(grace_left(&[pod("Running", 0)], t0, t10), 0);
    }

    #[test]
    fn leftovers_without_a_reason_are_an_error() {
        let resource = Served {
            group: "apps".into(),
            version: "v1".into(),
            kind: "Deployment".into(),
            plural: "deployments".into(),
            namespaced: true,
            scalable: false,
            verbs: Default::default(),
        };
        let mut findings = Findings::default();
        assert_eq!(note(&resource, "ns", Ok(Left { count: 2, ..Left::default() }), &mut findings), 0);
        assert_eq!(
            findings.delete_errors,
            ["unexpected items still remain in namespace: ns for gvr: apps/v1, Resource=deployments"]
        );
        let left = Left { count: 1, finalizers: vec!["f".into()], estimate: 15 };
        let mut findings = Findings::default();
        assert_eq!(note(&resource, "ns", Ok(left), &mut findings), 15);
        assert!(findings.delete_errors.is_empty());
        assert_eq!((findings.remaining["deployments.apps"], findings.finalizers["f"]), (1, 1));
    }
}
