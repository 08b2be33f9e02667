//! The local cluster: up, down, status, kubectl, logs, and what chaos needs: kill, restart, exec.

use std::{
    collections::BTreeMap,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use e2e::{Cluster, Component, ControlPlane, Options, Proc};
use nix::sys::signal::Signal;

/// A Kubernetes cluster of network namespaces on this machine.
#[derive(Parser)]
#[command(name = "cluster")]
struct Cli {
    /// Where the cluster's files are.
    #[arg(long, global = true, env = "CORTEN_CLUSTER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../_output/cluster"))]
    state: PathBuf,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Starts a cluster (the default).
    Up(Up),
    /// Ends the cluster and removes everything it made.
    Down,
    /// Lists machines and daemons.
    Status,
    /// Runs kubectl as administrator inside the cluster's network.
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Prints a daemon's log.
    Logs { daemon: String },
    /// Keeps daemons running; `up` starts it.
    #[command(hide = true)]
    Supervise,
    /// Ends a daemon with SIGKILL and leaves it dead.
    Kill { daemon: String },
    /// Ends a daemon if it runs and starts it.
    Restart { daemon: String },
    /// Runs a command on a machine: `cp`, `n1`, ...
    Exec {
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(clap::Args)]
struct Up {
    /// Nodes that run pods.
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// Prefix of cgroup names; by default one made of the state directory.
    #[arg(long)]
    name: Option<String>,
    /// How the control plane runs. Static pods run from images, with etcd.
    #[arg(long, value_enum, default_value = "daemons")]
    control_plane: ControlPlane,
    /// Keep state in etcd instead of the embedded store.
    #[arg(long)]
    etcd: bool,
    /// Leave the DNS addon out.
    #[arg(long)]
    no_dns: bool,
    /// The container runtime.
    #[arg(long, default_value = "/usr/bin/containerd")]
    containerd: PathBuf,
    #[arg(long, value_name = "PATH")]
    kube_apiserver: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    kube_controller_manager: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    kube_scheduler: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    cloud_controller_manager: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    kubelet: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    kube_proxy: Option<PathBuf>,
}

impl Up {
    fn options(self, state: PathBuf) -> Options {
        let components: BTreeMap<Component, PathBuf> = [
            (Component::Apiserver, self.kube_apiserver),
            (Component::ControllerManager, self.kube_controller_manager),
            (Component::Scheduler, self.kube_scheduler),
            (Component::CloudControllerManager, self.cloud_controller_manager),
            (Component::Kubelet, self.kubelet),
            (Component::Proxy, self.kube_proxy),
        ]
        .into_iter()
        .filter_map(|(component, path)| Some((component, path?)))
        .collect();
        Options {
            name: self.name,
            control_plane: self.control_plane,
            nodes: self.nodes,
            etcd: self.etcd,
            dns: !self.no_dns,
            containerd: self.containerd,
            components,
            ..Options::new(state)
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let open = || Cluster::open(&cli.state);
    match cli.command.unwrap_or_else(Verb::parse_up) {
        Verb::Up(up) => {
            let cluster = e2e::up(&up.options(cli.state.clone()))?;
            usage(&cluster);
            Ok(())
        }
        Verb::Down => {
            e2e::down(&cli.state)?;
            println!("the cluster is down; nothing is left of it");
            Ok(())
        }
        Verb::Supervise => e2e::supervise(&cli.state),
        Verb::Status => status(&open()?),
        Verb::Kubectl { arguments } => replace(open()?.kubectl_command()?.args(arguments)),
        Verb::Logs { daemon } => {
            let cluster = open()?;
            cluster.daemon(&daemon)?;
            replace(Command::new("cat").arg(cluster.layout.log(&daemon)))
        }
        Verb::Kill { daemon } => open()?.kill(&daemon, Signal::SIGKILL),
        Verb::Restart { daemon } => open()?.restart(&daemon),
        Verb::Exec { node, command } => replace(open()?.command(&node, &command[0])?.args(&command[1..])),
    }
}

impl Verb {
    /// `up` with its defaults, for a call without a verb.
    fn parse_up() -> Self {
        match Cli::parse_from(["cluster", "up"]).command {
            Some(verb) => verb,
            None => Self::Status,
        }
    }
}

/// Becomes the command, so that terminals, signals and exit codes are its own.
fn replace(command: &mut Command) -> Result<()> {
    let error = command.exec();
    bail!("starting {}: {error}", command.get_program().to_string_lossy())
}

fn status(cluster: &Cluster) -> Result<()> {
    for node in &cluster.state.nodes {
        let state = if node.holder.alive() { "up" } else { "gone" };
        println!("{:<28} {:<8} {}", node.name, state, node.ip);
    }
    let running = |process: Option<Proc>| process.filter(|process| process.alive());
    for (name, daemon) in &cluster.state.daemons {
        let text = match running(daemon.process) {
            Some(process) => format!("pid {}", process.pid),
            None if daemon.wanted => "dead".to_owned(),
            None => "stopped".to_owned(),
        };
        let restarts = match daemon.restarts {
            0 => String::new(),
            count => format!(", restarts: {count}"),
        };
        println!("{name:<28} {text:<8} on {}{restarts}", daemon.node);
    }
    let supervisor = running(cluster.state.supervisor);
    println!("{:<28} {}", "supervisor", supervisor.map_or("dead".to_owned(), |process| format!("pid {}", process.pid)));
    if let [first, ..] = cluster.dead().as_slice() {
        bail!("{first} does not run: `logs {first}` tells why");
    }
    Ok(())
}

fn usage(cluster: &Cluster) {
    println!(
        "\nThe cluster is up. Use it with\n  \
         ./hack/local-up-cluster.sh kubectl get nodes\n  \
         ./hack/local-up-cluster.sh kubectl apply -f manifests/examples/guestbook.yaml\n  \
         ./hack/local-up-cluster.sh exec cp sh        # a shell in the cluster's network, with kubectl's configuration\n  \
         ./hack/local-up-cluster.sh logs kube-apiserver\n  \
         ./hack/local-up-cluster.sh down\nIts files are in {}",
        cluster.layout.root().display()
    );
}
