//! Programs in other languages; each drives a server of its own and ends with 1 at the first surprise.

use std::path::Path;

use tokio::process::Command;

use super::{support::Cluster, tool};

/// Runs the program with the server's kubeconfig; it must succeed, and say so for so many steps.
async fn drive(mut program: Command, steps: usize) {
    let mut cluster = Cluster::start().await;
    let output = program.arg(cluster.kubeconfig()).kill_on_drop(true).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), steps, "{text}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_works() {
    let Some(python) = tool("venv/bin/python") else { return };
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/client.py"));
    drive(command, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_go_works() {
    let Some(program) = tool("client-go") else { return };
    drive(Command::new(program), 14).await;
}
