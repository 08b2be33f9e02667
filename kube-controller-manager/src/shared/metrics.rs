//! Metrics declared as statics beside the code that counts: registered when first used, never an error for the caller.

use std::sync::OnceLock;
use std::time::Duration;

use common::telemetry;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts};

/// What upstream calls a metric, and by which labels it is divided.
struct Named {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
}

impl Named {
    fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }
}

/// A count that only grows.
pub(crate) struct Counter {
    named: Named,
    made: OnceLock<Option<IntCounterVec>>,
}

impl Counter {
    pub(crate) const fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { named: Named { name, help, labels }, made: OnceLock::new() }
    }

    /// One more; `values` in the order of the labels.
    pub(crate) fn inc(&self, values: &[&str]) {
        self.add(values, 1);
    }

    /// So many more.
    pub(crate) fn add(&self, values: &[&str], count: u64) {
        let make = || IntCounterVec::new(self.named.opts(), self.named.labels).ok().map(telemetry::register);
        let counter = self.made.get_or_init(make).as_ref().and_then(|m| m.get_metric_with_label_values(values).ok());
        counter.iter().for_each(|counter| counter.inc_by(count));
    }
}

/// A number that goes up and down.
pub(crate) struct Gauge {
    named: Named,
    made: OnceLock<Option<GaugeVec>>,
}

impl Gauge {
    pub(crate) const fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { named: Named { name, help, labels }, made: OnceLock::new() }
    }

    fn vec(&self) -> Option<&GaugeVec> {
        let make = || GaugeVec::new(self.named.opts(), self.named.labels).ok().map(telemetry::register);
        self.made.get_or_init(make).as_ref()
    }

    /// Sets the value of these labels.
    pub(crate) fn set(&self, values: &[&str], value: f64) {
        let gauge = self.vec().and_then(|m| m.get_metric_with_label_values(values).ok());
        gauge.iter().for_each(|gauge| gauge.set(value));
    }

    /// Moves the value of these labels.
    pub(crate) fn add(&self, values: &[&str], by: f64) {
        let gauge = self.vec().and_then(|m| m.get_metric_with_label_values(values).ok());
        gauge.iter().for_each(|gauge| gauge.add(by));
    }

    /// Labels whose subject is gone.
    pub(crate) fn forget(&self, values: &[&str]) {
        self.vec().iter().for_each(|m| drop(m.remove_label_values(values)));
    }
}

/// The bounds of a histogram's buckets.
pub(crate) enum Buckets {
    /// The first, the factor from one to the next, and how many.
    Exponential(f64, f64, usize),
    /// All of them.
    List(&'static [f64]),
    /// Prometheus' own.
    Default,
}

/// A distribution.
pub(crate) struct Histogram {
    named: Named,
    buckets: Buckets,
    made: OnceLock<Option<HistogramVec>>,
}

impl Histogram {
    pub(crate) const fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        buckets: Buckets,
    ) -> Self {
        Self { named: Named { name, help, labels }, buckets, made: OnceLock::new() }
    }

    fn make(&self) -> Option<HistogramVec> {
        let opts = HistogramOpts::from(self.named.opts());
        let opts = match self.buckets {
            Buckets::Exponential(start, factor, count) => {
                opts.buckets(prometheus::exponential_buckets(start, factor, count).ok()?)
            }
            Buckets::List(list) => opts.buckets(list.to_vec()),
            Buckets::Default => opts,
        };
        HistogramVec::new(opts, self.named.labels).ok().map(telemetry::register)
    }

    /// One value; `values` in the order of the labels.
    pub(crate) fn observe(&self, values: &[&str], value: f64) {
        let made = self.made.get_or_init(|| self.make()).as_ref();
        let histogram = made.and_then(|m| m.get_metric_with_label_values(values).ok());
        histogram.iter().for_each(|histogram| histogram.observe(value));
    }

    /// One duration, in seconds.
    pub(crate) fn took(&self, values: &[&str], duration: Duration) {
        self.observe(values, duration.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static COUNTER: Counter = Counter::new("kcm_test_total", "A test.", &["result"]);
    static GAUGE: Gauge = Gauge::new("kcm_test_size", "A test.", &["zone"]);
    static HISTOGRAM: Histogram = Histogram::new("kcm_test_seconds", "A test.", &[], Buckets::Exponential(1.0, 2.0, 3));

    #[test]
    fn values_are_shown_under_their_labels() {
        COUNTER.inc(&["ok"]);
        COUNTER.add(&["ok"], 2);
        COUNTER.inc(&["wrong", "number of labels"]);
        GAUGE.add(&["a"], 3.0);
        GAUGE.add(&["a"], -1.0);
        HISTOGRAM.observe(&[], 3.0);
        let text = String::from_utf8(telemetry::gather_text()).unwrap();
        for line in
            ["kcm_test_total{result=\"ok\"} 3", "kcm_test_size{zone=\"a\"} 2", "kcm_test_seconds_bucket{le=\"4\"} 1"]
        {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.contains("kcm_test_seconds_bucket{le=\"2\"} 0"));
    }
}
