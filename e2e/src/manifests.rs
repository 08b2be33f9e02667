//! Configuration files of the daemons that a node runs: containerd, CNI, kubelet.

/// containerd's configuration on a node (version 2 of the format: containerd 1.6 to 2.x read it).
pub fn containerd() -> &'static str {
    // A machine without CAP_SYS_RESOURCE can't lower a score: containerd must not ask runc to.
    r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10.2"
  restrict_oom_score_adj = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  tolerate_missing_hugetlb_controller = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#
}

/// Point-to-point pod networking: all traffic of a pod passes the node's own stack, so service rules see it.
pub fn cni(pod_cidr: &str) -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "corten", "plugins": [
  {{"type": "ptp", "ipMasq": false,
    "ipam": {{"type": "host-local", "dataDir": "/var/lib/cni/networks", "ranges": [[{{"subnet": "{pod_cidr}"}}]],
             "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
]}}
"#
    )
}

/// The kubelet's configuration file.
pub fn kubelet(cgroup: &str, dns: &str, pki: &str, node: &str) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {pki}/ca.crt}}
authorization: {{mode: Webhook}}
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
clusterDNS: [{dns}]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failCgroupV1: false
failSwapOn: false
resolvConf: /etc/resolv.conf
staticPodPath: /etc/kubernetes/manifests
tlsCertFile: {pki}/kubelet-{node}-serving.crt
tlsPrivateKeyFile: {pki}/kubelet-{node}-serving.key
evictionHard: {{memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
"
    )
}

/// kube-proxy's configuration file. A machine's network namespace may not change the kernel's connection tracking limits.
pub fn proxy(kubeconfig: &str, pod_cidr: &str, node: &str) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {kubeconfig}}}
clusterCIDR: {pod_cidr}
conntrack: {{maxPerCore: 0, min: 0, tcpCloseWaitTimeout: 0s, tcpEstablishedTimeout: 0s}}
hostnameOverride: {node}
mode: nftables
"
    )
}

/// What the kubelet of a control plane's machine has beside [`kubelet`]: only pods that tolerate it run there.
pub const CONTROL_PLANE_TAINT: &str =
    "registerWithTaints: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]\n";

/// The cloud controller manager's provider configuration: a pool of load-balancer addresses.
pub fn cloud(pool: &str) -> String {
    format!("apiVersion: corten.dev/v1alpha1\nkind: LocalCloudConfig\nloadBalancerPools: [{pool}]\n")
}
