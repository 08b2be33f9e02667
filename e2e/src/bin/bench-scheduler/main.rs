//! Measures schedulers side by side: each with an API server of its own and hollow nodes, one after the other, under upstream's
//! scheduler_perf workloads. `hack/bench-scheduler.sh` builds and runs it; docs/measurements.md says what the figures mean.

mod bound;
mod cluster;
mod workloads;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use e2e::{
    Proc,
    bench::{
        figures::{Figures, table},
        server::{Bench, Program, Running, Usage, free_port},
    },
    spawn,
};

use bound::{Bound, samples};
use workloads::{Pods, Workload};

/// The name of the pods that are measured, up to their numbers.
const MEASURED: &str = "measured";
const CHURN: Duration = Duration::from_millis(200);
/// Nodes get no taints, priorities no classes, and pods no accounts: nobody would take care of them.
const WITHOUT: &str = "ServiceAccount,TaintNodesByCondition,Priority";

/// Measures kube-schedulers under the same load and prints a table.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench-scheduler")]
struct Cli {
    /// Our scheduler.
    #[arg(long)]
    scheduler: PathBuf,
    /// Upstream's kube-scheduler of the same release.
    #[arg(long)]
    upstream: Option<PathBuf>,
    /// The API server.
    #[arg(long)]
    apiserver: PathBuf,
    /// etcd; without it the API server keeps its data itself.
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// A kube-controller-manager, which makes claims from templates; without it that workload is left out.
    #[arg(long)]
    controllers: Option<PathBuf>,
    /// Only these workloads.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Nodes and pods, as a share of upstream's numbers.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// All measured pods are there before the scheduler starts: what it does when the creation of pods is not the limit.
    #[arg(long)]
    backlog: bool,
    /// How long a step may take, in seconds; what is bound by then counts.
    #[arg(long, default_value_t = 600)]
    limit: u64,
    /// Where data, certificates and logs go; data is removed after every step.
    #[arg(long, default_value = "/tmp/bench-scheduler")]
    state: PathBuf,
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
    ensure!(cli.scale > 0.0, "--scale must be above zero");
    let all = workloads::all();
    let unknown: Vec<_> = cli.only.iter().filter(|only| !all.iter().any(|known| known.name == **only)).collect();
    ensure!(unknown.is_empty(), "no such workload: {unknown:?}");
    let wanted = |workload: &Workload| {
        let chosen = cli.only.is_empty() || cli.only.iter().any(|only| only == workload.name);
        chosen && (cli.controllers.is_some() || !workload.needs_controllers())
    };
    for workload in all.into_iter().filter(wanted) {
        let workload = workload.scaled(cli.scale);
        let mut columns = vec![("ours", measure(cli, &workload, &cli.scheduler).await.context("our scheduler")?)];
        if let Some(path) = &cli.upstream {
            columns.push(("upstream", measure(cli, &workload, path).await.context("upstream's scheduler")?));
        }
        println!("{}: {} nodes, {} pods\n", workload.name, workload.nodes, workload.measured.count);
        println!("{}", table(&columns));
    }
    Ok(())
}

/// One workload with one scheduler, on an API server of its own.
async fn measure(cli: &Cli, workload: &Workload, scheduler: &Path) -> Result<Figures> {
    eprintln!("{} with {}", workload.name, scheduler.display());
    let bench = Bench::prepare(&cli.state, cli.etcd.as_deref())?;
    let server = Program { path: cli.apiserver.clone(), embedded: cli.etcd.is_none(), without: WITHOUT };
    let running = bench.start(&server).await.context("the API server")?;
    cluster::prepare(&running.endpoint, workload).await.context("making nodes")?;
    let bound = Bound::follow(&running.endpoint).await?;
    let controllers = cli.controllers.as_deref().filter(|_| workload.needs_controllers());
    let _controllers = controllers.map(|path| start_controllers(&bench, path)).transpose()?;
    let limit = Duration::from_secs(cli.limit);
    let mut daemon = start_scheduler(&bench, scheduler)?;
    for (number, pods) in workload.before.iter().enumerate() {
        let kind = format!("before{number}");
        cluster::pods(&running.endpoint, *pods, &kind).await.context("making the first pods")?;
        ensure!(bound.wait(&kind, pods.count, limit).await, "the first pods were not bound in time");
    }
    if cli.backlog {
        daemon.0.stop(Duration::from_secs(10))?;
        cluster::pods(&running.endpoint, workload.measured, MEASURED).await.context("making pods")?;
        daemon = start_scheduler(&bench, scheduler)?;
    }
    let figures = load(cli, workload, &bench, &running, daemon.0, &bound).await?;
    drop(daemon);
    running.stop()?;
    Ok(figures)
}

