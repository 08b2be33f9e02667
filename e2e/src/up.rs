//! Brings a cluster up, step by step, and says on failure which daemon failed and what it last logged.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, Config, api::ListParams, config::Kubeconfig};

use crate::{
    cgroup,
    daemons::{CommandLines, Component, beside_this_program, control_plane},
    down::down,
    image,
    kubectl::inside,
    layout::Layout,
    manifests, node,
    options::{ControlPlane, Options},
    pki::{self, Authority},
    process::wait_for,
    state::{CONTROL_PLANE, Cluster, NodeState, SWITCH, State},
    static_pods,
};

const PREFIX: u8 = 24;
const LIMIT: Duration = Duration::from_secs(120);

/// Prints steps with the time since the start.
struct Progress(Instant);

impl Progress {
    fn step(&self, text: &str) {
        println!("[{:>7.3}s] {text}", self.0.elapsed().as_secs_f64());
    }
}

/// Brings a cluster up; one that is left over in the same directory goes down first.
///
/// # Errors
/// With the step that failed; what was started is left for inspection until `down`.
pub fn up(options: &Options) -> Result<Cluster> {
    options.check()?;
    let progress = Progress(Instant::now());
    let layout = Layout::new(&options.root);
    if layout.state_file().exists() {
        progress.step("taking down the cluster that is here already");
        down(&options.root)?;
    }
    fs::create_dir_all(layout.root()).with_context(|| format!("creating {}", layout.root().display()))?;
    let root = layout.root().canonicalize()?;
    let layout = Layout::new(&root);
    let program = beside_this_program().join("cluster");
    let state = State { name: options.name(&root), program, ..State::default() };
    let mut cluster = Cluster { layout, state };
    cluster.save()?;

    machines(&mut cluster, options)?;
    progress.step(&format!("{} machines on a private bridge", cluster.state.nodes.len()));
    certificates_and_configs(&cluster, options)?;
    progress.step("certificates and configuration files");
    start(&mut cluster, options, &progress).map_err(|error| explain(&cluster, error))?;
    cluster.start_supervisor()?;
    Ok(cluster)
}

/// Starts the daemons and waits until everything works.
fn start(cluster: &mut Cluster, options: &Options, progress: &Progress) -> Result<()> {
    let nodes: Vec<NodeState> = cluster.workers().cloned().collect();
    let layout = cluster.layout.clone();
    let machine = cluster.node(CONTROL_PLANE)?.clone();
    let lines = CommandLines { layout: &layout, options, address: &machine.ip };
    for node in &nodes {
        cluster.start_daemon(&format!("containerd-{}", node.name), &node.name, lines.containerd(node))?;
    }
    match options.control_plane {
        ControlPlane::Daemons => {
            for (name, node, argv) in control_plane(&lines) {
                cluster.start_daemon(name, node, argv)?;
            }
            wait_apiserver(cluster)?;
            progress.step("kube-apiserver is ready");
            import_images(cluster, options)?;
            progress.step("containerd runs and has the images");
        }
        ControlPlane::StaticPods => {
            import_images(cluster, options)?;
            progress.step("containerd runs and has the images");
            static_pods::install(cluster, &machine)?;
            cluster.start_daemon("kubelet-cp", CONTROL_PLANE, lines.kubelet(&machine))?;
            wait_apiserver(cluster)?;
            progress.step("kube-apiserver is ready, a static pod");
        }
    }
    for node in &nodes {
        let kubelet = format!("kubelet-{}", node.name);
        if cluster.daemon(&kubelet).is_err() {
            cluster.start_daemon(&kubelet, &node.name, lines.kubelet(node))?;
        }
        cluster.start_daemon(&format!("kube-proxy-{}", node.name), &node.name, lines.proxy(node))?;
    }
    pod_network(cluster)?;
    progress.step("nodes are registered and have pod networks");
    wait_nodes_ready(cluster)?;
    if machine.runs_pods {
        static_pods::label(cluster)?;
    }
    progress.step(&format!("{} nodes are Ready", nodes.len()));
    if options.dns {
        install_dns(cluster, options)?;
        progress.step("cluster DNS is available");
    }
    Ok(())
}

/// Adds the failed daemons and the end of their logs to an error.
fn explain(cluster: &Cluster, error: anyhow::Error) -> anyhow::Error {
    let mut text = format!("{error:#}");
    let dead = cluster.dead();
    let names = if dead.is_empty() { cluster.state.daemons.keys().cloned().collect() } else { dead };
    for name in names {
        text.push_str(&format!("\n--- {name}: last lines of {}\n", cluster.layout.log(&name).display()));
        text.push_str(&cluster.log_tail(&name, 8));
    }
    text.push_str(&static_pods::log_tails(cluster, 8));
    anyhow::anyhow!(text)
}

