//! From options to a running proxy.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use common::{
    client,
    events::{EventType, EventsV1Recorder},
    meta::ip::sloppy_ip,
    serving::{Handler, serve},
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    Options,
    backend::Backend,
    config::{Config, DetectLocal, Mode, NodePorts},
    health::{HealthState, ProxyHealth, ServiceServers},
    iptables,
    metrics::Metrics,
    model::Family,
    nftables,
    proxier::{Periods, Proxier},
    server::OperatorServer,
    settings::{NodePortAddresses, Settings},
    sources::Sources,
    sysctls,
};

/// How long a node may take to appear with its addresses, and with its pod networks when those are needed.
const NODE_PATIENCE: Duration = Duration::from_secs(30);
const POD_CIDR_PATIENCE: Duration = Duration::from_secs(300);
/// A port that is taken is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// Runs the proxy until `shutdown`; its rules stay in place then. With `--cleanup` it removes them and returns.
///
/// # Errors
/// When options are wrong, the mode does not work here, the kubeconfig can't be used or a sysctl can't be set; with
/// `--bind-address-hard-fail` also when an address can't be bound.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<()> {
    common::telemetry::init(&options.logging);
    if let Some(path) = &options.write_config_to {
        std::fs::write(path, Options::defaults()).with_context(|| format!("writing {}", path.display()))?;
        tracing::info!(file = %path.display(), "wrote configuration");
        return Ok(());
    }
    let config = options.complete()?;
    let cleaned = clean_up(config.mode, options.cleanup);
    if options.cleanup {
        return cleaned;
    }
    if let Err(error) = cleaned {
        tracing::warn!(error = format!("{error:#}"), "cannot remove rules of other modes");
    }
    let metrics = Metrics::new(config.mode)?;
    let client = client::connect(&config.client, "kube-proxy").await?;
    let health = HealthState::new(config.sync_period);
    let sources = Sources::new(&config.node, metrics.clone(), health.clone());
    sources.watch_node(&client, &config.node, &shutdown);
    let Some(node) = wait_for_node(&config, &sources, &shutdown).await? else { return Ok(()) };
    config.conntrack.apply()?;
    let settings = settings(&config, node.as_ref())?;
    initialize(&config, &settings)?;
    if options.init_only {
        tracing::info!("System initialized and --init-only specified");
        return Ok(());
    }
    adjust_oom_score(&config);
    Started { config, sources, health, metrics, client, settings }.run(shutdown).await
}

/// Removes rules of other modes, or with `everything` those of all.
fn clean_up(mode: Mode, everything: bool) -> Result<()> {
    if mode == Mode::Nftables || everything {
        iptables::cleanup()?;
    }
    if mode == Mode::Iptables || everything {
        nftables::cleanup()?;
    }
    Ok(())
}

/// The node when it has what is needed of it, or when waiting longer is no use. `None` on shutdown.
async fn wait_for_node(
    config: &Config,
    sources: &Sources,
    shutdown: &CancellationToken,
) -> Result<Option<Option<Node>>> {
    let needs_cidrs = config.detect_local == DetectLocal::NodeCidr;
    let mut started = None;
    loop {
        let node = sources.world.lock().node.clone();
        let has_ips = node.as_ref().is_some_and(|node| !addresses(node).is_empty());
        let has_cidrs = node.as_ref().is_some_and(|node| !pod_cidrs(node).is_empty());
        if has_ips && (has_cidrs || !needs_cidrs) {
            return Ok(Some(node));
        }
        let waited = sources.knows_node().then(|| started.get_or_insert_with(Instant::now).elapsed());
        if waited.is_some_and(|waited| waited > NODE_PATIENCE && !needs_cidrs) {
            tracing::error!(node = config.node, "Timed out waiting for node to exist and to be assigned IPs");
            return Ok(Some(node));
        }
        if waited.is_some_and(|waited| waited > NODE_PATIENCE + POD_CIDR_PATIENCE) {
            match node {
                Some(_) => bail!("timeout waiting for PodCIDR allocation on node {:?}", config.node),
                None => bail!("timeout waiting for node {:?} to exist", config.node),
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
}

/// The node's addresses: internal ones, else external ones.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let all = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let of = |kind: &str| -> Vec<IpAddr> {
        let matching = all.into_iter().flatten().filter(|address| address.type_ == kind);
        matching.filter_map(|address| sloppy_ip(&address.address)).collect()
    };
    let internal = of("InternalIP");
    if internal.is_empty() { of("ExternalIP") } else { internal }
}

fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let listed = spec.and_then(|spec| spec.pod_cidrs.as_ref()).into_iter().flatten();
    listed.filter_map(|text| text.parse().ok()).collect()
}

