//! Upstream's metrics.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::telemetry::register;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, exponential_buckets,
};

use crate::{backend::Applied, config::Mode, model::Family};

/// Counted by the loop and the servers, scraped on /metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    mode: Mode,
    duration: HistogramVec,
    full: HistogramVec,
    partial: HistogramVec,
    last: GaugeVec,
    last_queued: GaugeVec,
    programming: HistogramVec,
    endpoints_pending: IntGauge,
    endpoints_total: IntCounter,
    services_pending: IntGauge,
    services_total: IntCounter,
    no_local_endpoints: GaugeVec,
    healthz: IntCounterVec,
    livez: IntCounterVec,
    conntrack_duration: HistogramVec,
    conntrack_deleted: IntCounterVec,
    sync_failures: IntCounterVec,
    /// nftables: what could not be removed. iptables: partial restores that failed.
    other_failures: IntCounterVec,
    rules_total: GaugeVec,
    rules_last: GaugeVec,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// 0.25 s, 0.5 s, seconds to a minute, then coarser to five minutes.
fn programming_buckets() -> Vec<f64> {
    let seconds = (1..60).map(f64::from);
    let coarse = (60..120).step_by(5).chain((120..=300).step_by(30)).map(f64::from);
    [0.25, 0.5].into_iter().chain(seconds).chain(coarse).collect()
}

impl Metrics {
    /// Registers the metrics of the mode.
    pub(crate) fn new(mode: Mode) -> prometheus::Result<Self> {
        let sync = exponential_buckets(0.001, 2.0, 15)?;
        let name = |name: &str| format!("kubeproxy_{name}");
        let histogram = |metric: &str, help: &str, buckets: &[f64]| -> prometheus::Result<HistogramVec> {
            let options = HistogramOpts::new(name(metric), help).buckets(buckets.to_vec());
            Ok(register(HistogramVec::new(options, &["ip_family"])?))
        };
        let gauge = |metric: &str, help: &str, labels: &[&str]| -> prometheus::Result<GaugeVec> {
            Ok(register(GaugeVec::new(Opts::new(name(metric), help), labels)?))
        };
        let counter = |metric: &str, help: &str, label: &str| -> prometheus::Result<IntCounterVec> {
            Ok(register(IntCounterVec::new(Opts::new(name(metric), help), &[label])?))
        };
        let (failures, others) = match mode {
            Mode::Nftables => (
                ("sync_proxy_rules_nftables_sync_failures_total", "Cumulative proxy nftables sync failures"),
                ("sync_proxy_rules_nftables_cleanup_failures_total", "Cumulative proxy nftables cleanup failures"),
            ),
            Mode::Iptables => (
                ("sync_proxy_rules_iptables_restore_failures_total", "Cumulative proxy iptables restore failures"),
                (
                    "sync_proxy_rules_iptables_partial_restore_failures_total",
                    "Cumulative proxy iptables partial restore failures",
                ),
            ),
        };
        let rules = |metric: &str, help: &str| -> prometheus::Result<GaugeVec> {
            let rules = GaugeVec::new(Opts::new(name(metric), help), &["table", "ip_family"])?;
            Ok(if mode == Mode::Iptables { register(rules) } else { rules })
        };
        let int = |metric: &str, help: &str| IntCounter::new(name(metric), help).map(register);
        let pending = |metric: &str, help: &str| IntGauge::new(name(metric), help).map(register);
        Ok(Self {
            mode,
            duration: histogram("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", &sync)?,
            full: histogram(
                "sync_full_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for full resyncs",
                &sync,
            )?,
            partial: histogram(
                "sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for partial resyncs",
                &sync,
            )?,
            last: gauge(
                "sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
                &["ip_family"],
            )?,
            last_queued: gauge(
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
                &["ip_family"],
            )?,
            programming: histogram(
                "network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                &programming_buckets(),
            )?,
            endpoints_pending: pending(
                "sync_proxy_rules_endpoint_changes_pending",
                "Pending proxy rules Endpoint changes",
            )?,
            endpoints_total: int("sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes")?,
            services_pending: pending(
                "sync_proxy_rules_service_changes_pending",
                "Pending proxy rules Service changes",
            )?,
            services_total: int("sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes")?,
            no_local_endpoints: gauge(
                "sync_proxy_rules_no_local_endpoints_total",
                "Number of services with a Local traffic policy and no endpoints",
                &["traffic_policy", "ip_family"],
            )?,
            healthz: counter("proxy_healthz_total", "Cumulative proxy healthz HTTP status", "code")?,
            livez: counter("proxy_livez_total", "Cumulative proxy livez HTTP status", "code")?,
            conntrack_duration: histogram(
                "conntrack_reconciler_sync_duration_seconds",
                "ReconcileConntrackFlowsLatency latency in seconds",
                &sync,
            )?,
            conntrack_deleted: counter(
                "conntrack_reconciler_deleted_entries_total",
                "Cumulative conntrack flows deleted by conntrack reconciler",
                "ip_family",
            )?,
            sync_failures: counter(failures.0, failures.1, "ip_family")?,
            other_failures: counter(others.0, others.1, "ip_family")?,
            rules_total: rules(
                "sync_proxy_rules_iptables_total",
                "Total number of iptables rules owned by kube-proxy",
            )?,
            rules_last: rules(
                "sync_proxy_rules_iptables_last",
                "Number of iptables rules written by kube-proxy in last sync",
            )?,
        })
    }