fn machines(cluster: &mut Cluster, options: &Options) -> Result<()> {
    let mut names =
        vec![(SWITCH.to_owned(), "172.31.0.1".to_owned()), (CONTROL_PLANE.to_owned(), "172.31.0.10".to_owned())];
    names.extend((1..=options.nodes).map(|i| (format!("n{i}"), format!("172.31.0.{}", 10 + i))));
    for (name, ip) in &names {
        let mut machine = node::create(&cluster.layout, name, ip)?;
        machine.runs_pods =
            name != SWITCH && (name != CONTROL_PLANE || options.control_plane == ControlPlane::StaticPods);
        cluster.state.nodes.push(machine);
        cluster.save()?;
    }
    let switch = cluster.node(SWITCH)?;
    node::create_bridge(switch, PREFIX)?;
    for machine in cluster.state.nodes.iter().filter(|machine| machine.name != SWITCH) {
        node::plug(switch, machine, PREFIX)?;
    }
    for worker in cluster.workers() {
        cgroup::create(&cgroup_name(cluster, &worker.name))?;
    }
    Ok(())
}

/// The cgroup root of a node.
pub(crate) fn cgroup_name(cluster: &Cluster, node: &str) -> String {
    format!("{}-{node}", cluster.state.name)
}

fn certificates_and_configs(cluster: &Cluster, options: &Options) -> Result<()> {
    let layout = &cluster.layout;
    let authority = Authority::create(layout, "ca", "kubernetes")?;
    pki::service_account_keys(layout)?;
    let address = &cluster.node(CONTROL_PLANE)?.ip;
    if options.control_plane == ControlPlane::StaticPods {
        static_pods::certificates(layout, address)?;
    }
    let server = format!("https://{address}:6443");
    let first_service = options.service_cidr.replace(".0/16", ".1").replace(".0/24", ".1");
    authority.serving(
        "apiserver",
        "kube-apiserver",
        None,
        &[
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            address,
            &first_service,
        ],
    )?;
    authority.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters"))?;
    authority.kubeconfig("admin", "kubernetes-admin", Some("system:masters"), &server)?;
    for component in
        [Component::ControllerManager, Component::Scheduler, Component::CloudControllerManager, Component::Proxy]
    {
        let name = component.binary();
        authority.kubeconfig(name, &format!("system:{name}"), None, &server)?;
    }
    fs::create_dir_all(layout.config(""))?;
    fs::write(layout.config("cloud.yaml"), manifests::cloud("172.31.0.200-172.31.0.250"))?;
    for worker in cluster.workers() {
        let name = &worker.name;
        authority.kubeconfig(
            &format!("kubelet-{name}"),
            &format!("system:node:{name}"),
            Some("system:nodes"),
            &server,
        )?;
        let user = format!("system:node:{name}");
        authority.serving(&format!("kubelet-{name}-serving"), &user, Some("system:nodes"), &[name, &worker.ip])?;
        fs::write(layout.config(&format!("containerd-{name}.toml")), manifests::containerd())?;
        let pki = layout.pki("").display().to_string();
        let mut text =
            manifests::kubelet(&cgroup_name(cluster, name), &options.dns_address, pki.trim_end_matches('/'), name);
        if name == CONTROL_PLANE {
            text.push_str(manifests::CONTROL_PLANE_TAINT);
        }
        fs::write(layout.config(&format!("kubelet-{name}.yaml")), text)?;
        let proxy_identity = layout.kubeconfig(Component::Proxy.binary()).display().to_string();
        let text = manifests::proxy(&proxy_identity, &options.pod_cidr, name);
        fs::write(layout.config(&format!("kube-proxy-{name}.yaml")), text)?;
    }
    Ok(())
}

/// A client of this cluster, for use inside its network (see [`inside`]).
async fn client(kubeconfig: &Path) -> Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(config, &Default::default()).await?;
    Ok(Client::try_from(config)?)
}

impl Cluster {
    /// A kube-rs client as administrator; use it in a future given to [`inside`].
    ///
    /// # Errors
    /// When the kubeconfig can't be read.
    pub async fn client(&self) -> Result<Client> {
        client(&self.layout.kubeconfig("admin")).await
    }

    /// Runs a future in the control plane's network.
    ///
    /// # Errors
    /// Of the future.
    pub fn on_control_plane<T: Send, F>(&self, future: impl FnOnce() -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        inside(self.node(CONTROL_PLANE)?, future)
    }
}

