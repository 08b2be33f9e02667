//! Every daemon of the cluster and its command line, the same that a person would write into a static pod.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    layout::Layout,
    node::enter,
    options::Options,
    process::{self, Proc},
    state::{CONTROL_PLANE, Cluster, DaemonState, NodeState},
};

/// A program whose path can be given, so that ours and upstream's can be mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The API server.
    Apiserver,
    /// The controller manager.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// The cloud controller manager.
    CloudControllerManager,
    /// The node agent.
    Kubelet,
    /// The service proxy.
    Proxy,
}

impl Component {
    /// All six.
    pub const ALL: [Self; 6] = [
        Self::Apiserver,
        Self::ControllerManager,
        Self::Scheduler,
        Self::CloudControllerManager,
        Self::Kubelet,
        Self::Proxy,
    ];

    /// The binary's name, upstream's too.
    pub fn binary(self) -> &'static str {
        match self {
            Self::Apiserver => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::CloudControllerManager => "cloud-controller-manager",
            Self::Kubelet => "kubelet",
            Self::Proxy => "kube-proxy",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.binary())
    }
}

impl FromStr for Component {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|component| component.binary() == text)
            .with_context(|| format!("no component {text}; there are {}", Self::ALL.map(Self::binary).join(", ")))
    }
}

/// Flags as `--name=value` words.
fn flags(program: &str, flags: &[(&str, String)]) -> Vec<String> {
    std::iter::once(program.to_owned()).chain(flags.iter().map(|(name, value)| format!("--{name}={value}"))).collect()
}

/// Builds command lines from the cluster's addresses and paths.
pub(crate) struct CommandLines<'a> {
    pub layout: &'a Layout,
    pub options: &'a Options,
    /// The control plane's address.
    pub address: &'a str,
}

impl CommandLines<'_> {
    fn pki(&self, file: &str) -> String {
        self.layout.pki(file).display().to_string()
    }

    fn kubeconfig(&self, identity: &str) -> String {
        self.layout.kubeconfig(identity).display().to_string()
    }

    /// etcd on the control plane's loopback.
    pub fn etcd(&self) -> Vec<String> {
        let url = "http://127.0.0.1:2379".to_owned();
        let peer = "http://127.0.0.1:2380".to_owned();
        flags(
            "etcd",
            &[
                ("name", "default".into()),
                ("data-dir", self.layout.data("etcd").display().to_string()),
                ("listen-client-urls", url.clone()),
                ("advertise-client-urls", url),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer.clone()),
                ("initial-cluster", format!("default={peer}")),
            ],
        )
    }

    pub fn apiserver(&self) -> Vec<String> {
        let mut list = vec![
            ("advertise-address", self.address.to_owned()),
            ("secure-port", "6443".into()),
            ("allow-privileged", "true".into()),
            ("authorization-mode", "Node,RBAC".into()),
            ("client-ca-file", self.pki("ca.crt")),
            ("enable-admission-plugins", "NodeRestriction".into()),
            ("enable-bootstrap-token-auth", "true".into()),
            ("kubelet-certificate-authority", self.pki("ca.crt")),
            ("kubelet-client-certificate", self.pki("apiserver-kubelet-client.crt")),
            ("kubelet-client-key", self.pki("apiserver-kubelet-client.key")),
            ("kubelet-preferred-address-types", "InternalIP,ExternalIP,Hostname".into()),
            ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".into()),
            ("service-account-key-file", self.pki("sa.pub")),
            ("service-account-signing-key-file", self.pki("sa.key")),
            ("service-cluster-ip-range", self.options.service_cidr.clone()),
            ("tls-cert-file", self.pki("apiserver.crt")),
            ("tls-private-key-file", self.pki("apiserver.key")),
        ];
        if self.options.etcd {
            list.push(("etcd-servers", "http://127.0.0.1:2379".into()));
        } else {
            list.push(("data-dir", self.layout.data("apiserver").display().to_string()));
        }
        flags(&self.options.path(Component::Apiserver), &list)
    }

    fn control_plane(&self, component: Component, extra: &[(&str, String)]) -> Vec<String> {
        let kubeconfig = self.kubeconfig(component.binary());
        let mut list = vec![
            ("kubeconfig", kubeconfig.clone()),
            ("authentication-kubeconfig", kubeconfig.clone()),
            ("authorization-kubeconfig", kubeconfig),
            ("bind-address", "127.0.0.1".into()),
            ("leader-elect", "true".into()),
        ];
        list.extend_from_slice(extra);
        flags(&self.options.path(component), &list)
    }

    pub fn controller_manager(&self) -> Vec<String> {
        self.control_plane(
            Component::ControllerManager,
            &[
                ("allocate-node-cidrs", "true".into()),
                ("client-ca-file", self.pki("ca.crt")),
                ("cluster-cidr", self.options.pod_cidr.clone()),
                ("cluster-name", "corten".into()),
                ("cluster-signing-cert-file", self.pki("ca.crt")),
                ("cluster-signing-key-file", self.pki("ca.key")),
                ("root-ca-file", self.pki("ca.crt")),
                ("service-account-private-key-file", self.pki("sa.key")),
                ("service-cluster-ip-range", self.options.service_cidr.clone()),
                ("use-service-account-credentials", "true".into()),
            ],
        )
    }

    pub fn scheduler(&self) -> Vec<String> {
        self.control_plane(Component::Scheduler, &[])
    }

    pub fn cloud_controller_manager(&self) -> Vec<String> {
        self.control_plane(
            Component::CloudControllerManager,
            &[
                ("cloud-provider", "local".into()),
                ("cloud-config", self.layout.config("cloud.yaml").display().to_string()),
                ("cluster-cidr", self.options.pod_cidr.clone()),
                ("configure-cloud-routes", "false".into()),
            ],
        )
    }

    pub fn kubelet(&self, node: &NodeState) -> Vec<String> {
        flags(
            &self.options.path(Component::Kubelet),
            &[
                ("config", self.layout.config(&format!("kubelet-{}.yaml", node.name)).display().to_string()),
                ("kubeconfig", self.kubeconfig(&format!("kubelet-{}", node.name))),
                ("hostname-override", node.name.clone()),
                ("node-ip", node.ip.clone()),
            ],
        )
    }

    pub fn proxy(&self, node: &NodeState) -> Vec<String> {
        let config = self.layout.config(&format!("kube-proxy-{}.yaml", node.name)).display().to_string();
        flags(&self.options.path(Component::Proxy), &[("config", config)])
    }

    pub fn containerd(&self, node: &NodeState) -> Vec<String> {
        vec![
            self.options.containerd.display().to_string(),
            "--config".into(),
            self.layout.config(&format!("containerd-{}.toml", node.name)).display().to_string(),
        ]
    }
}

