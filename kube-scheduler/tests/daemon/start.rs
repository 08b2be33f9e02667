//! Bad input ends the start; an absent server does not.

use kube_scheduler::run;

use crate::{
    USER,
    neighbour::{refuses_bad_input, waits_for_the_server},
};

#[test]
fn bad_input_is_named() {
    refuses_bad_input(env!("CARGO_BIN_EXE_kube-scheduler-tested"), &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn becomes_ready_when_the_server_appears() {
    waits_for_the_server(run, USER, &[]).await;
}

#[test]
fn a_bad_configuration_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("scheduler.yaml");
    let program = env!("CARGO_BIN_EXE_kube-scheduler-tested");
    let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    for (text, message) in [("profils: []", "profils"), ("parallelism: -1", "parallelism: Invalid value: -1")] {
        std::fs::write(&path, format!("{head}{text}\n")).unwrap();
        let output = std::process::Command::new(program).arg(format!("--config={}", path.display())).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(message), "{said}");
    }
}
