//! `cronjob-controller`: makes Jobs at the times of a schedule.

mod plan;
mod schedule;
mod write;
mod zones;

use std::sync::Arc;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;

use self::plan::{Decision, Missed};
use self::schedule::Schedule;
use crate::context::{Context, Task};
use crate::controllers::job::facts::JobExt;
use crate::events::{Events, reference};
use crate::shared::meta::MetaExt;
use crate::shared::owned::{BY_CONTROLLER, index_by_controller};
use crate::shared::owner::controller_of;

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("cronjob-controller");
    let jobs = ctx.factory.informer::<Job>();
    index_by_controller(&jobs);
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "cronjob-controller"),
        client,
        crons: ctx.factory.informer(),
        jobs: jobs.clone(),
        queue: WorkQueue::new("cronjob"),
    });
    let c = controller.clone();
    controller.crons.on_event(move |event| c.on_cron(event));
    let c = controller.clone();
    jobs.on_event(move |event| c.on_job(event));
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.concurrent_cron_job_syncs);
    Ok(Box::pin(async move {
        let queue = controller.queue.clone();
        run_workers("cronjob", queue, workers, shutdown, move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        })
        .await;
    }))
}

struct Controller {
    client: Client,
    events: Events,
    crons: Arc<Informer<CronJob>>,
    jobs: Arc<Informer<Job>>,
    queue: Arc<WorkQueue<String>>,
}

/// What a schedule cannot be understood for.
enum Misread {
    Zone(String),
    Schedule(String),
}

impl Controller {
    fn on_cron(&self, event: &Event<CronJob>) {
        let key = object_key(&**event.object());
        let Event::Updated { old, new } = event else { return self.queue.add(key) };
        let when = |cj: &CronJob| (cj.spec.schedule.clone(), cj.spec.time_zone.clone());
        if when(old) == when(new) {
            return self.queue.add(key);
        }
        // A new schedule is none for the times that the old one missed.
        match self.schedule(new) {
            Ok(schedule) => {
                if let Some(wait) = plan::next_look(new, &schedule, Timestamp::now()) {
                    self.queue.add_after(key, wait);
                }
            }
            Err(_) => {
                let message = format!("unparseable schedule for cronjob: {}", new.spec.schedule);
                self.events.warning(&reference(&**new), "UnParseableCronJobSchedule", message);
            }
        }
    }

    fn on_job(&self, event: &Event<Job>) {
        let new = event.object();
        let is = controller_of(&new.metadata);
        if let Event::Updated { old, .. } = event
            && controller_of(&old.metadata) != is
        {
            self.enqueue_owner(old.ns_str(), controller_of(&old.metadata));
        }
        self.enqueue_owner(new.ns_str(), is);
    }

    fn enqueue_owner(&self, namespace: &str, owner: Option<&OwnerReference>) {
        let Some(owner) = owner.filter(|r| r.kind == "CronJob") else { return };
        let cron = self.crons.get(namespace, &owner.name).filter(|cj| cj.uid_str() == owner.uid);
        if let Some(cron) = cron {
            self.queue.add(object_key(&*cron));
        }
    }

    /// The schedule in its time zone; one inside the schedule, which old objects may have, wins.
    fn schedule(&self, cj: &CronJob) -> Result<Schedule, Misread> {
        let spec = &cj.spec;
        let zone = match spec.time_zone.as_deref() {
            Some(name) => zones::load(name).map_err(Misread::Zone)?,
            None => zones::local(),
        };
        let inside = spec.schedule.strip_prefix("TZ=").or_else(|| spec.schedule.strip_prefix("CRON_TZ="));
        let (zone, text) = match inside.and_then(|rest| rest.split_once(' ')) {
            Some((name, text)) => {
                let bad = |e| Misread::Schedule(format!("provided bad location {name}: {e}"));
                (zones::load(name).map_err(bad)?, text.trim())
            }
            None => (zone, spec.schedule.as_str()),
        };
        Schedule::parse(text, zone).map_err(Misread::Schedule)
    }

    async fn sync(&self, key: &str) -> Result<(), kube::Error> {
        let (namespace, name) = split_key(key);
        let Some(cached) = self.crons.get(namespace, name) else { return Ok(()) };
        let mut cj = (*cached).clone();
        let jobs = self.jobs.by_index(BY_CONTROLLER, cj.uid_str());
        let mut changed = self.clean_up(&mut cj, &jobs).await;
        changed |= self.note_jobs(&mut cj, &jobs).await?;
        let mut result = Ok(());
        if !cj.is_deleting() {
            match self.start_job(&mut cj).await {
                Ok(started) => changed |= started,
                Err((started, error)) => {
                    changed |= started;
                    result = Err(error);
                }
            }
        }
        if changed {
            self.write_status(&cj).await?;
        }
        result
    }

    /// Starts the Job that is due, if any, and comes back for the next. Tells whether the status changed.
    async fn start_job(&self, cj: &mut CronJob) -> Result<bool, (bool, kube::Error)> {
        let about = reference(cj);
        let warn = |reason: &str, message: String| self.events.warning(&about, reason, message);
        let text = cj.spec.schedule.clone();
        let schedule = self.schedule(cj);
        if let Err(Misread::Zone(error)) = &schedule {
            let zone = cj.spec.time_zone.clone().unwrap_or_default();
            warn("UnknownTimeZone", format!("invalid timeZone: {zone:?}: {error}"));
            return Ok(false);
        }
        if cj.spec.suspend == Some(true) {
            return Ok(false);
        }
        if text.contains("TZ") {
            let see = "https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/";
            let message = format!(
                "CRON_TZ or TZ used in schedule {text:?} is not officially supported, see {see} for more details"
            );
            warn("UnsupportedSchedule", message);
        }
        let schedule = match schedule {
            Ok(schedule) => schedule,
            Err(Misread::Zone(error) | Misread::Schedule(error)) => {
                warn("UnparseableSchedule", format!("unparseable schedule: {text:?} : {error}"));
                return Ok(false);
            }
        };
        let now = Timestamp::now();
        let decision = match plan::decide(cj, &schedule, now) {
            Ok(decision) => decision,
            Err(error) => {
                warn("InvalidSchedule", format!("invalid schedule: {text} : {error}"));
                return Ok(false);
            }
        };
        if matches!(decision, Decision::Start(_, Missed::Many) | Decision::TooLate(_, Missed::Many)) {
            let message =
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            warn("TooManyMissedTimes", message.into());
        }
        let result = match decision {
            Decision::Wait => Ok(false),
            Decision::TooLate(at, _) => {
                let at = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
                warn("MissSchedule", format!("Missed scheduled time to start a job: {at}"));
                Ok(false)
            }
            Decision::Start(at, _) => self.run_job(cj, at).await,
        };
        if result.is_ok()
            && let Some(wait) = plan::next_look(cj, &schedule, now)
        {
            self.queue.add_after(object_key(cj), wait);
        }
        result
    }
}

/// The type of the condition with which the Job finished.
fn finished(job: &Job) -> Option<&'static str> {
    ["Complete", "Failed"].into_iter().find(|kind| job.condition(kind).is_some_and(|c| c.status == "True"))
}
