//! Real kubectl inside the cluster's network, and futures run there.

use std::{
    fs::File,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::{
    node::enter,
    state::{CONTROL_PLANE, Cluster, NodeState},
};

/// What a finished command said.
#[derive(Debug)]
pub struct Output {
    /// Whether it exited with 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cluster {
    /// A command that runs on the node of that name, e.g. `cp` or `n1`, with kubectl's configuration in its environment.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn command(&self, node: &str, program: &str) -> Result<Command> {
        self.command_in(&enter(self.node(node)?), program)
    }

    fn command_in(&self, words: &[String], program: &str) -> Result<Command> {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program).env("KUBECONFIG", self.layout.kubeconfig("admin"));
        // Discovery caches belong to the cluster, not to the person.
        command.env("HOME", self.layout.root()).env("KUBECACHEDIR", self.layout.root().join("kubectl-cache"));
        Ok(command)
    }

    /// kubectl as the administrator, ready for arguments.
    ///
    /// # Errors
    /// When the cluster has no control plane.
    pub fn kubectl_command(&self) -> Result<Command> {
        // Only the network: files on the command line are those of the person who calls.
        let pid = self.node(CONTROL_PLANE)?.holder.pid.to_string();
        self.command_in(&["nsenter", "-t", &pid, "-n", "--"].map(String::from), &kubectl_path())
    }

    /// Runs kubectl to its end.
    ///
    /// # Errors
    /// Only when it can't be started; its own failure is in the output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_stdin(arguments, "")
    }

    /// As [`Cluster::kubectl`], with text on standard input.
    ///
    /// # Errors
    /// Only when it can't be started; its own failure is in the output.
    pub fn kubectl_stdin(&self, arguments: &[&str], input: &str) -> Result<Output> {
        use std::io::Write;
        let mut child = self
            .kubectl_command()?
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        let input = input.to_owned();
        let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let _ = writer.join();
        Ok(Output {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs kubectl and wants success.
    ///
    /// # Errors
    /// With what it printed, when it fails.
    pub fn kubectl_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl(arguments)?;
        if !output.success {
            bail!("kubectl {}: {}{}", arguments.join(" "), output.stdout, output.stderr.trim());
        }
        Ok(output.stdout)
    }
}

/// The kubectl that hack/install-tools.sh put beside the build output, or the one on PATH.
fn kubectl_path() -> String {
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/../_output/tools/kubectl");
    std::env::var("KUBECTL")
        .unwrap_or_else(|_| if std::path::Path::new(ours).exists() { ours } else { "kubectl" }.into())
}

/// Runs the future that `future` makes on a thread of its own, whose sockets belong to the node's network.
///
/// # Errors
/// Of the future, or when the namespace can't be entered.
pub fn inside<T: Send, F>(node: &NodeState, future: impl FnOnce() -> F + Send) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let path = format!("/proc/{}/ns/net", node.holder.pid);
    thread::scope(|scope| {
        scope
            .spawn(|| {
                let file = File::open(&path).with_context(|| format!("opening {path}"))?;
                setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {path}"))?;
                tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future())
            })
            .join()
            .unwrap_or_else(|_| bail!("a task inside {} panicked", node.name))
    })
}
