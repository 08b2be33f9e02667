//! Measures API servers side by side: one after the other on loopback, on the same etcd with the same data, under the same
//! load. `hack/bench-apiserver.sh` builds and runs it; docs/measurements.md says what the figures mean.

mod data;
mod fanout;
mod load;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use e2e::bench::{
    JSON,
    figures::{Figures, table},
    server::{Bench, Program},
};

/// No controller manager makes service accounts here.
const WITHOUT: &str = "ServiceAccount";

/// Measures kube-apiservers under the same load and prints a table.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench-apiserver")]
struct Cli {
    /// Our server.
    #[arg(long)]
    server: PathBuf,
    /// Upstream's kube-apiserver of the same release, measured after ours on the same data.
    #[arg(long)]
    upstream: Option<PathBuf>,
    /// Our server on its embedded store too, on data of its own.
    #[arg(long)]
    embedded: bool,
    /// etcd.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// Where etcd's data, certificates and logs go; removed at the end.
    #[arg(long, default_value = "/tmp/bench-apiserver")]
    state: PathBuf,
    /// Pods of about 4 KiB that are there.
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// Watches, one connection each.
    #[arg(long, default_value_t = 1000)]
    watches: usize,
    /// Events a second that watches of single nodes are given.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Only these steps: lists, gets, writes, watches.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Leaves the server running for so many seconds after the last step, for a profiler.
    #[arg(long, default_value_t = 0)]
    linger: u64,
}

impl Cli {
    fn wants(&self, step: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == step)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli) -> Result<()> {
    let bench = Bench::prepare(&cli.state, Some(&cli.etcd))?;
    let ours = Program { path: cli.server.clone(), embedded: false, without: WITHOUT };
    let running = bench.start(&ours).await.context("our server on an empty etcd")?;
    data::fill(&running.endpoint, cli.pods).await.context("filling etcd")?;
    running.stop()?;
    let mut columns = vec![("ours", measure(cli, &bench, &ours).await.context("our server")?)];
    if let Some(path) = &cli.upstream {
        let upstream = Program { path: path.clone(), embedded: false, without: WITHOUT };
        columns.push(("upstream", measure(cli, &bench, &upstream).await.context("upstream's server")?));
    }
    if cli.embedded {
        let embedded = Program { path: cli.server.clone(), embedded: true, without: WITHOUT };
        let running = bench.start(&embedded).await?;
        data::fill(&running.endpoint, cli.pods).await.context("filling the embedded store")?;
        running.stop()?;
        columns.push(("ours, embedded store", measure(cli, &bench, &embedded).await.context("the embedded store")?));
    }
    print!("{}", table(&columns));
    Ok(())
}

/// All steps with one server.
async fn measure(cli: &Cli, bench: &Bench, program: &Program) -> Result<Figures> {
    let mut figures = Figures::default();
    let running = bench.start(program).await?;
    figures.push("start to ready", "ms", running.ready_after.as_secs_f64() * 1e3);
    let first = load::list(&running.endpoint, JSON, cli.pods).await.context("the first list")?;
    figures.push("start to first LIST of all pods", "ms", (running.started.elapsed()).as_secs_f64() * 1e3);
    figures.push("LIST JSON, size", "MB", first as f64 / 1e6);
    tokio::time::sleep(Duration::from_secs(5)).await;
    figures.push("RSS idle", "MB", running.usage.rss());
    if cli.wants("lists") {
        load::lists(&running, cli.pods, &mut figures).await?;
    }
    if cli.wants("gets") {
        load::gets(&running, cli.pods, &mut figures).await?;
    }
    if cli.wants("writes") {
        load::writes(&running, &mut figures).await?;
    }
    if cli.wants("watches") {
        fanout::watches(&running, cli, &mut figures).await?;
    }
    figures.push("RSS loaded", "MB", running.usage.rss());
    tokio::time::sleep(Duration::from_secs(cli.linger)).await;
    running.stop()?;
    Ok(figures)
}