    /// A Service was seen; `matters` if it is waiting to be written now.
    pub(crate) fn service_changed(&self, matters: bool) {
        self.services_total.inc();
        self.services_pending.add(i64::from(matters));
    }

    /// A slice was seen; `matters` if it is waiting to be written now.
    pub(crate) fn endpoints_changed(&self, matters: bool) {
        self.endpoints_total.inc();
        self.endpoints_pending.add(i64::from(matters));
    }

    /// Changes are taken to be written.
    pub(crate) fn taken(&self) {
        self.services_pending.set(0);
        self.endpoints_pending.set(0);
    }

    /// A change waits to be written.
    pub(crate) fn queued(&self) {
        for family in Family::BOTH {
            self.last_queued.with_label_values(&[family.as_str()]).set(now());
        }
    }

    /// A sync ended, with success or without.
    pub(crate) fn synced(&self, family: Family, full: bool, took: Duration, applied: Option<Applied>) {
        let label = &[family.as_str()];
        let seconds = took.as_secs_f64();
        self.duration.with_label_values(label).observe(seconds);
        let kind = if full { &self.full } else { &self.partial };
        kind.with_label_values(label).observe(seconds);
        let Some(applied) = applied else {
            self.sync_failures.with_label_values(label).inc();
            if self.mode == Mode::Iptables && !full {
                self.other_failures.with_label_values(label).inc();
            }
            return;
        };
        if applied.cleanup_failed && self.mode == Mode::Nftables {
            self.other_failures.with_label_values(label).inc();
        }
        self.last.with_label_values(label).set(now());
        for (table, (total, written)) in ["filter", "nat"].into_iter().zip(applied.rules.into_iter().flatten()) {
            self.rules_total.with_label_values(&[table, family.as_str()]).set(total as f64);
            self.rules_last.with_label_values(&[table, family.as_str()]).set(written as f64);
        }
    }

    /// Pods changed at this time and rules have followed.
    pub(crate) fn programmed(&self, family: Family, since: jiff::Timestamp) {
        let latency = jiff::Timestamp::now().duration_since(since).as_secs_f64();
        self.programming.with_label_values(&[family.as_str()]).observe(latency.max(0.0));
    }

    /// Service ports with a local policy that have endpoints, but none here.
    pub(crate) fn without_local_endpoints(&self, family: Family, internal: usize, external: usize) {
        for (policy, count) in [("internal", internal), ("external", external)] {
            self.no_local_endpoints.with_label_values(&[policy, family.as_str()]).set(count as f64);
        }
    }

    /// Flows were looked through.
    pub(crate) fn conntrack(&self, family: Family, took: Duration, deleted: usize) {
        self.conntrack_duration.with_label_values(&[family.as_str()]).observe(took.as_secs_f64());
        self.conntrack_deleted.with_label_values(&[family.as_str()]).inc_by(deleted as u64);
    }

    /// /healthz or /livez was asked.
    pub(crate) fn probed(&self, path: &str, code: u16) {
        let counter = if path == "/livez" { &self.livez } else { &self.healthz };
        counter.with_label_values(&[&code.to_string()]).inc();
    }
}