/// Waits until `probe` succeeds; gives up when a daemon died or the limit has passed.
async fn wait_until<F, T>(cluster: &Cluster, what: &str, mut probe: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T>,
{
    let end = Instant::now() + LIMIT;
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(error) => {
                if let [first, ..] = cluster.dead().as_slice() {
                    bail!("{first} ended while waiting for {what}");
                }
                if Instant::now() > end {
                    return Err(error.context(format!("waited {} s for {what}", LIMIT.as_secs())));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

fn wait_apiserver(cluster: &Cluster) -> Result<()> {
    cluster.on_control_plane(async || {
        let client = cluster.client().await?;
        wait_until(cluster, "kube-apiserver", async || {
            let request = http_get("/readyz")?;
            Ok(client.request_text(request).await?)
        })
        .await?;
        Ok(())
    })
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}

fn wait_containerd(worker: &NodeState) -> Result<()> {
    let ready = || node::run_on(worker, &["ctr", "--connect-timeout", "1s", "version"]).is_ok();
    if wait_for(Duration::from_secs(60), ready) {
        Ok(())
    } else {
        bail!("containerd on {} did not answer", worker.name)
    }
}

/// Makes the image archives and imports them on all nodes side by side; the control plane's on its machine only.
fn import_images(cluster: &Cluster, options: &Options) -> Result<()> {
    let standard = image::standard(&cluster.layout.data("images"), options.dns)?;
    let own = match options.control_plane {
        ControlPlane::Daemons => Vec::new(),
        ControlPlane::StaticPods => static_pods::images(&cluster.layout)?,
    };
    let import = |node: &NodeState| -> Result<()> {
        wait_containerd(node)?;
        let own = if node.name == CONTROL_PLANE { own.as_slice() } else { &[] };
        for archive in standard.iter().chain(own) {
            let path = archive.display().to_string();
            node::run_on(node, &["ctr", "-n", "k8s.io", "images", "import", &path])?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let tasks: Vec<_> = cluster.workers().map(|node| scope.spawn(move || import(node))).collect();
        tasks.into_iter().try_for_each(|task| task.join().unwrap_or_else(|_| bail!("importing images panicked")))
    })
}

/// Waits until every node has a pod CIDR, then writes its CNI configuration and everybody's routes to it.
fn pod_network(cluster: &Cluster) -> Result<()> {
    let cidrs = cluster.on_control_plane(async || {
        let nodes: Api<Node> = Api::all(cluster.client().await?);
        wait_until(cluster, "nodes to get pod addresses", async || {
            let list = nodes.list(&ListParams::default()).await?;
            let cidr = |node: &Node| Some((node.metadata.name.clone()?, node.spec.as_ref()?.pod_cidr.clone()?));
            let cidrs: BTreeMap<String, String> = list.items.iter().filter_map(cidr).collect();
            if cidrs.len() < cluster.workers().count() {
                bail!("{} of {} nodes have a spec.podCIDR", cidrs.len(), cluster.workers().count());
            }
            Ok(cidrs)
        })
        .await
    })?;
    for worker in cluster.workers() {
        let cidr = cidrs.get(&worker.name).with_context(|| format!("node {} is not registered", worker.name))?;
        node::write_file(worker, "/etc/cni/net.d/10-corten.conflist", &manifests::cni(cidr))?;
        for other in cluster.state.nodes.iter().filter(|other| other.name != worker.name && other.name != SWITCH) {
            node::route(other, cidr, &worker.ip)?;
        }
    }
    // Without kube-proxy the control plane reaches Services through the first node, as a load balancer would.
    let control_plane = cluster.node(CONTROL_PLANE)?;
    if let Some(first) = cluster.workers().next().filter(|_| !control_plane.runs_pods) {
        node::route(control_plane, "172.31.0.200/29", &first.ip)?;
    }
    Ok(())
}

fn wait_nodes_ready(cluster: &Cluster) -> Result<()> {
    cluster.on_control_plane(async || {
        let nodes: Api<Node> = Api::all(cluster.client().await?);
        wait_until(cluster, "nodes to become Ready", async || {
            for node in nodes.list(&ListParams::default()).await?.items {
                let conditions = node.status.unwrap_or_default().conditions.unwrap_or_default();
                let name = node.metadata.name.unwrap_or_default();
                match conditions.iter().find(|condition| condition.type_ == "Ready") {
                    Some(ready) if ready.status == "True" => {}
                    Some(ready) => bail!("node {name} is not ready: {}", ready.message.as_deref().unwrap_or_default()),
                    None => bail!("node {name} has no Ready condition"),
                }
            }
            Ok(())
        })
        .await
    })
}

fn install_dns(cluster: &Cluster, options: &Options) -> Result<()> {
    let manifest = include_str!("../../manifests/addons/cluster-dns/cluster-dns.yaml");
    let manifest = manifest.replace("10.96.0.10", &options.dns_address);
    let output = cluster.kubectl_stdin(&["apply", "-f", "-"], &manifest)?;
    if !output.success {
        bail!("installing cluster DNS: {}", output.stderr.trim());
    }
    cluster.kubectl_ok(&["-n", "kube-system", "rollout", "status", "deployment/cluster-dns", "--timeout=90s"]).map(drop)
}
