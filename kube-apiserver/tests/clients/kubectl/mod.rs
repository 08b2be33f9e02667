//! kubectl: `KUBECTL` names another than the installed one.

mod apply;
mod explain;
mod get;
mod patch;

use std::{path::PathBuf, process::Stdio};

use tokio::{io::AsyncWriteExt, process::Command};

use super::{support::Cluster, tool};

struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// A server and kubectl for it; none where there is no kubectl.
    async fn start() -> Option<(Cluster, Self)> {
        let program = std::env::var_os("KUBECTL").map(PathBuf::from).or_else(|| tool("kubectl"))?;
        let cluster = Cluster::start().await;
        let kubeconfig = cluster.kubeconfig();
        Some((cluster, Self { program, kubeconfig }))
    }

    /// Runs `kubectl <words>` with this text as standard input; answers success, output and errors.
    async fn run(&self, words: &str, input: &str) -> (bool, String, String) {
        self.run_with(&words.split_whitespace().collect::<Vec<_>>(), input).await
    }

    /// As [`Self::run`], for words with spaces in them.
    async fn run_with(&self, words: &[&str], input: &str) -> (bool, String, String) {
        let mut child = Command::new(&self.program)
            .args(words)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.kubeconfig.parent().unwrap())
            .env("KUBECTL_EXTERNAL_DIFF", "diff -u -N")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that reads nothing may have ended already.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    async fn must(&self, words: &str, input: &str) -> String {
        let (success, output, errors) = self.run(words, input).await;
        assert!(success, "kubectl {words}: {output}{errors}");
        output
    }

    async fn must_not(&self, words: &str, input: &str) -> String {
        let (success, output, errors) = self.run(words, input).await;
        assert!(!success, "kubectl {words}: {output}{errors}");
        errors
    }
}

fn deployment(replicas: u32, image: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: {replicas}\n  selector:\n    matchLabels:\n      app: web\n  \
         template:\n    metadata:\n      labels:\n        app: web\n    spec:\n      containers:\n      - name: c\n        image: {image}\n        \
         ports:\n        - containerPort: 80\n"
    )
}
