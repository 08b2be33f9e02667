//! `legacy-serviceaccount-token-cleaner-controller`: generated token Secrets that nobody has used for a year are first marked as
//! invalid, and after as long again removed.

mod mounts;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use common::informer::Informer;
use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::context::{Context, Task};
use crate::shared::apierr;
use crate::shared::meta::MetaExt;
use crate::shared::token_secret::{account_of, informer, is_listed};

const PERIOD: Duration = Duration::from_secs(24 * 3600);
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Tells since when the apiservers label tokens that are used.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let period = ctx.options.tokens.legacy_service_account_token_clean_up_period;
    anyhow::ensure!(!period.is_zero(), "invalid CleanUpPeriod: 0s");
    let cleaner = Cleaner {
        client: ctx.client("legacy-service-account-token-cleaner"),
        accounts: ctx.factory.informer(),
        secrets: informer(&ctx.factory),
        pods: ctx.factory.informer(),
        unused_for: SignedDuration::try_from(period).unwrap_or(SignedDuration::MAX),
    };
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        let mut every = tokio::time::interval(PERIOD);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = every.tick() => {}
            }
            if let Err(error) = cleaner.pass(Timestamp::now()).await {
                tracing::warn!(error = common::client::brief(&error), "cannot look for unused token secrets");
            }
        }
    }))
}

struct Cleaner {
    client: Client,
    accounts: Arc<Informer<ServiceAccount>>,
    secrets: Arc<Informer<Secret>>,
    pods: Arc<Informer<Pod>>,
    unused_for: SignedDuration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Keep,
    Invalidate,
    Delete,
}

fn day(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

/// What happens to a generated, unmounted token Secret; `before` is the moment up to which its last sign of life must lie.
fn step(secret: &Secret, before: Timestamp) -> Step {
    let young = secret.created().is_none_or(|created| created >= before);
    let last_used = secret.label(LAST_USED).map(str::parse::<Date>);
    // A label that is no date tells nothing: better keep it.
    let used = last_used.is_some_and(|used| used.map_or(true, |used| used >= day(before)));
    if young || secret.is_deleting() || used {
        return Step::Keep;
    }
    match secret.label(INVALID_SINCE).and_then(|since| since.parse::<Date>().ok()) {
        None => Step::Invalidate,
        Some(since) if since >= day(before) => Step::Keep,
        Some(_) => Step::Delete,
    }
}

impl Cleaner {
    async fn pass(&self, now: Timestamp) -> anyhow::Result<()> {
        let before = now.checked_sub(self.unused_for)?;
        if !self.secrets.is_empty() && !self.tracked_since(before).await? {
            return Ok(());
        }
        for secret in self.secrets.list() {
            let step = step(&secret, before);
            if step == Step::Keep || !self.is_generated(&secret) || self.is_mounted(&secret) {
                continue;
            }
            if let Err(error) = self.take(&secret, step, now).await {
                let (namespace, secret) = (secret.ns_str(), secret.name_str());
                tracing::warn!(
                    namespace,
                    secret,
                    error = common::client::brief(&error),
                    "cannot clean up a token secret"
                );
            }
        }
        Ok(())
    }

    /// Whether tokens in use have been labelled since then.
    async fn tracked_since(&self, then: Timestamp) -> anyhow::Result<bool> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), "kube-system");
        let Some(map) = maps.get_opt(TRACKING).await? else { return Ok(false) };
        let since =
            map.data.as_ref().and_then(|data| data.get("since")).context("configMap does not have since label")?;
        let since: Date = since.parse().context("error parsing trackedSince time")?;
        // The day on which it began is not complete.
        Ok(then >= since.tomorrow()?.to_zoned(TimeZone::UTC)?.timestamp())
    }

    fn is_generated(&self, secret: &Secret) -> bool {
        let Some((name, uid)) = account_of(secret) else { return false };
        let account = self.accounts.get(secret.ns_str(), name);
        let same = |account: &Arc<ServiceAccount>| uid.is_none_or(|uid| uid == account.uid_str());
        account.filter(same).is_some_and(|account| is_listed(secret.name_str(), &account))
    }

    fn is_mounted(&self, secret: &Secret) -> bool {
        let mut used = HashSet::new();
        self.pods.list_namespace(secret.ns_str()).iter().for_each(|pod| mounts::collect(pod, &mut used));
        used.contains(secret.name_str())
    }

    async fn take(&self, secret: &Secret, step: Step, now: Timestamp) -> Result<(), kube::Error> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), secret.ns_str());
        let (namespace, name) = (secret.ns_str(), secret.name_str());
        tracing::info!(namespace, secret = name, ?step, "nobody uses this generated token secret");
        if step == Step::Invalidate {
            let metadata = json!({"uid": secret.uid_str(), "labels": {INVALID_SINCE: day(now).to_string()}});
            let patch = Patch::Merge(json!({ "metadata": metadata }));
            return api.patch(name, &PatchParams::default(), &patch).await.map(|_| ());
        }
        let unchanged = Preconditions { resource_version: Some(secret.version_str().to_owned()), uid: None };
        let params = DeleteParams { preconditions: Some(unchanged), ..DeleteParams::default() };
        match api.delete(name, &params).await {
            Err(error) if apierr::is_conflict(&error) => Ok(()),
            result => apierr::ignore_not_found(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        let before: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let secret = |created: &str, used: Option<&str>, invalid: Option<&str>| -> Secret {
            let labels = [(LAST_USED, used), (INVALID_SINCE, invalid)];
            let labels: serde_json::Map<_, _> =
                labels.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))).collect();
            let created = format!("{created}T00:00:00Z");
            serde_json::from_value(json!({"metadata": {"name": "s", "labels": labels, "creationTimestamp": created}}))
                .unwrap()
        };
        let table = [
            ("2026-01-02", None, None, Step::Keep),
            ("2025-01-01", None, None, Step::Invalidate),
            ("2025-01-01", Some("2026-01-01"), None, Step::Keep),
            ("2025-01-01", Some("2025-12-31"), None, Step::Invalidate),
            ("2025-01-01", Some("garbage"), None, Step::Keep),
            ("2025-01-01", None, Some("garbage"), Step::Invalidate),
            ("2025-01-01", None, Some("2026-01-01"), Step::Keep),
            ("2025-01-01", None, Some("2025-12-31"), Step::Delete),
            ("2025-01-01", Some("2026-02-01"), Some("2025-12-31"), Step::Keep),
        ];
        for (created, used, invalid, want) in table {
            assert_eq!(step(&secret(created, used, invalid), before), want, "{created} {used:?} {invalid:?}");
        }
    }
}
