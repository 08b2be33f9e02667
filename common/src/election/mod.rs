//! Leader election over a Lease with upstream's timing rules: acquire with jitter, renew within a deadline, release at the end.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use parking_lot::Mutex;
use prometheus::{GaugeVec, Opts};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    config::flags::LeaderElection,
    events::{EventType, Recorder},
    serving::Health,
    telemetry,
};

/// The lease was lost while leading: the daemon must stop at once.
#[derive(Debug, thiserror::Error)]
#[error("leaderelection lost: lease {namespace}/{name} could not be renewed within the renew deadline")]
pub struct LeadershipLost {
    namespace: String,
    name: String,
}

/// `<hostname>_<uuid>`: who we are in the Lease.
fn identity() -> String {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{}", hostname.trim(), uuid::Uuid::new_v4())
}

/// One candidate for a lease.
pub struct Election {
    client: Client,
    flags: LeaderElection,
    component: String,
    identity: String,
    watchdog: Watchdog,
}

impl Election {
    /// A candidate of its own identity. `component` names the lease (unless a flag does) and the event source.
    ///
    /// # Errors
    /// When the flags' times can't work together.
    pub fn new(client: Client, flags: &LeaderElection, component: &str) -> anyhow::Result<Self> {
        if flags.leader_elect {
            validate(flags)?;
        }
        let watchdog = Watchdog { renewed: Arc::default(), lease_duration: flags.leader_elect_lease_duration };
        Ok(Self { client, flags: flags.clone(), component: component.to_owned(), identity: identity(), watchdog })
    }

    /// The same candidate under another lease of one daemon.
    #[must_use]
    pub fn with_identity(mut self, identity: &str) -> Self {
        identity.clone_into(&mut self.identity);
        self
    }

    /// Who we are in the Lease.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Registers upstream's `leaderElection` check: a leader who neither renews nor steps down is sick. Nothing without `--leader-elect`.
    pub fn register(&self, health: &Health) {
        if self.flags.leader_elect {
            let (watchdog, name) = (self.watchdog.clone(), lease_name(&self.flags, &self.component));
            health.register_at(&["healthz", "readyz"], "leaderElection", move || watchdog.check(&name));
        }
    }

    /// Waits for leadership, then runs `on_started` while renewing the lease.
    ///
    /// Without `--leader-elect` it just runs `on_started`. The token given to it is cancelled at shutdown; when it has finished, the
    /// lease is released. Losing the lease drops `on_started` and is an error, after which the daemon exits.
    pub async fn run<F, Fut>(self, shutdown: CancellationToken, on_started: F) -> anyhow::Result<()>
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = anyhow::Result<()>>,
    {
        if !self.flags.leader_elect {
            return on_started(shutdown).await;
        }
        campaign(self, shutdown, on_started).await
    }
}

/// When the lease that we hold was last renewed; None while somebody else leads.
#[derive(Clone)]
struct Watchdog {
    renewed: Arc<Mutex<Option<Instant>>>,
    lease_duration: Duration,
}

/// What upstream allows beyond the lease's end.
const OVERDUE: Duration = Duration::from_secs(20);

impl Watchdog {
    fn set(&self, renewed: Option<Instant>) {
        *self.renewed.lock() = renewed;
    }

    fn check(&self, name: &str) -> Result<(), String> {
        match *self.renewed.lock() {
            Some(renewed) if renewed.elapsed() > self.lease_duration + OVERDUE => {
                Err(format!("failed election to renew leadership on lease {name}"))
            }
            _ => Ok(()),
        }
    }
}

fn lease_name(flags: &LeaderElection, component: &str) -> String {
    flags.leader_elect_resource_name.clone().unwrap_or_else(|| component.to_owned())
}

async fn campaign<F, Fut>(election: Election, shutdown: CancellationToken, on_started: F) -> anyhow::Result<()>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let recorder = Recorder::new(election.client.clone(), &election.component, "");
    let watchdog = election.watchdog.clone();
    let mut elector = Elector::new(election);
    tracing::info!(lease = elector.describe(), "attempting to acquire leader lease");
    if !elector.acquire(&shutdown).await {
        return Ok(());
    }
    tracing::info!(lease = elector.describe(), "successfully acquired lease");
    let (lease, identity) = (elector.reference(), elector.identity.clone());
    recorder.event(&lease, EventType::Normal, "LeaderElection", format!("{identity} became leader"));
    master_status(&elector.name, 1.0);

    let name = elector.name.clone();
    let (lost, stop) = (elector.lost(), CancellationToken::new());
    let stop_renewing = stop.clone();
    let mut renewing = tokio::spawn(async move { elector.renew(&stop_renewing).await });
    let result = tokio::select! {
        result = on_started(shutdown.clone()) => {
            stop.cancel();
            // Wait for the release; it has its own deadline.
            renewing.await.ok();
            result
        }
        _ = &mut renewing => Err(lost.into()),
    };
    watchdog.set(None);
    master_status(&name, 0.0);
    recorder.event(&lease, EventType::Normal, "LeaderElection", format!("{identity} stopped leading"));
    result
}

