//! Many watches, each on a connection of its own, and the writes they are told of.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use e2e::bench::{
    JSON,
    client::{Ask, Endpoint},
    figures::{Figures, Spread},
    server::Running,
};
use http::Method;
use http_body_util::BodyExt;
use parking_lot::Mutex;

use super::{
    Cli,
    data::{NAMESPACE, NODES, collection, path},
};

const PROTOBUF_STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// The annotation that says when an event was written.
const SENT: &str = "bench/sent";
/// Of watches that all see everything, every so many-th looks for the time: the others only count.
const SAMPLE: usize = 25;
/// How long after the last write the last delivery is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
const WRITERS: usize = 8;
/// How long watches of single nodes are written to.
const SECONDS: usize = 6;

/// A number of watches and what they are told.
struct Case {
    name: &'static str,
    protobuf: bool,
    /// Every watch sees one node's pods instead of all.
    by_node: bool,
    rate: u32,
    events: usize,
}

/// All cases.
pub async fn watches(running: &Running, cli: &Cli, figures: &mut Figures) -> Result<()> {
    let own = (cli.rate, cli.rate as usize * SECONDS);
    let cases = [
        Case { name: "watches of all, JSON", protobuf: false, by_node: false, rate: 10, events: 60 },
        Case { name: "watches of all, protobuf", protobuf: true, by_node: false, rate: 10, events: 60 },
        Case { name: "burst to watches of all, protobuf", protobuf: true, by_node: false, rate: 2000, events: 200 },
        Case { name: "watches of a node each, protobuf", protobuf: true, by_node: true, rate: own.0, events: own.1 },
    ];
    for case in cases {
        follow(running, cli, &case, figures).await.with_context(|| case.name)?;
    }
    Ok(())
}

/// What the watches have seen.
#[derive(Default)]
struct Seen {
    events: AtomicUsize,
    ended: AtomicUsize,
    delays: Mutex<Vec<Duration>>,
}

