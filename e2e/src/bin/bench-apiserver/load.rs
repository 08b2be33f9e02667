//! Requests that are answered at once: lists, gets, creates and updates.

use std::time::Instant;

use anyhow::{Result, bail};
use e2e::bench::{
    JSON,
    client::{Ask, Connection, Endpoint},
    each,
    figures::{Figures, Spread},
    server::Running,
};
use http::Method;

use super::data::{NAMESPACE, collection, path, pod};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// The namespace of the pods that are created and deleted again.
pub const WRITES: &str = "bench-writes";

const LISTS: usize = 15;
const CONCURRENT_LISTS: usize = 20;
const GETS: usize = 10_000;
const WRITTEN: usize = 2000;

/// All pods from the server's cache: `resourceVersion=0`, as informers ask. (A consistent list of upstream's needs a newer
/// etcd than some have, or reads everything from etcd.)
fn all() -> String {
    format!("{}?resourceVersion=0", collection(NAMESPACE))
}

/// One LIST of all pods, whose items are counted; its size.
pub async fn list(endpoint: &Endpoint, accept: &str, pods: usize) -> Result<usize> {
    let body = endpoint.connect().await?.whole(Ask::get(&all(), accept)).await?;
    // Every pod has exactly one host name field of its own.
    let marker = b"web-5d4f8c7b9-";
    let found = body.windows(marker.len()).filter(|window| window == marker).count();
    if found != pods {
        bail!("a list has {found} pods instead of {pods}");
    }
    Ok(body.len())
}

/// Large lists, one after the other and beside each other.
pub async fn lists(running: &Running, pods: usize, figures: &mut Figures) -> Result<()> {
    for (name, accept) in [("JSON", JSON), ("protobuf", PROTOBUF)] {
        list(&running.endpoint, accept, pods).await?;
        let mut connection = running.endpoint.connect().await?;
        let before = running.usage.processor();
        let mut spent = Vec::with_capacity(LISTS);
        for _ in 0..LISTS {
            let start = Instant::now();
            connection.size(Ask::get(&all(), accept)).await?;
            spent.push(start.elapsed());
        }
        let processor = (running.usage.processor() - before) / LISTS as f64;
        let spread = Spread::of(spent);
        figures.push(format!("LIST {name}, p50"), "ms", spread.quantile(0.5));
        figures.push(format!("LIST {name}, p99"), "ms", spread.quantile(0.99));
        figures.push(format!("LIST {name}, processor"), "ms", processor * 1e3);
        running.usage.reset_peak()?;
        let before = running.usage.processor();
        let start = Instant::now();
        let lists = (0..CONCURRENT_LISTS).map(|_| {
            let endpoint = running.endpoint.clone();
            tokio::spawn(async move { endpoint.connect().await?.size(Ask::get(&all(), accept)).await })
        });
        for list in lists.collect::<Vec<_>>() {
            list.await??;
        }
        figures.push(format!("{CONCURRENT_LISTS} LISTs {name} at once"), "ms", start.elapsed().as_secs_f64() * 1e3);
        let processor = running.usage.processor() - before;
        figures.push(format!("{CONCURRENT_LISTS} LISTs {name} at once, processor"), "ms", processor * 1e3);
        figures.push(format!("{CONCURRENT_LISTS} LISTs {name} at once, RSS peak"), "MB", running.usage.peak());
    }
    let page = format!("{}?limit=500", collection(NAMESPACE));
    let pages = async |connection: &mut Connection, _| connection.size(Ask::get(&page, TABLE)).await.map(drop);
    repeat(running, "LIST Table of 500", 60, pages, figures).await
}

/// Single objects.
pub async fn gets(running: &Running, pods: usize, figures: &mut Figures) -> Result<()> {
    for (name, accept) in [("JSON", JSON), ("protobuf", PROTOBUF)] {
        let get = async |connection: &mut Connection, number: usize| {
            connection.size(Ask::get(&path(number * 7919 % pods), accept)).await.map(drop)
        };
        repeat(running, &format!("GET {name}"), GETS, get, figures).await?;
    }
    Ok(())
}

/// Creates, updates and, not measured, the end of what was created.
pub async fn writes(running: &Running, figures: &mut Figures) -> Result<()> {
    let create = async |connection: &mut Connection, number: usize| {
        connection.size(Ask::json(Method::POST, &collection(WRITES), pod(WRITES, number, 0))).await.map(drop)
    };
    repeat(running, "CREATE", WRITTEN, create, figures).await?;
    let update = async |connection: &mut Connection, number: usize| {
        let (body, name) = (pod(WRITES, number, 1), path(number));
        let name = name.rsplit_once('/').map_or("", |(_, name)| name);
        connection.size(Ask::json(Method::PUT, &format!("{}/{name}", collection(WRITES)), body)).await.map(drop)
    };
    repeat(running, "UPDATE", WRITTEN, update, figures).await?;
    let mut connection = running.endpoint.connect().await?;
    let end = format!("{}?gracePeriodSeconds=0", collection(WRITES));
    connection.size(Ask::json(Method::DELETE, &end, bytes::Bytes::new())).await.map(drop)
}

/// Makes requests from several connections and tells rate, spread and processor time.
async fn repeat<F>(running: &Running, name: &str, total: usize, request: F, figures: &mut Figures) -> Result<()>
where
    F: AsyncFn(&mut Connection, usize) -> Result<()>,
{
    let (before, etcd) = (running.usage.processor(), running.etcd.processor());
    let start = Instant::now();
    let spread = Spread::of(each(&running.endpoint, total, request).await?);
    figures.push(name, "requests/s", total as f64 / start.elapsed().as_secs_f64());
    figures.push(format!("{name}, p50"), "ms", spread.quantile(0.5));
    figures.push(format!("{name}, p99"), "ms", spread.quantile(0.99));
    let each = |seconds: f64| seconds * 1e6 / total as f64;
    figures.push(format!("{name}, processor"), "us", each(running.usage.processor() - before));
    figures.push(format!("{name}, processor of etcd"), "us", each(running.etcd.processor() - etcd));
    Ok(())
}
