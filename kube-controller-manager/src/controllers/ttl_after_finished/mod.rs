//! `ttl-after-finished-controller`: deletes Jobs some time after they finished.

use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::Client;
use kube::api::{Api, DeleteParams, PropagationPolicy};

use crate::context::{Context, Task};
use crate::controllers::job::facts::JobExt;
use crate::shared::apierr;
use crate::shared::meta::MetaExt;
use crate::shared::metrics::{Buckets, Histogram};
use crate::shared::pod_control::uid_precondition;

static DELAY: Histogram = Histogram::new(
    "ttl_after_finished_controller_job_deletion_duration_seconds",
    "The time it took to delete the job since it became eligible for deletion",
    &[],
    Buckets::Exponential(0.1, 2.0, 14),
);

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let jobs: Arc<Informer<Job>> = ctx.factory.informer();
    let queue = WorkQueue::new("ttl_jobs_to_delete");
    let wanted = queue.clone();
    jobs.on_event(move |event: &Event<Job>| {
        let job = event.object();
        if !matches!(event, Event::Deleted(_)) && expiry(job).is_some() {
            wanted.add(object_key(&**job));
        }
    });
    let controller = Arc::new(Controller { client: ctx.client("ttl-after-finished-controller"), jobs, queue });
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.concurrent_ttl_after_finished_syncs);
    Ok(Box::pin(async move {
        let queue = controller.queue.clone();
        run_workers("ttl_jobs_to_delete", queue, workers, shutdown, move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        })
        .await;
    }))
}

/// When the Job is to go: the end of a finished one, and its TTL after that.
fn expiry(job: &Job) -> Option<Timestamp> {
    let ttl = job.jspec()?.ttl_seconds_after_finished?;
    let end = ["Complete", "Failed"].iter().find_map(|k| job.condition(k).filter(|c| c.status == "True"))?;
    let end = end.last_transition_time.as_ref()?.0;
    if job.is_deleting() { None } else { end.checked_add(SignedDuration::from_secs(ttl.into())).ok() }
}

struct Controller {
    client: Client,
    jobs: Arc<Informer<Job>>,
    queue: Arc<WorkQueue<String>>,
}

impl Controller {
    async fn sync(&self, key: &str) -> Result<(), kube::Error> {
        let (namespace, name) = split_key(key);
        let cached = self.jobs.get(namespace, name);
        if !cached.is_some_and(|job| self.is_due(key, &job)) {
            return Ok(());
        }
        // The cache may be old, and the TTL just have been raised: what is deleted is what the server shows.
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let Some(job) = api.get_opt(name).await?.filter(|job| self.is_due(key, job)) else { return Ok(()) };
        let mut params = uid_precondition(DeleteParams::default(), job.uid_str());
        params.propagation_policy = Some(PropagationPolicy::Foreground);
        if let Some(preconditions) = &mut params.preconditions {
            preconditions.resource_version = job.metadata.resource_version.clone();
        }
        apierr::ignore_not_found(api.delete(name, &params).await)?;
        if let Some(due) = expiry(&job) {
            DELAY.observe(&[], Timestamp::now().duration_since(due).as_secs_f64());
        }
        Ok(())
    }

    /// Is its time over? If not yet, looks again then.
    fn is_due(&self, key: &str, job: &Job) -> bool {
        let Some(due) = expiry(job) else { return false };
        match Duration::try_from(due.duration_since(Timestamp::now())) {
            Ok(left) if !left.is_zero() => {
                self.queue.add_after(key.to_owned(), left);
                false
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn when_jobs_go() {
        let job = |ttl: Value, kind: &str, status: &str| -> Option<String> {
            let condition = json!([{"type": kind, "status": status, "lastTransitionTime": "2026-01-01T00:00:10Z"}]);
            let job =
                json!({"spec": {"template": {}, "ttlSecondsAfterFinished": ttl}, "status": {"conditions": condition}});
            expiry(&serde_json::from_value(job).unwrap()).map(|t| t.to_string())
        };
        assert_eq!(job(json!(20), "Complete", "True").as_deref(), Some("2026-01-01T00:00:30Z"));
        assert_eq!(job(json!(0), "Failed", "True").as_deref(), Some("2026-01-01T00:00:10Z"));
        assert_eq!(job(Value::Null, "Complete", "True"), None);
        assert_eq!(job(json!(20), "Complete", "False"), None);
        assert_eq!(job(json!(20), "Suspended", "True"), None);
    }
}