fn validate(flags: &LeaderElection) -> anyhow::Result<()> {
    let (lease, renew, retry) =
        (flags.leader_elect_lease_duration, flags.leader_elect_renew_deadline, flags.leader_elect_retry_period);
    let lock = &flags.leader_elect_resource_lock;
    anyhow::ensure!(lock == "leases", "--leader-elect-resource-lock: {lock:?} is not supported, only \"leases\" is");
    anyhow::ensure!(lease > renew, "leaseDuration must be greater than renewDeadline");
    anyhow::ensure!(renew > retry.mul_f64(JITTER), "renewDeadline must be greater than retryPeriod*JitterFactor");
    anyhow::ensure!(
        lease.as_secs() >= 1 && !retry.is_zero(),
        "leaseDuration and retryPeriod must be greater than zero"
    );
    Ok(())
}

const JITTER: f64 = 1.2;

/// The pause after the first failed attempt: an API server that has only just started can answer the next one.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// How long to wait, before jitter, after so many attempts in a row that failed (none: somebody else leads).
fn retry_after(failures: u32, period: Duration) -> Duration {
    match failures {
        0 => period,
        n => period.min(FIRST_RETRY.saturating_mul(1 << (n - 1).min(16))),
    }
}

/// What came of one attempt to take or renew the lease.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Leading,
    /// Somebody else leads.
    Held,
    Failed,
}

fn master_status(name: &str, value: f64) {
    static GAUGE: OnceLock<Option<GaugeVec>> = OnceLock::new();
    let help = "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name.";
    let gauge = GAUGE.get_or_init(|| {
        GaugeVec::new(Opts::new("leader_election_master_status", help), &["name"]).ok().map(telemetry::register)
    });
    gauge.iter().for_each(|gauge| gauge.with_label_values(&[name]).set(value));
}

struct Elector {
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    lease_duration: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
    /// The lease as last seen, and when it last changed by our clock (never by the holder's).
    observed: Option<Lease>,
    observed_at: Instant,
    watchdog: Watchdog,
}

impl Elector {
    fn new(election: Election) -> Self {
        let Election { client, flags, component, identity, watchdog } = election;
        let namespace = flags.leader_elect_resource_namespace.clone();
        let name = lease_name(&flags, &component);
        master_status(&name, 0.0);
        Self {
            api: Api::namespaced(client, &namespace),
            namespace,
            name,
            identity,
            watchdog,
            lease_duration: flags.leader_elect_lease_duration,
            renew_deadline: flags.leader_elect_renew_deadline,
            retry_period: flags.leader_elect_retry_period,
            observed: None,
            observed_at: Instant::now(),
        }
    }

    fn describe(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn lost(&self) -> LeadershipLost {
        LeadershipLost { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("coordination.k8s.io/v1".into()),
            kind: Some("Lease".into()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            ..ObjectReference::default()
        }
    }

    /// Tries until we lead; false when cancelled before.
    async fn acquire(&mut self, shutdown: &CancellationToken) -> bool {
        let mut failures = 0;
        loop {
            let attempt = tokio::time::timeout(self.renew_deadline, self.acquire_or_renew());
            tokio::select! {
                () = shutdown.cancelled() => return false,
                outcome = attempt => match outcome.unwrap_or(Attempt::Failed) {
                    Attempt::Leading => {
                        self.watchdog.set(Some(Instant::now()));
                        return true;
                    }
                    Attempt::Held => failures = 0,
                    Attempt::Failed => failures += 1,
                },
            }
            let pause = retry_after(failures, self.retry_period).mul_f64(1.0 + rand::random_range(0.0..JITTER));
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Renews until told to stop (then releases the lease) or until the deadline passes without success.
    async fn renew(&mut self, stop: &CancellationToken) {
        let mut deadline = Instant::now() + self.renew_deadline;
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.release().await,
                () = tokio::time::sleep(self.retry_period) => {}
            }
            match tokio::time::timeout_at(deadline, self.acquire_or_renew()).await {
                Ok(Attempt::Leading) => {
                    self.watchdog.set(Some(Instant::now()));
                    deadline = Instant::now() + self.renew_deadline;
                }
                _ if Instant::now() >= deadline => {
                    return tracing::error!(lease = self.describe(), "failed to renew lease");
                }
                _ => {}
            }
        }
    }

    async fn acquire_or_renew(&mut self) -> Attempt {
        match self.try_once().await {
            Ok(true) => Attempt::Leading,
            Ok(false) => Attempt::Held,
            Err(error) => {
                // Another writer may have been faster: look at the lease afresh next time.
                tracing::warn!(
                    lease = self.describe(),
                    error = crate::client::brief(&crate::client::causes(&error)),
                    "failed to acquire or renew lease"
                );
                Attempt::Failed
            }
        }
    }

    async fn try_once(&mut self) -> Result<bool, kube::Error> {
        let Some(current) = self.api.get_opt(&self.name).await? else {
            let lease = self.wanted(None, Timestamp::now());
            let created = self.api.create(&PostParams::default(), &lease).await?;
            self.observe(created);
            return Ok(true);
        };
        self.observe(current.clone());
        if !may_take(current.spec.as_ref(), &self.identity, self.observed_at + self.lease_duration > Instant::now()) {
            return Ok(false);
        }
        let lease = self.wanted(Some(current), Timestamp::now());
        let updated = self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        self.observe(updated);
        Ok(true)
    }

    fn observe(&mut self, lease: Lease) {
        if self.observed.as_ref().and_then(|old| old.spec.as_ref()) != lease.spec.as_ref() {
            self.observed_at = Instant::now();
        }
        self.observed = Some(lease);
    }

    fn wanted(&self, current: Option<Lease>, now: Timestamp) -> Lease {
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            ..ObjectMeta::default()
        };
        let mut lease = current.unwrap_or(Lease { metadata, spec: None });
        lease.spec = Some(next_spec(lease.spec.take(), &self.identity, self.lease_duration, now));
        lease
    }

    /// Gives the lease up, so that the next leader need not wait for its end.
    async fn release(&mut self) {
        let release = async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
            let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
            else {
                return Ok(());
            };
            let now = MicroTime(Timestamp::now());
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(now.clone());
            spec.acquire_time = Some(now);
            self.api.replace(&self.name, &PostParams::default(), &lease).await.map(|_| ())
        };
        match tokio::time::timeout(self.renew_deadline, release).await {
            Ok(Ok(())) => tracing::info!(lease = self.describe(), "released leader lease"),
            Ok(Err(error)) => tracing::warn!(%error, lease = self.describe(), "failed to release lease"),
            Err(_) => tracing::warn!(lease = self.describe(), "failed to release lease in time"),
        }
    }
}

