//! A machine: network, mount and UTS namespaces held open by one process. Its /etc and /var are overlays and its /run is
//! private, so daemons use their usual paths and everything they write stays below the state directory.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    layout::Layout,
    process::{self, Proc, namespace_inode, wait_for},
    state::NodeState,
};

/// Runs inside the fresh namespaces; $1 is the host name, $2 the node's directory.
const PREPARE: &str = r#"
set -eu
hostname "$1"
dir=$2
mount --make-rprivate /
for d in etc var; do
    mkdir -p "$dir/$d" "$dir/.work/$d"
    mount -t overlay overlay -o "lowerdir=/$d,upperdir=$dir/$d,workdir=$dir/.work/$d" "/$d"
done
# Directories that must not lie on an overlay: containerd stacks its own overlays on them, pods mount below them.
for d in run var/lib/containerd var/lib/kubelet var/lib/cni var/log/pods var/log/containers etc/cni/net.d; do
    mkdir -p "$dir/data/$d" "/$d"
    mount --bind "$dir/data/$d" "/$d"
done
mkdir -p /run/netns /run/containerd /etc/kubernetes/manifests
mount --make-rshared /
printf '127.0.0.1 localhost\n%s %s\n' "$3" "$1" >/etc/hosts
printf 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n' >/etc/resolv.conf
sysctl -qw net.ipv4.ip_forward=1
ip link set lo up
: >"$dir/prepared"
exec sleep infinity
"#;

/// The prefix of a command line that enters a node's namespaces.
pub fn enter(node: &NodeState) -> Vec<String> {
    let pid = node.holder.pid.to_string();
    ["nsenter", "-t", &pid, "-m", "-u", "-n", "--"].map(String::from).to_vec()
}

/// Runs a command on a node.
pub fn run_on(node: &NodeState, argv: &[&str]) -> Result<String> {
    let mut words = enter(node);
    words.extend(argv.iter().map(|word| (*word).to_owned()));
    process::run(&words)
}

/// Starts a machine and waits until its file system is ready. It has no network yet, but for loopback.
pub fn create(layout: &Layout, name: &str, ip: &str) -> Result<NodeState> {
    let dir = layout.node(name);
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let argv =
        ["unshare", "--net", "--mount", "--uts", "--", "sh", "-c", PREPARE, "node", name, &dir.to_string_lossy(), ip]
            .map(String::from);
    let holder = process::spawn(&argv, &Default::default(), &layout.log(&format!("node-{name}")))?;
    if !wait_for(Duration::from_secs(10), || dir.join("prepared").exists() || !holder.alive()) || !holder.alive() {
        let log = fs::read_to_string(layout.log(&format!("node-{name}"))).unwrap_or_default();
        bail!("node {name} could not be prepared: {}", log.trim());
    }
    let inode = |kind| namespace_inode(holder.pid, kind).with_context(|| format!("node {name} is gone"));
    Ok(NodeState {
        name: name.to_owned(),
        ip: ip.to_owned(),
        holder,
        mount_namespace: inode("mnt")?,
        network_namespace: inode("net")?,
        runs_pods: false,
    })
}

/// Gives the switch its bridge. Its address is the nodes' default gateway, behind which there is nothing.
pub fn create_bridge(switch: &NodeState, prefix: u8) -> Result<()> {
    let address = format!("{}/{prefix}", switch.ip);
    run_on(switch, &["sysctl", "-qw", "net.ipv4.ip_forward=0"])?;
    run_on(switch, &["ip", "link", "add", "br0", "type", "bridge"])?;
    run_on(switch, &["ip", "address", "add", &address, "dev", "br0"])?;
    run_on(switch, &["ip", "link", "set", "br0", "up"])?;
    Ok(())
}

/// Plugs a node into the bridge.
pub fn plug(switch: &NodeState, node: &NodeState, prefix: u8) -> Result<()> {
    let port = format!("p-{}", node.name);
    let pid = node.holder.pid.to_string();
    let address = format!("{}/{prefix}", node.ip);
    run_on(switch, &["ip", "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
    run_on(switch, &["ip", "link", "set", &port, "master", "br0", "up"])?;
    run_on(node, &["ip", "address", "add", &address, "dev", "eth0"])?;
    run_on(node, &["ip", "link", "set", "eth0", "up"])?;
    run_on(node, &["ip", "route", "add", "default", "via", &switch.ip])?;
    Ok(())
}

/// Routes another node's pods.
pub fn route(node: &NodeState, cidr: &str, via: &str) -> Result<()> {
    run_on(node, &["ip", "route", "replace", cidr, "via", via]).map(drop)
}

/// Every process that belongs to a node, the holder included.
pub fn processes(node: &NodeState) -> Vec<Proc> {
    let mut all = process::in_namespace("mnt", node.mount_namespace);
    for process in process::in_namespace("net", node.network_namespace) {
        if !all.contains(&process) {
            all.push(process);
        }
    }
    all
}

/// Writes a file of a node, given its absolute path there.
pub fn write_file(node: &NodeState, path: &str, text: &str) -> Result<()> {
    let target = Path::new("/proc").join(node.holder.pid.to_string()).join("root").join(path.trim_start_matches('/'));
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&target, text).with_context(|| format!("writing {path} on node {}", node.name))
}
