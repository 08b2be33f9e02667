//! Upstream's kubectl against the server. Skipped, saying so, where there is no kubectl: set `KUBECTL`, or install it with
//! `hack/install-tools.sh`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::support::Cluster;

fn kubectl() -> Option<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../_output/tools/kubectl");
    let found =
        std::env::var_os("KUBECTL").map(PathBuf::from).into_iter().chain([installed]).find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: no kubectl");
    }
    found
}

struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Runs `kubectl <words>` with this text as standard input; answers success, output and errors.
    async fn run(&self, words: &str, input: &str) -> (bool, String, String) {
        let mut child = Command::new(&self.program)
            .args(words.split_whitespace())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.kubeconfig.parent().unwrap())
            .env("KUBECTL_EXTERNAL_DIFF", "diff -u -N")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_on_the_server() {
    let Some(program) = kubectl() else { return };
    let mut cluster = Cluster::start().await;
    let kubectl = Kubectl { program, kubeconfig: cluster.kubeconfig() };
    let apply = "apply --server-side -f -";
    assert_eq!(kubectl.must(apply, &deployment(1, "i:1")).await, "deployment.apps/web serverside-applied\n");
    assert_eq!(kubectl.must(apply, &deployment(1, "i:1")).await, "deployment.apps/web serverside-applied\n");
    let shown = kubectl.must("get deployment web -o yaml --show-managed-fields", "").await;
    for part in
        ["manager: kubectl", "operation: Apply", "k:{\"name\":\"c\"}", "k:{\"containerPort\":80,\"protocol\":\"TCP\"}"]
    {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(!kubectl.must("get deployment web -o yaml", "").await.contains("managedFields"));

    // Another writer's replicas are in the way, until forced.
    kubectl.must("scale deployment web --replicas=4", "").await;
    let refused = kubectl.must_not(apply, &deployment(2, "i:1")).await;
    assert!(
        refused.contains("Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"),
        "{refused}"
    );
    assert!(refused.contains("--force-conflicts"), "{refused}");
    kubectl.must("apply --server-side --force-conflicts -f -", &deployment(2, "i:1")).await;
    assert_eq!(kubectl.must("get deployment web -o jsonpath={.spec.replicas}", "").await, "2");
    let other = kubectl.must_not("apply --server-side --field-manager=other -f -", &deployment(2, "i:2")).await;
    assert!(other.contains("conflict with \"kubectl\": .spec.template.spec.containers[name=\"c\"].image"), "{other}");

    let (same, difference, errors) = kubectl.run("diff --server-side -f -", &deployment(2, "i:9")).await;
    assert!(!same && difference.contains("+      - image: i:9"), "{difference}{errors}");
    let (same, difference, errors) = kubectl.run("diff --server-side -f -", &deployment(2, "i:1")).await;
    assert!(same && difference.is_empty(), "{difference}{errors}");
    let dry = kubectl
        .must("apply --server-side --dry-run=server -f - -o jsonpath={.spec.replicas}", &deployment(7, "i:1"))
        .await;
    assert_eq!(dry, "7");
    assert_eq!(kubectl.must("get deployment web -o jsonpath={.spec.replicas}", "").await, "2");
    let unknown = format!("{}  nonsense: 1\n", deployment(2, "i:1"));
    let refused = kubectl.must_not("apply --server-side --validate=false -f -", &unknown).await;
    assert!(refused.contains(".spec.nonsense: field not declared in schema"), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_migrates_from_client_side_apply_and_back() {
    let Some(program) = kubectl() else { return };
    let mut cluster = Cluster::start().await;
    let kubectl = Kubectl { program, kubeconfig: cluster.kubeconfig() };
    kubectl.must("apply -f -", &deployment(1, "i:1")).await;
    kubectl.must("apply -f -", &deployment(2, "i:1")).await;
    let managers = "get deployment web --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}";
    assert_eq!(kubectl.must(managers, "").await, "kubectl-client-side-apply");
    // kubectl asks the server to take over what client-side apply owned.
    kubectl.must("apply --server-side -f -", &deployment(3, "i:2")).await;
    let found = kubectl.must(managers, "").await;
    let mut found: Vec<&str> = found.split_whitespace().collect();
    found.sort_unstable();
    assert_eq!(found, ["kubectl", "kubectl-last-applied"]);
    let annotation =
        "get deployment web -o jsonpath={.metadata.annotations.kubectl\\.kubernetes\\.io/last-applied-configuration}";
    assert!(kubectl.must(annotation, "").await.contains("\"image\":\"i:2\""));
    // And what is no longer applied goes.
    let without = deployment(3, "i:2").replace("        ports:\n        - containerPort: 80\n", "");
    kubectl.must("apply --server-side -f -", &without).await;
    let ports = "get deployment web -o jsonpath={.spec.template.spec.containers[0].ports}";
    assert_eq!(kubectl.must(ports, "").await, "");
    let (same, difference, errors) = kubectl.run("diff -f -", &without).await;
    assert!(same && difference.is_empty(), "{difference}{errors}");
    kubectl.must("apply -f -", &deployment(4, "i:3")).await;
    assert_eq!(kubectl.must("get deployment web -o jsonpath={.spec.replicas}", "").await, "4");
    cluster.stop().await;
}