/// The machine speaks IPv6.
fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists() && sysctls::read("net/ipv6/conf/all/disable_ipv6") != Some(1)
}

/// Whether the machine and the mode's programs know the family.
fn is_supported(mode: Mode, family: Family) -> bool {
    if family.is_v6() && !has_ipv6() {
        return false;
    }
    let result = if mode == Mode::Iptables { iptables::Program(family).check() } else { Ok(()) };
    if let Err(error) = &result {
        let error = format!("{error:#}");
        tracing::info!(family = family.as_str(), error, "no iptables support for family");
    }
    result.is_ok()
}

/// The settings of each family that works here.
fn settings(config: &Config, node: Option<&Node>) -> Result<Vec<Settings>> {
    let own = node.map(addresses).unwrap_or_default();
    let cidrs = node.map(pod_cidrs).unwrap_or_default();
    let primary = Family::of(config.bind_address.or(own.first().copied()).unwrap_or(Ipv4Addr::UNSPECIFIED.into()));
    let families: Vec<Family> = Family::BOTH.into_iter().filter(|family| is_supported(config.mode, *family)).collect();
    if !families.contains(&primary) {
        bail!("no support for primary IP family {:?}", primary.as_str());
    }
    let node_ip = |family: Family| {
        let mut candidates = config.bind_address.into_iter().chain(own.iter().copied());
        candidates.find(|ip| Family::of(*ip) == family).unwrap_or(match family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        })
    };
    let node_ports: Vec<IpNet> = match &config.node_ports {
        NodePorts::Nets(nets) => nets.clone(),
        NodePorts::Primary => {
            Family::BOTH.map(node_ip).into_iter().filter(|ip| !ip.is_loopback()).map(IpNet::from).collect()
        }
    };
    let of_family = |family: Family| {
        let addresses = NodePortAddresses::new(&node_ports, family);
        Settings {
            family,
            masquerade_all: config.masquerade_all,
            mark: config.masquerade_mark,
            detector: config.detect_local.detector(family, &cidrs),
            node_ip: node_ip(family),
            localhost_node_ports: config.mode == Mode::Iptables
                && family == Family::V4
                && config.localhost_node_ports
                && addresses.contains_loopback(),
            node_ports: addresses,
        }
    };
    Ok(families.into_iter().map(of_family).collect())
}

/// What needs more rights than running does.
fn initialize(config: &Config, settings: &[Settings]) -> Result<()> {
    if config.mode == Mode::Nftables {
        nftables::check()?;
    }
    if settings.iter().any(|settings| settings.localhost_node_ports) {
        sysctls::ensure("net/ipv4/conf/all/route_localnet", 1)?;
    }
    Ok(())
}

fn adjust_oom_score(config: &Config) {
    let Some(score) = config.oom_score_adj else { return };
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::debug!(%error, "cannot set the OOM score");
    }
}

/// Everything that a running proxy is made of.
struct Started {
    config: Config,
    sources: Sources,
    health: Arc<HealthState>,
    metrics: Metrics,
    client: kube::Client,
    settings: Vec<Settings>,
}

