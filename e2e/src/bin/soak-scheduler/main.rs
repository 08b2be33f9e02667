//! Lets nodes and pods come and go at random while the scheduler and its API server are killed again and again, and checks all
//! along, by what the API server stores, that no node ever has more than it can hold; and at the end that no pod waits that has a place.
//! `hack/soak-scheduler.sh` builds and runs it.

mod churn;
mod truth;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use e2e::{
    Proc,
    bench::server::{Bench, Program, Running, free_port},
    spawn,
};
use kube::Client;
use nix::sys::signal::Signal;

use churn::{Churn, Dice};
use truth::Truth;

/// Nodes get no taints, priorities no classes, and pods no accounts: nobody would take care of them.
const WITHOUT: &str = "ServiceAccount,TaintNodesByCondition,Priority";
const CHECK: Duration = Duration::from_secs(1);
/// How long after the last change a pod that has a place may still wait: two back-offs and a moment.
const SETTLE: Duration = Duration::from_secs(60);

/// Random churn with crashes; exits with an error at the first broken promise.
#[derive(Debug, Clone, Parser)]
#[command(name = "soak-scheduler")]
struct Cli {
    /// The scheduler.
    #[arg(long)]
    scheduler: PathBuf,
    /// The API server; keeps its data itself.
    #[arg(long)]
    apiserver: PathBuf,
    /// How long nodes and pods come and go, in seconds.
    #[arg(long, default_value_t = 1800)]
    seconds: u64,
    /// Nodes at most.
    #[arg(long, default_value_t = 40)]
    nodes: usize,
    /// Of the dice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Schedulers at once, one of which leads.
    #[arg(long, default_value_t = 2)]
    schedulers: usize,
    /// Where data, certificates and logs go.
    #[arg(long, default_value = "/tmp/soak-scheduler")]
    state: PathBuf,
}

/// The processes under test.
struct Field {
    bench: Bench,
    program: Program,
    server: Option<Running>,
    scheduler: PathBuf,
    schedulers: Vec<Proc>,
    started: usize,
}

impl Field {
    /// Starts another scheduler.
    fn start_scheduler(&mut self) -> Result<()> {
        self.started += 1;
        let kubeconfig = self.bench.layout.kubeconfig("admin").display().to_string();
        let line = [
            self.scheduler.display().to_string(),
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", free_port()?),
            "--leader-elect-lease-duration=4s".to_owned(),
            "--leader-elect-renew-deadline=3s".to_owned(),
            "--leader-elect-retry-period=500ms".to_owned(),
            "--kube-api-qps=1000".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ];
        let log = self.bench.layout.log(&format!("kube-scheduler-{}", self.started));
        self.schedulers.push(spawn(&line, &BTreeMap::new(), &log)?);
        Ok(())
    }

    /// Kills a scheduler or the API server and starts another in its place.
    async fn crash(&mut self, dice: &mut Dice) -> Result<&'static str> {
        if dice.one_in(3) {
            if let Some(server) = self.server.take() {
                server.kill()?;
            }
            self.server = Some(self.bench.start(&self.program).await.context("starting the API server again")?);
            return Ok("API server");
        }
        let victim = self.schedulers.swap_remove(dice.below(self.schedulers.len()));
        victim.signal(Signal::SIGKILL)?;
        ensure!(victim.wait(Duration::from_secs(10)), "a scheduler survived SIGKILL");
        self.start_scheduler()?;
        Ok("scheduler")
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        for scheduler in &self.schedulers {
            let _ = scheduler.stop(Duration::from_secs(5));
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    let bench = Bench::prepare(&cli.state, None)?;
    let program = Program { path: cli.apiserver.clone(), embedded: true, without: WITHOUT };
    let server = bench.start(&program).await.context("the API server")?;
    let kubeconfig = kube::config::Kubeconfig::read_from(bench.layout.kubeconfig("admin"))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    let client = Client::try_from(config)?;
    let scheduler = cli.scheduler.clone();
    let mut field = Field { bench, program, server: Some(server), scheduler, schedulers: Vec::new(), started: 0 };
    for _ in 0..cli.schedulers.max(1) {
        field.start_scheduler()?;
    }
    let (mut dice, mut crashes) = (Dice::new(cli.seed), BTreeMap::<_, usize>::new());
    let mut churn = Churn::new(client.clone(), cli.nodes, Dice::new(cli.seed + 1));
    let truth = Truth::new(client);
    let started = Instant::now();
    let (mut next_check, mut next_crash) = (CHECK, Duration::from_secs(5));
    let mut checks = 0;
    while started.elapsed() < Duration::from_secs(cli.seconds) {
        churn.step().await;
        if started.elapsed() >= next_check {
            checks += usize::from(truth.check().await?);
            next_check = started.elapsed() + CHECK;
        }
        if started.elapsed() >= next_crash {
            *crashes.entry(field.crash(&mut dice).await?).or_default() += 1;
            next_crash = started.elapsed() + Duration::from_secs(3 + dice.below(10) as u64);
        }
    }
    churn.settle().await?;
    let waiting = truth.settled(SETTLE).await?;
    let (bound, made) = (truth.bound().await?, churn.made());
    println!("{made} pods made, {bound} of those left are bound, {waiting} wait for room that no node has");
    println!("{checks} checks, no node was over its allocatable; crashes: {crashes:?}");
    ensure!(checks > 0 && bound > 0, "nothing was checked");
    drop(field);
    Ok(())
}
