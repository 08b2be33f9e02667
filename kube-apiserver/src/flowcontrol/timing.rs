//! Histograms of time: not how often a ratio was seen, but for how many nanoseconds it was so.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use prometheus::{
    Opts,
    core::Desc,
    proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

/// One ratio over time.
#[derive(Debug, Clone)]
pub struct Timing {
    bounds: &'static [f64],
    at: Instant,
    numerator: f64,
    denominator: f64,
    /// Nanoseconds by bucket; the last is beyond all bounds.
    buckets: Vec<u64>,
    sum: f64,
}

impl Timing {
    /// Starts at zero.
    #[must_use]
    pub fn new(bounds: &'static [f64], now: Instant) -> Self {
        Self { bounds, at: now, numerator: 0.0, denominator: 1.0, buckets: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Accounts for the time until now.
    pub fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        if elapsed == Duration::ZERO {
            return;
        }
        self.at = now;
        let nanoseconds = elapsed.as_nanos() as u64;
        let ratio = self.numerator / self.denominator;
        let bucket = self.bounds.iter().position(|bound| ratio <= *bound).unwrap_or(self.bounds.len());
        self.buckets[bucket] += nanoseconds;
        self.sum += ratio * nanoseconds as f64;
    }

    /// From now on it is this.
    pub fn set(&mut self, now: Instant, numerator: f64) {
        self.advance(now);
        self.numerator = numerator;
    }

    /// From now on it is a fraction of this.
    pub fn out_of(&mut self, now: Instant, denominator: f64) {
        self.advance(now);
        self.denominator = denominator.max(1.0);
    }

    fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(ours, theirs)| *ours += theirs);
        self.sum += other.sum;
    }

    fn proto(&self, labels: &[(&str, &str)]) -> Metric {
        let mut count = 0;
        let buckets = self.bounds.iter().zip(&self.buckets).map(|(bound, nanoseconds)| {
            count += nanoseconds;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        let buckets: Vec<Bucket> = buckets.collect();
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(self.buckets.iter().sum());
        histogram.set_sample_sum(self.sum);
        let mut metric = Metric::default();
        metric.set_label(labels.iter().map(|(name, value)| label(name, value)).collect());
        metric.set_histogram(histogram);
        metric
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// A metric of timings, told apart by labels.
pub struct Family {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    desc: Desc,
}

impl Family {
    /// A metric of this name.
    #[must_use]
    pub fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        let variable = labels.iter().map(|label| (*label).to_owned()).collect();
        let opts = Opts::new(name, help).const_labels(std::collections::HashMap::new());
        let desc = Desc::new(name.to_owned(), help.to_owned(), variable, opts.const_labels).expect("constant metric");
        Self { name, help, labels, desc }
    }

    /// Its description.
    #[must_use]
    pub fn desc(&self) -> &Desc {
        &self.desc
    }

    /// Its values; those with the same labels are added up.
    pub fn collect(&self, timings: impl Iterator<Item = (Vec<String>, Timing)>) -> MetricFamily {
        let mut all: BTreeMap<Vec<String>, Timing> = BTreeMap::new();
        for (labels, timing) in timings {
            match all.get_mut(&labels) {
                Some(sum) => sum.add(&timing),
                None => drop(all.insert(labels, timing)),
            }
        }
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(MetricType::HISTOGRAM);
        let metrics = all.iter().map(|(values, timing)| {
            let labels: Vec<(&str, &str)> =
                self.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            timing.proto(&labels)
        });
        family.set_metric(metrics.collect());
        family
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_by_ratio() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut timing = Timing::new(&[0.0, 0.5, 1.0], start);
        timing.out_of(start, 4.0);
        timing.set(at(1), 2.0);
        timing.set(at(4), 8.0);
        timing.advance(at(6));
        assert_eq!(timing.buckets, [1_000_000, 3_000_000, 0, 2_000_000]);
        assert_eq!(timing.sum, 0.5 * 3e6 + 2.0 * 2e6);
        let family = Family::new("test_timing", "A test.", &["level"]);
        let both = [(vec!["a".to_owned()], timing.clone()), (vec!["a".to_owned()], timing)];
        let collected = family.collect(both.into_iter());
        assert_eq!(collected.get_metric().len(), 1);
        let histogram = collected.get_metric()[0].get_histogram();
        assert_eq!(histogram.get_sample_count(), 12_000_000);
        assert_eq!(histogram.get_bucket()[1].cumulative_count(), 8_000_000);
    }
}