async fn follow(running: &Running, cli: &Cli, case: &Case, figures: &mut Figures) -> Result<()> {
    let seen = Arc::new(Seen::default());
    let revision = newest(&running.endpoint).await?;
    let mut tasks = Vec::with_capacity(cli.watches);
    for number in 0..cli.watches {
        let selector =
            if case.by_node { format!("&fieldSelector=spec.nodeName%3Dnode-{number}") } else { String::new() };
        let path = format!("{}?watch=1&resourceVersion={revision}{selector}", collection(NAMESPACE));
        let accept = if case.protobuf { PROTOBUF_STREAM } else { JSON };
        let mut connection = running.endpoint.connect().await?;
        let mut body = connection.stream(Ask::get(&path, accept)).await?;
        let (seen, protobuf) = (seen.clone(), case.protobuf);
        let mut clock = (case.by_node || number % SAMPLE == 0).then(Clock::default);
        tasks.push(tokio::spawn(async move {
            let _connection = connection;
            let mut frames = Frames { protobuf, ..Frames::default() };
            while let Some(Ok(frame)) = body.frame().await {
                let Some(data) = frame.data_ref() else { continue };
                if let Some(clock) = &mut clock {
                    clock.read(data, &seen.delays);
                }
                seen.events.fetch_add(frames.count(data), Ordering::Relaxed);
            }
            seen.ended.fetch_add(1, Ordering::Relaxed);
        }));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let wanted = if case.by_node { case.events } else { case.events * cli.watches };
    let nodes = NODES.min(cli.watches).min(cli.pods);
    let (before, start) = (running.usage.processor(), Instant::now());
    write(&running.endpoint, case, nodes).await?;
    let last = Instant::now();
    while seen.events.load(Ordering::Relaxed) < wanted && last.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (spent, delivered) = (start.elapsed().as_secs_f64(), seen.events.load(Ordering::Relaxed));
    let processor = running.usage.processor() - before;
    for task in tasks {
        task.abort();
    }
    let name = format!("{} {}", cli.watches, case.name);
    let spread = Spread::of(std::mem::take(&mut seen.delays.lock()));
    figures.push(format!("{name}, delivery p50"), "ms", spread.quantile(0.5));
    figures.push(format!("{name}, delivery p99"), "ms", spread.quantile(0.99));
    figures.push(format!("{name}, delivered"), "events/s", delivered as f64 / spent);
    figures.push(format!("{name}, delivered per processor second"), "events/s", delivered as f64 / processor);
    figures.push(format!("{name}, lost"), "events", wanted.saturating_sub(delivered) as f64);
    figures.push(format!("{name}, ended by the server"), "watches", seen.ended.load(Ordering::Relaxed) as f64);
    Ok(())
}

/// Changes pods at the case's rate, each change with its time in it.
async fn write(endpoint: &Endpoint, case: &Case, nodes: usize) -> Result<()> {
    let (next, start) = (AtomicUsize::new(0), tokio::time::Instant::now());
    let writer = async || {
        let mut connection = endpoint.connect().await?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= case.events {
                return Ok::<_, anyhow::Error>(());
            }
            tokio::time::sleep_until(start + Duration::from_secs(1) / case.rate * number as u32).await;
            let body = format!(r#"{{"metadata":{{"annotations":{{"{SENT}":"{:019}"}}}}}}"#, now().as_nanos());
            connection.size(Ask::json(Method::PATCH, &path(number % nodes), body.into())).await?;
        }
    };
    futures::future::try_join_all((0..WRITERS).map(|_| writer())).await?;
    Ok(())
}

/// The collection's newest revision.
async fn newest(endpoint: &Endpoint) -> Result<String> {
    let path = format!("{}?limit=1", collection(NAMESPACE));
    let page = endpoint.connect().await?.whole(Ask::get(&path, JSON)).await?;
    let page: serde_json::Value = serde_json::from_slice(&page)?;
    Ok(page["metadata"]["resourceVersion"].as_str().context("a list without a revision")?.to_owned())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Counts the events of a stream that comes in pieces.
#[derive(Default)]
struct Frames {
    protobuf: bool,
    /// The length of the next frame, as far as it is known.
    head: [u8; 4],
    known: usize,
    /// What is left of the frame under way.
    left: usize,
}

impl Frames {
    fn count(&mut self, mut data: &[u8]) -> usize {
        if !self.protobuf {
            return data.iter().filter(|byte| **byte == b'\n').count();
        }
        let mut ended = 0;
        while !data.is_empty() {
            if self.left == 0 {
                let (first, rest) = data.split_at(1);
                self.head[self.known] = first[0];
                self.known = (self.known + 1) % 4;
                data = rest;
                if self.known == 0 {
                    self.left = u32::from_be_bytes(self.head) as usize;
                }
                continue;
            }
            let step = self.left.min(data.len());
            self.left -= step;
            data = &data[step..];
            ended += usize::from(self.left == 0);
        }
        ended
    }
}

/// Finds the times of writing in a stream that comes in pieces.
#[derive(Default)]
struct Clock {
    rest: Vec<u8>,
}

impl Clock {
    /// The marker, a few bytes of JSON or protobuf, 19 digits.
    const REACH: usize = SENT.len() + 5 + 19;

    fn read(&mut self, data: &Bytes, delays: &Mutex<Vec<Duration>>) {
        self.rest.extend_from_slice(data);
        let mut at = 0;
        while let Some(found) = self.rest[at..].windows(SENT.len()).position(|window| window == SENT.as_bytes()) {
            let marker = at + found;
            if self.rest.len() < marker + Self::REACH {
                self.rest.drain(..marker);
                return;
            }
            at = marker + SENT.len();
            let after = &self.rest[at..at + 5 + 19];
            let digits = after.iter().position(u8::is_ascii_digit).filter(|skipped| *skipped <= 5);
            // Managed fields name the annotation too, without a time behind it.
            let time = digits.and_then(|from| std::str::from_utf8(&after[from..from + 19]).ok()?.parse().ok());
            if let Some(time) = time {
                delays.lock().push(now().saturating_sub(Duration::from_nanos(time)));
            }
        }
        let keep = self.rest.len().saturating_sub(SENT.len() - 1).max(at);
        self.rest.drain(..keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_whatever_the_pieces() {
        let mut stream = Vec::new();
        for length in [1_usize, 300, 7] {
            stream.extend_from_slice(&(length as u32).to_be_bytes());
            stream.resize(stream.len() + length, b'\n');
        }
        for piece in [1, 3, 5, 1000] {
            let mut frames = Frames { protobuf: true, ..Frames::default() };
            assert_eq!(stream.chunks(piece).map(|piece| frames.count(piece)).sum::<usize>(), 3);
        }
        assert_eq!(Frames::default().count(b"{}\n{}\n{"), 2);
    }

    #[test]
    fn times_are_found_whatever_the_pieces() {
        let json = format!(r#"{{"{SENT}":"1763740000123456789","x":{{"f:{SENT}":{{}}}},"y":"and so on, and so on"}}"#);
        let protobuf = format!("\n\x0a{SENT}\x12\x131763740000123456789 and f:{SENT}\":{{}} and so on, and so on");
        for stream in [json, protobuf] {
            for piece in [1, 7, 1000] {
                let (mut clock, delays) = (Clock::default(), Mutex::default());
                let stream = Bytes::from(stream.repeat(3));
                (0..stream.len()).step_by(piece).for_each(|at| {
                    clock.read(&stream.slice(at..stream.len().min(at + piece)), &delays);
                });
                assert_eq!(delays.lock().len(), 3, "{piece}");
            }
        }
    }
}