/// Whether the lease is ours, free, or was not renewed for its whole duration as we observed it.
fn may_take(spec: Option<&LeaseSpec>, identity: &str, observed_recently: bool) -> bool {
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    holder.is_empty() || holder == identity || !observed_recently
}

fn next_spec(current: Option<LeaseSpec>, identity: &str, duration: Duration, now: Timestamp) -> LeaseSpec {
    let mut spec = LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)),
        renew_time: Some(MicroTime(now)),
        acquire_time: Some(MicroTime(now)),
        lease_transitions: Some(0),
        ..LeaseSpec::default()
    };
    if let Some(current) = current {
        let transitions = current.lease_transitions.unwrap_or(0);
        let ours = current.holder_identity.as_deref() == Some(identity);
        spec.lease_transitions = Some(if ours { transitions } else { transitions.saturating_add(1) });
        if ours {
            spec.acquire_time = current.acquire_time;
        }
    }
    spec
}

#[cfg(test)]
#[path = "tests.rs"]
mod over_http;

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: &str) -> LeaseSpec {
        next_spec(None, holder, Duration::from_secs(15), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn failures_are_retried_soon_and_then_ever_later() {
        let period = Duration::from_secs(2);
        let pauses = [0, 1, 2, 3, 5, 6, 1000].map(|failures| retry_after(failures, period).as_millis());
        assert_eq!(pauses, [2000, 100, 200, 400, 1600, 2000, 2000]);
    }

    #[test]
    fn takes_only_what_is_free_ours_or_expired() {
        assert!(may_take(None, "me", true));
        assert!(may_take(Some(&spec("")), "me", true));
        assert!(may_take(Some(&spec("me")), "me", true));
        assert!(!may_take(Some(&spec("other")), "me", true));
        assert!(may_take(Some(&spec("other")), "me", false));
    }

    #[test]
    fn renewing_keeps_acquire_time_and_taking_over_counts_a_transition() {
        let later = Timestamp::from_second(60).unwrap();
        let renewed = next_spec(Some(spec("me")), "me", Duration::from_secs(15), later);
        assert_eq!(
            (renewed.acquire_time, renewed.lease_transitions),
            (Some(MicroTime(Timestamp::UNIX_EPOCH)), Some(0))
        );
        assert_eq!(renewed.renew_time, Some(MicroTime(later)));
        let taken = next_spec(Some(spec("other")), "me", Duration::from_secs(15), later);
        assert_eq!((taken.acquire_time, taken.lease_transitions), (Some(MicroTime(later)), Some(1)));
    }

    #[test]
    fn a_leader_who_stopped_renewing_is_sick() {
        let watchdog = Watchdog { renewed: Arc::default(), lease_duration: Duration::from_secs(15) };
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        assert!(watchdog.check("l").is_ok(), "a standby is well");
        watchdog.set(ago(30));
        assert!(watchdog.check("l").is_ok());
        watchdog.set(ago(36));
        assert_eq!(watchdog.check("l").unwrap_err(), "failed election to renew leadership on lease l");
    }

    #[test]
    fn refuses_timings_that_cannot_work() {
        let mut flags = LeaderElection::default();
        assert!(validate(&flags).is_ok());
        flags.leader_elect_renew_deadline = Duration::from_secs(20);
        assert!(validate(&flags).unwrap_err().to_string().contains("leaseDuration must be greater"));
    }
}
