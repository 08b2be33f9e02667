//! A control plane of static pods: the committed manifests, the files that they mount, and the images that they run.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{
    daemons::beside_this_program,
    layout::Layout,
    node::{run_on, write_file},
    pki::Authority,
    process::run,
    state::{CONTROL_PLANE, Cluster, NodeState},
};

/// The manifests, and the images that hack/build-images.sh writes for them.
const PODS: [(&str, &str); 5] = [
    ("etcd", include_str!("../../manifests/static-pods/etcd.yaml")),
    ("kube-apiserver", include_str!("../../manifests/static-pods/kube-apiserver.yaml")),
    ("kube-controller-manager", include_str!("../../manifests/static-pods/kube-controller-manager.yaml")),
    ("kube-scheduler", include_str!("../../manifests/static-pods/kube-scheduler.yaml")),
    ("cloud-controller-manager", include_str!("../../manifests/static-pods/cloud-controller-manager.yaml")),
];

/// Names of kubeconfigs here, and on a machine that kubeadm set up.
const KUBECONFIGS: [(&str, &str); 5] = [
    ("admin", "admin.conf"),
    ("kubelet-cp", "kubelet.conf"),
    ("kube-controller-manager", "controller-manager.conf"),
    ("kube-scheduler", "scheduler.conf"),
    ("cloud-controller-manager", "cloud-controller-manager.conf"),
];

/// What manifests/README.md tells a user to replace: the machine's address and name, and etcd's image and probes.
fn substitutions(address: &str) -> [(&'static str, &str); 5] {
    [
        ("192.0.2.10", address),
        ("node-1", CONTROL_PLANE),
        ("registry.k8s.io/etcd:3.6.8-0", "corten.dev/etcd:local"),
        ("path: /readyz, port: probe-port, scheme: HTTP}", "path: /health, port: probe-port, scheme: HTTP}"),
        ("path: /livez, port: probe-port, scheme: HTTP}", "path: /health, port: probe-port, scheme: HTTP}"),
    ]
}

/// A manifest for the machine with this address.
fn manifest(text: &str, address: &str) -> String {
    substitutions(address).iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Certificates that only this set-up has: etcd's, and those by which the API server calls extension servers.
pub fn certificates(layout: &Layout, address: &str) -> Result<()> {
    let etcd = Authority::create(layout, "etcd/ca", "etcd-ca")?;
    let hosts = [CONTROL_PLANE, "localhost", "127.0.0.1", address];
    etcd.peer("etcd/server", CONTROL_PLANE, &hosts)?;
    etcd.peer("etcd/peer", CONTROL_PLANE, &hosts)?;
    etcd.client("apiserver-etcd-client", "kube-apiserver-etcd-client", None)?;
    let front_proxy = Authority::create(layout, "front-proxy-ca", "front-proxy-ca")?;
    front_proxy.client("front-proxy-client", "front-proxy-client", None).map(drop)
}

/// Writes the images of the control plane below `dir`, as a user does.
pub fn images(layout: &Layout) -> Result<Vec<PathBuf>> {
    let dir = layout.data("control-plane-images");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/build-images.sh");
    let mut argv = vec![
        script.to_owned(),
        format!("--programs={}", beside_this_program().display()),
        format!("--output={}", dir.display()),
    ];
    argv.extend(PODS.iter().map(|(name, _)| (*name).to_owned()));
    run(&argv).context("making the control plane's images")?;
    let mut archives = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        archives.push(entry?.path());
    }
    if archives.len() != PODS.len() {
        bail!("{} archives in {}, but {} images", archives.len(), dir.display(), PODS.len());
    }
    archives.sort();
    Ok(archives)
}

/// Puts everything where the manifests look for it, the manifests last: its kubelet starts the pods.
pub fn install(cluster: &Cluster, machine: &NodeState) -> Result<()> {
    let layout = &cluster.layout;
    let from = |path: PathBuf| path.display().to_string();
    run_on(machine, &["cp", "-a", &from(layout.pki("")), "/etc/kubernetes/pki"])?;
    for (identity, file) in KUBECONFIGS {
        let target = format!("/etc/kubernetes/{file}");
        run_on(machine, &["install", "-m", "600", &from(layout.kubeconfig(identity)), &target])?;
    }
    run_on(machine, &["install", "-m", "644", &from(layout.config("cloud.yaml")), "/etc/kubernetes/cloud.yaml"])?;
    for (name, text) in PODS {
        let text = manifest(text, &machine.ip);
        write_file(machine, &format!("/etc/kubernetes/manifests/{name}.yaml"), &text)?;
    }
    Ok(())
}

/// What kubeadm does once the node is registered: a kubelet may not give its own node this label.
pub fn label(cluster: &Cluster) -> Result<()> {
    let label = "node-role.kubernetes.io/control-plane=";
    cluster.kubectl_ok(&["label", "node", CONTROL_PLANE, label]).map(drop)
}

/// The last lines of every container of the static pods, for a person who looks for what failed.
pub fn log_tails(cluster: &Cluster, lines: usize) -> String {
    let script = format!("tail -n {lines} /var/log/pods/*/*/*.log 2>/dev/null || true");
    let machine = cluster.node(CONTROL_PLANE).ok().filter(|machine| machine.runs_pods);
    machine.and_then(|machine| run_on(machine, &["sh", "-c", &script]).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_in_a_manifest_and_none_is_left() {
        let all: String = PODS.iter().map(|(_, text)| *text).collect();
        for (from, _) in substitutions("10.0.0.1") {
            assert!(all.contains(from), "no manifest has {from}");
            // The comments at the heads name what is to be replaced, and are replaced too.
            assert!(!manifest(&all, "10.0.0.1").contains(from), "{from} is left");
        }
    }

    #[test]
    fn https_probes_stay_as_they_are() {
        let (_, text) = PODS[1];
        assert!(
            manifest(text, "10.0.0.1").contains("{host: 10.0.0.1, path: /readyz, port: probe-port, scheme: HTTPS}")
        );
    }
}
