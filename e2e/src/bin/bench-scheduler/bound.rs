//! When pods got their nodes, as a watch tells.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use e2e::bench::{
    JSON,
    client::{Ask, Endpoint},
};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::watch;

/// How long samples are, as upstream's.
const SAMPLE: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Meta,
}

#[derive(Deserialize)]
struct Meta {
    name: String,
}

/// The pods that were bound, by the part of their names before the last dash.
#[derive(Clone)]
pub struct Bound {
    times: Arc<Mutex<HashMap<String, Vec<Instant>>>>,
    changed: watch::Receiver<usize>,
}

impl Bound {
    /// Watches all pods that have a node.
    pub async fn follow(endpoint: &Endpoint) -> Result<Self> {
        const PATH: &str = "/api/v1/pods?watch=1&resourceVersion=0&fieldSelector=spec.nodeName!%3D";
        let mut connection = endpoint.connect().await?;
        let mut body = connection.stream(Ask::get(PATH, JSON)).await.context("watching pods")?;
        let (told, changed) = watch::channel(0);
        let times: Arc<Mutex<HashMap<String, Vec<Instant>>>> = Arc::default();
        let noted = times.clone();
        tokio::spawn(async move {
            let _open = connection;
            let mut rest: Vec<u8> = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                let Some(data) = frame.data_ref() else { continue };
                let now = Instant::now();
                rest.extend_from_slice(data);
                let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
                let mut fresh = 0;
                for line in rest[..end].split(|byte| *byte == b'\n') {
                    let Ok(event) = serde_json::from_slice::<Event>(line) else { continue };
                    if event.r#type == "ADDED" {
                        let name = event.object.metadata.name;
                        let kind = name.rsplit_once('-').map_or(name.as_str(), |(kind, _)| kind).to_owned();
                        noted.lock().entry(kind).or_default().push(now);
                        fresh += 1;
                    }
                }
                rest.drain(..=end);
                told.send_modify(|total| *total += fresh);
            }
            eprintln!("the watch of bound pods has ended");
        });
        Ok(Self { times, changed })
    }

    /// When pods of a kind were bound.
    pub fn times(&self, kind: &str) -> Vec<Instant> {
        self.times.lock().get(kind).cloned().unwrap_or_default()
    }

    /// Waits until so many of a kind are bound, or time is up; whether they are.
    pub async fn wait(&self, kind: &str, count: usize, limit: Duration) -> bool {
        let mut changed = self.changed.clone();
        let enough = || self.times.lock().get(kind).map_or(0, Vec::len) >= count;
        let all = async { while !enough() && changed.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(limit, all).await;
        enough()
    }
}

/// Pods per second in samples of a second, ascending. As upstream's collector: the first sample only starts the clock, and a
/// time in which nothing was bound shares the rate of the next.
pub fn samples(times: &[Instant]) -> Vec<f64> {
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return Vec::new() };
    let seconds = (*last - *first).as_secs_f64() / SAMPLE.as_secs_f64();
    let by = |end: usize| times.partition_point(|time| *time <= *first + SAMPLE * end as u32);
    let mut rates = Vec::new();
    let (mut before, mut skipped) = (by(1), 0);
    for end in 2..=seconds.ceil() as usize {
        let bound = by(end) - before;
        if bound == 0 {
            skipped += 1;
            continue;
        }
        let spent = SAMPLE.as_secs_f64() * f64::from(skipped + 1);
        // The last sample ends with the last pod.
        let spent = spent - (end as f64 - seconds).max(0.0) * SAMPLE.as_secs_f64();
        rates.extend(std::iter::repeat_n(bound as f64 / spent, skipped as usize + 1));
        (before, skipped) = (by(end), 0);
    }
    rates.sort_by(f64::total_cmp);
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_without_pods_shares_the_next_ones_rate() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let second = |second: u64, count: u64| (0..count).map(move |number| at(second * 1000 + 1 + number));
        let times: Vec<_> = [at(0)]
            .into_iter()
            .chain(second(0, 50))
            .chain(second(1, 20))
            .chain(second(3, 40))
            .chain([at(4000)])
            .collect();
        // One second with 20; then 41 in two.
        assert_eq!(samples(&times), [20.0, 20.5, 20.5]);
        assert!(samples(&[]).is_empty());
    }
}