impl Started {
    async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let Self { config, sources, health, metrics, client, settings } = self;
        let recorder = EventsV1Recorder::new(client.clone(), "kube-proxy", &format!("kube-proxy-{}", config.node));
        let node = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(config.node.clone()),
            ..ObjectReference::default()
        };
        settings.iter().for_each(|settings| health.applied(settings.family));
        let healthz = ProxyHealth { state: health.clone(), sources: sources.clone(), metrics: metrics.clone() };
        let operators = OperatorServer::new(config.mode, &config.shown);
        let hard = config.bind_address_hard_fail;
        let ports = [
            open(config.healthz, Arc::new(healthz), hard, &shutdown).await,
            open(config.metrics, Arc::new(operators), hard, &shutdown).await,
        ];
        for (result, reason) in ports.into_iter().zip(["FailedToStartProxierHealthcheck", "FailedToStartMetricServer"])
        {
            if let Err(error) = result {
                let note = format!("{error:#}");
                recorder.event(&node, None, EventType::Warning, reason, "StartKubeProxy", &note);
                return Err(error);
            }
        }
        let servers = ServiceServers {
            state: health.clone(),
            families: settings.iter().map(|settings| (settings.family, settings.node_ports.clone())).collect(),
            node: config.node.clone(),
            recorder: recorder.clone(),
        };
        tokio::spawn(servers.run(shutdown.clone()));
        sources.watch_services(&client, &shutdown);
        recorder.event(&node, None, EventType::Normal, "Starting", "StartKubeProxy", "");
        // Old rules serve until everything is known: half a list would cut connections.
        while !sources.is_complete() {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        tracing::info!(node = config.node, mode = config.mode.as_str(), "caches are filled, writing rules");
        let backends = settings.into_iter().map(|settings| (settings.family, backend(&config, settings))).collect();
        let periods = Periods {
            min_sync: config.min_sync_period,
            sync: config.sync_period,
            spare_large: config.mode == Mode::Iptables,
        };
        let moved = pod_cidrs_changed(&config, sources.clone());
        tokio::select! {
            () = Proxier::new(periods, sources, health, metrics, backends).run(shutdown) => Ok(()),
            // Rules tell pods from others by these networks: begin anew.
            () = moved => bail!("PodCIDRs changed for the node"),
        }
    }
}

/// Returns when the node's pod networks are not what they are now, if they matter.
async fn pod_cidrs_changed(config: &Config, sources: Sources) {
    let current = || sources.world.lock().node.as_ref().map(pod_cidrs);
    let first = current();
    loop {
        sources.node_changed.notified().await;
        let now = current();
        if config.detect_local == DetectLocal::NodeCidr && now.is_some() && now != first {
            return;
        }
    }
}

fn backend(config: &Config, settings: Settings) -> Box<dyn Backend> {
    match config.mode {
        Mode::Nftables => Box::new(nftables::Nft::new(settings)),
        Mode::Iptables => Box::new(iptables::Iptables::new(settings)),
    }
}

/// Serves on an address. When it can't be opened: an error if that is `hard`, else it is tried until it can.
async fn open(
    address: Option<SocketAddr>,
    handler: Arc<dyn Handler>,
    hard: bool,
    shutdown: &CancellationToken,
) -> Result<()> {
    let Some(address) = address else { return Ok(()) };
    match TcpListener::bind(address).await {
        Ok(listener) => {
            tokio::spawn(serve(listener, None, handler, shutdown.clone()));
            Ok(())
        }
        Err(error) if hard => Err(error).with_context(|| format!("failed to start proxy server on {address}")),
        Err(error) => {
            tracing::error!(%address, %error, "cannot listen; trying again");
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(LISTEN_AGAIN) => {}
                    }
                    if let Ok(listener) = TcpListener::bind(address).await {
                        return drop(serve(listener, None, handler, shutdown).await);
                    }
                }
            });
            Ok(())
        }
    }
}