/// The measured pods.
async fn load(
    cli: &Cli,
    workload: &Workload,
    bench: &Bench,
    running: &Running,
    daemon: Proc,
    bound: &Bound,
) -> Result<Figures> {
    let (usage, limit, count) = (bench.usage(daemon), Duration::from_secs(cli.limit), workload.measured.count);
    let (processor, of_server) = (usage.processor(), running.usage.processor());
    let started = Instant::now();
    let create = async {
        match cli.backlog {
            true => Ok(()),
            false => cluster::pods(&running.endpoint, workload.measured, MEASURED).await,
        }
    };
    let churn = churn(workload, running);
    let all = async { tokio::try_join!(create, async { Ok(bound.wait(MEASURED, count, limit).await) }) };
    tokio::select! {
        done = all => { done?; }
        failed = churn => { failed?; }
    }
    let times = bound.times(MEASURED);
    let per_pod = |seconds: f64| seconds * 1e6 / times.len().max(1) as f64;
    let mut figures = Figures::default();
    let processor = per_pod(usage.processor() - processor);
    let of_server = per_pod(running.usage.processor() - of_server);
    rates(&mut figures, &times, if cli.backlog { None } else { Some(started) });
    if times.len() < count {
        figures.push("not bound in time", "pods", (count - times.len()) as f64);
    }
    figures.push("processor of the scheduler, per pod", "us", processor);
    figures.push("processor of the API server, per pod", "us", of_server);
    memory(&mut figures, usage);
    Ok(figures)
}

/// Rates over the whole and in samples. A backlog counts from its first pod.
fn rates(figures: &mut Figures, times: &[Instant], started: Option<Instant>) {
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return };
    let spent = last.duration_since(started.unwrap_or(*first)).as_secs_f64();
    figures.push("bound, overall", "pods/s", times.len() as f64 / spent);
    let samples = samples(times);
    if samples.is_empty() {
        return;
    }
    figures.push("bound, average of samples", "pods/s", samples.iter().sum::<f64>() / samples.len() as f64);
    for share in [50, 90, 95, 99] {
        let at = (samples.len() * share).div_ceil(100) - 1;
        figures.push(format!("bound, p{share} of samples"), "pods/s", samples[at]);
    }
}

fn memory(figures: &mut Figures, usage: Usage) {
    figures.push("RSS of the scheduler", "MB", usage.rss());
    figures.push("RSS of the scheduler, peak", "MB", usage.peak());
}

/// A pod every so often, for ever.
async fn churn(workload: &Workload, running: &Running) -> Result<()> {
    let Some(shape) = workload.churn else { return std::future::pending().await };
    let mut connection = running.endpoint.connect().await?;
    let mut ticks = tokio::time::interval(CHURN);
    for number in 0.. {
        ticks.tick().await;
        let pods = Pods { count: 1, shape, namespace: workload.measured.namespace };
        cluster::one(&mut connection, pods, &format!("churn-{number}")).await?;
    }
    Ok(())
}

/// A process that ends with its owner.
struct Daemon(Proc);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.stop(Duration::from_secs(10));
    }
}

fn start_scheduler(bench: &Bench, path: &Path) -> Result<Daemon> {
    let kubeconfig = bench.layout.kubeconfig("admin").display().to_string();
    let config = bench.layout.config("kube-scheduler");
    let text = format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
         clientConnection: {{kubeconfig: {kubeconfig}, qps: 5000, burst: 5000}}\nleaderElection: {{leaderElect: false}}\n"
    );
    std::fs::create_dir_all(config.parent().context("no directory for configuration")?)?;
    std::fs::write(&config, text)?;
    let line = [
        path.display().to_string(),
        format!("--config={}", config.display()),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", free_port()?),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
    ];
    let process = spawn(&line, &BTreeMap::new(), &bench.layout.log("kube-scheduler"))?;
    Ok(Daemon(process))
}

fn start_controllers(bench: &Bench, path: &Path) -> Result<Daemon> {
    let kubeconfig = bench.layout.kubeconfig("admin").display().to_string();
    let line = [
        path.display().to_string(),
        format!("--kubeconfig={kubeconfig}"),
        "--controllers=resourceclaim-controller".to_owned(),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", free_port()?),
        "--kube-api-qps=5000".to_owned(),
        "--kube-api-burst=5000".to_owned(),
    ];
    let process = spawn(&line, &BTreeMap::new(), &bench.layout.log("kube-controller-manager"))?;
    Ok(Daemon(process))
}
