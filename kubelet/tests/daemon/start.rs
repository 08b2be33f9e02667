//! The program's command line: what is wrong is named, and the exit code tells.

use std::process::Command;

use serde_json::json;

use crate::support::Node;

fn run(arguments: &[String]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kubelet-tested")).args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_command_line_ends_the_start() {
    let node = Node::prepare(json!({})).await;
    let good: Vec<String> = node.command_line()[1..].to_vec();
    std::fs::write(node.path("bad-kubeconfig"), "clusters: {").unwrap();
    std::fs::write(
        node.path("bad-config"),
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPodz: 3\n",
    )
    .unwrap();
    std::fs::write(node.path("other-kind"), "apiVersion: v1\nkind: Pod\n").unwrap();
    let path = |name: &str| node.path(name).display().to_string();
    for (argument, wanted) in [
        ("--no-such-flag=1".to_owned(), "unknown flag: --no-such-flag".to_owned()),
        ("--max-pods=many".to_owned(), "--max-pods".to_owned()),
        ("--node-ip=here".to_owned(), "--node-ip".to_owned()),
        ("--kubeconfig=/no/such/kubeconfig".to_owned(), "/no/such/kubeconfig".to_owned()),
        (format!("--kubeconfig={}", path("bad-kubeconfig")), path("bad-kubeconfig")),
        ("--config=/no/such/config".to_owned(), "/no/such/config".to_owned()),
        (format!("--config={}", path("bad-config")), "maxPodz".to_owned()),
        (format!("--config={}", path("other-kind")), path("other-kind")),
        ("--cgroup-driver=none".to_owned(), "cgroupDriver".to_owned()),
        ("--container-runtime-endpoint=tcp://localhost:1".to_owned(), "containerRuntimeEndpoint".to_owned()),
    ] {
        let mut arguments = good.clone();
        let flag = argument.split('=').next().unwrap();
        arguments.retain(|given| given.split('=').next() != Some(flag));
        arguments.push(argument.clone());
        let (success, text) = run(&arguments);
        assert!(!success && text.contains(&wanted), "{argument}: {text}");
    }
}