/// Unmounts what pods and containers had, empties /run, and forgets network state but for the machine's own.
const FRESH_BOOT: &str = "
for m in $(awk '$2 ~ \"^/run/|^/var/lib/kubelet/|^/var/lib/containerd/\" {print $2}' /proc/self/mounts | sort -r); do umount -l $m || true; done
rm -rf /run/* && mkdir -p /run/netns /run/containerd
for l in $(ip -o link show type veth | awk -F': ' '{print $2}' | cut -d@ -f1 | grep -v '^eth0$'); do ip link delete $l || true; done
nft flush ruleset
";

impl Cluster {
    /// Records a daemon and starts it in a node's namespaces.
    pub(crate) fn start_daemon(&mut self, name: &str, node: &str, argv: Vec<String>) -> Result<()> {
        let env = BTreeMap::from([("RUST_BACKTRACE".to_owned(), "1".to_owned())]);
        let daemon = DaemonState { node: node.to_owned(), argv, env, process: None, wanted: true, restarts: 0 };
        self.update(|cluster| {
            cluster.state.daemons.insert(name.to_owned(), daemon);
            cluster.launch(name)
        })
    }

    /// Starts a recorded daemon, and keeps it running from now on; one that runs is left alone.
    ///
    /// # Errors
    /// When the cluster has no such daemon, or it can't be started.
    pub fn start(&mut self, name: &str) -> Result<()> {
        self.update(|cluster| {
            cluster.daemon_mut(name)?.wanted = true;
            cluster.launch(name)
        })?;
        self.ensure_supervised()
    }

    /// Starts a recorded daemon unless it runs. The caller holds the record's lock.
    pub(crate) fn launch(&mut self, name: &str) -> Result<()> {
        let daemon = self.daemon(name)?;
        if daemon.process.is_some_and(Proc::alive) {
            return Ok(());
        }
        let mut argv = enter(self.node(&daemon.node)?);
        argv.extend_from_slice(&daemon.argv);
        let process = process::spawn(&argv, &daemon.env, &self.layout.log(name))?;
        self.daemon_mut(name)?.process = Some(process);
        Ok(())
    }

    /// Records that a daemon shall not run; returns its last process.
    fn dismiss(&mut self, name: &str) -> Result<Option<Proc>> {
        self.update(|cluster| {
            let daemon = cluster.daemon_mut(name)?;
            daemon.wanted = false;
            Ok(daemon.process)
        })
    }

    /// Ends a daemon with a signal, waits until it is gone, and leaves it so.
    ///
    /// # Errors
    /// When the cluster has no such daemon, or it does not end.
    pub fn kill(&mut self, name: &str, signal: Signal) -> Result<()> {
        let Some(process) = self.dismiss(name)? else { return Ok(()) };
        process.signal(signal)?;
        if !process.wait(Duration::from_secs(30)) {
            bail!("{name} (process {}) did not end after {signal}", process.pid);
        }
        Ok(())
    }

    /// Ends a daemon with SIGTERM, after 10 s with SIGKILL, and starts it again.
    ///
    /// # Errors
    /// When the cluster has no such daemon, or it can't be started.
    pub fn restart(&mut self, name: &str) -> Result<()> {
        if let Some(process) = self.dismiss(name)? {
            process.stop(Duration::from_secs(10))?;
        }
        self.start(name)
    }

    /// What a power failure does to a node: everything that runs there ends at once. Then its daemons start again.
    ///
    /// # Errors
    /// When there is no such node, or a daemon can't be started.
    pub fn reboot(&mut self, node: &str) -> Result<()> {
        let machine = self.node(node)?.clone();
        let names: Vec<String> =
            self.state.daemons.iter().filter(|(_, daemon)| daemon.node == node).map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.kill(name, Signal::SIGKILL)?;
        }
        crate::cgroup::kill(&crate::up::cgroup_name(self, node))?;
        for process in crate::node::processes(&machine).into_iter().filter(|process| *process != machine.holder) {
            process.signal(Signal::SIGKILL)?;
        }
        // A boot starts with an empty /run and no rules of the last one.
        crate::node::run_on(&machine, &["sh", "-c", FRESH_BOOT])?;
        names.iter().try_for_each(|name| self.start(name))
    }

    /// The recorded daemon.
    ///
    /// # Errors
    /// When the cluster has none of that name.
    pub fn daemon(&self, name: &str) -> Result<&DaemonState> {
        self.state.daemons.get(name).with_context(|| {
            let names: Vec<&str> = self.state.daemons.keys().map(String::as_str).collect();
            format!("no daemon {name}; there are {}", names.join(", "))
        })
    }

    pub(crate) fn daemon_mut(&mut self, name: &str) -> Result<&mut DaemonState> {
        self.daemon(name)?;
        self.state.daemons.get_mut(name).context("just found")
    }

    /// The last lines of a daemon's log.
    pub fn log_tail(&self, name: &str, lines: usize) -> String {
        let text = std::fs::read(self.layout.log(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Daemons that do not run at this moment.
    pub fn dead(&self) -> Vec<String> {
        // The record is newer than this copy when the supervisor has started one again.
        let now = Self::open(self.layout.root());
        let daemons = now.as_ref().map_or(&self.state.daemons, |cluster| &cluster.state.daemons);
        let is_dead = |daemon: &DaemonState| !daemon.process.is_some_and(Proc::alive);
        daemons.iter().filter(|(_, daemon)| is_dead(daemon)).map(|(name, _)| name.clone()).collect()
    }
}

/// The names of the control plane's daemons in the order in which they start.
pub(crate) fn control_plane(lines: &CommandLines<'_>) -> Vec<(&'static str, &'static str, Vec<String>)> {
    let mut list = Vec::new();
    if lines.options.etcd {
        list.push(("etcd", CONTROL_PLANE, lines.etcd()));
    }
    list.push(("kube-apiserver", CONTROL_PLANE, lines.apiserver()));
    list.push(("kube-controller-manager", CONTROL_PLANE, lines.controller_manager()));
    list.push(("kube-scheduler", CONTROL_PLANE, lines.scheduler()));
    list.push(("cloud-controller-manager", CONTROL_PLANE, lines.cloud_controller_manager()));
    list
}

/// Directories in which programs are looked for when no path is given.
pub(crate) fn beside_this_program() -> PathBuf {
    std::env::current_exe().ok().and_then(|path| path.parent().map(PathBuf::from)).unwrap_or_default()
}
