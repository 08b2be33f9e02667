//! Measures a kube-proxy at many Services, ours and upstream's one after the other on the same neighbours.
//! docs/measurements.md says what the figures mean; hack/bench-proxy.sh builds and starts it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use neighbour::{Api, Machine};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const API_PORT: u16 = 8001;
const TARGET: u16 = 8080;
/// Changes of endpoints a second, and for how many seconds.
const CHURN: (u32, u32) = (100, 10);
/// Single changes measured.
const CHANGES: u32 = 20;

/// What is measured.
struct Options {
    programs: Vec<(&'static str, String)>,
    sizes: Vec<(usize, usize)>,
    mode: String,
    /// The first sync may take so long.
    limit: Duration,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self {
            programs: Vec::new(),
            sizes: vec![(1000, 2), (10_000, 2), (10_000, 50), (40_000, 2), (40_000, 50)],
            mode: "nftables".into(),
            limit: Duration::from_secs(300),
        };
        for argument in std::env::args().skip(1) {
            match argument.split_once('=') {
                Some(("--ours", path)) => options.programs.insert(0, ("ours", path.into())),
                Some(("--upstream", path)) => options.programs.push(("upstream", path.into())),
                Some(("--mode", mode)) => options.mode = mode.into(),
                Some(("--limit", seconds)) => options.limit = Duration::from_secs(seconds.parse()?),
                Some(("--sizes", list)) => {
                    let size = |text: &str| {
                        let (services, endpoints) = text.split_once('x').context("a size is SERVICESxENDPOINTS")?;
                        anyhow::Ok((services.parse()?, endpoints.parse()?))
                    };
                    options.sizes = list.split(',').map(size).collect::<Result<_>>()?;
                }
                _ => bail!("unknown argument {argument}"),
            }
        }
        Ok(options)
    }
}

/// A node with two pods, and an API server inside of it.
struct World {
    api: Api,
    node: Machine,
    pods: [Machine; 2],
    _runtime: tokio::runtime::Runtime,
}

fn pod(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 244, 0, 5 + number).into()
}

fn service_ip(number: usize) -> IpAddr {
    let [_, high, middle, low] = (number as u32 + 1).to_be_bytes();
    Ipv4Addr::new(10, 96 + high, middle, low).into()
}

impl World {
    fn new() -> Result<Self> {
        let node = Machine::new()?;
        node.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0")?;
        let pods = [Machine::new()?, Machine::new()?];
        for (machine, number) in pods.iter().zip(0..) {
            let (ip, name) = (pod(number), format!("pod{number}"));
            node.run(&format!("ip link add {name} type veth peer name eth0 netns {}; ip link set {name} up; ip addr add 169.254.1.1/32 dev {name}; ip route add {ip}/32 dev {name}", machine.path()))?;
            machine.run(&format!("ip link set eth0 up; ip addr add {ip}/32 dev eth0; ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1 dev eth0"))?;
            machine.serve(&name, TARGET)?;
        }
        // Cluster IPs need a way out before rules send them elsewhere.
        node.run("ip route add default dev pod0")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let api = Api::default();
        let listener = node.listen(SocketAddr::from(([127, 0, 0, 1], API_PORT)))?;
        listener.set_nonblocking(true)?;
        runtime.block_on(async {
            api.serve(tokio::net::TcpListener::from_std(listener)?, CancellationToken::new());
            anyhow::Ok(())
        })?;
        api.put(json!({"kind": "Node", "metadata": {"name": "n1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "169.254.1.1"}]}}));
        Ok(Self { api, node, pods, _runtime: runtime })
    }

    fn put_service(&self, number: usize) {
        let ip = service_ip(number).to_string();
        self.api.put(json!({"kind": "Service", "metadata": {"name": format!("s{number}"), "namespace": "bench"},
            "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "sessionAffinity": "None",
                "ports": [{"name": "p", "port": 80, "protocol": "TCP", "targetPort": TARGET}], "selector": {"app": format!("s{number}")}}}));
    }

    /// `round` makes one of the endpoints another one.
    fn put_slice(&self, number: usize, endpoints: usize, round: u32) {
        let endpoint = |at: usize| {
            let [_, high, middle, low] = ((number * endpoints + at) as u32).to_be_bytes();
            let first = if at == 0 { 20 + (round % 100) as u8 } else { 150 };
            json!({"addresses": [Ipv4Addr::new(first, high, middle, low).to_string()], "nodeName": format!("node-{}", at % 100),
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "bench", "name": format!("s{number}-{at}"), "uid": format!("{number:08}-{at:04}")}})
        };
        self.slice(number, (0..endpoints).map(endpoint).collect());
    }

    fn slice(&self, number: usize, endpoints: Vec<serde_json::Value>) {
        self.api.put(json!({"kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "p", "port": TARGET, "protocol": "TCP"}],
            "metadata": {"name": format!("s{number}-abcde"), "namespace": "bench", "labels": {"kubernetes.io/service-name": format!("s{number}")}}}));
    }

    /// A Service with one real endpoint.
    fn put_probe(&self, number: usize, at: u8) {
        self.slice(
            number,
            vec![json!({"addresses": [pod(at).to_string()], "nodeName": "n1", "conditions": {"ready": true}})],
        );
    }

    /// Who answers at a Service's address.
    fn answer(&self, number: usize) -> Option<String> {
        let to = SocketAddr::new(service_ip(number), 80);
        self.node.ask(to, Duration::from_millis(500)).ok().map(|reply| reply.server)
    }

    fn start(&self, program: &str, mode: &str) -> Result<Child> {
        let mut command = self.node.command(program);
        command.args([
            "--hostname-override=n1",
            &format!("--master=http://127.0.0.1:{API_PORT}"),
            &format!("--proxy-mode={mode}"),
            "--cluster-cidr=10.244.0.0/16",
            "--nodeport-addresses=0.0.0.0/0",
            "--iptables-min-sync-period=10ms",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]);
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }
}

/// Figures of one program at one size.
#[derive(Default)]
struct Figures {
    /// From the start of the program until all probes answer.
    first_sync: Option<f64>,
    /// From a change in the API until packets go elsewhere, median, in ms.
    change: Option<f64>,
    /// What the program itself counts for such a change, mean, in ms.
    partial: Option<f64>,
    rss: f64,
    peak: f64,
    /// Percent of a core.
    churn: f64,
}

fn status(pid: u32, field: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|value| value.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Seconds of processor of a process and its ended children.
fn processor(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(4).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Sum in seconds and count of IPv4 syncs of a part.
fn syncs(world: &World) -> Option<(f64, f64)> {
    let metrics = world.node.run("curl -s --max-time 5 http://127.0.0.1:10249/metrics").ok()?;
    let value = |suffix: &str| {
        let name = format!("kubeproxy_sync_partial_proxy_rules_duration_seconds_{suffix}{{ip_family=\"IPv4\"}} ");
        // Before the first one there is no such line.
        let found = metrics.lines().find_map(|line| line.strip_prefix(name.as_str())?.trim().parse::<f64>().ok());
        found.unwrap_or(0.0)
    };
    Some((value("sum"), value("count")))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn measure(world: &World, program: &str, options: &Options, (services, endpoints): (usize, usize)) -> Result<Figures> {
    let probes: Vec<usize> = (0..10).map(|at| at * (services - 1) / 9).collect();
    probes.iter().for_each(|number| world.put_probe(*number, 0));
    let started = Instant::now();
    let mut child = world.start(program, &options.mode)?;
    let pid = child.id();
    let mut figures = Figures::default();
    let mut open = probes.clone();
    while started.elapsed() < options.limit && !open.is_empty() {
        open.retain(|number| world.answer(*number).as_deref() != Some("pod0"));
        thread::sleep(Duration::from_millis(20));
    }
    if open.is_empty() {
        figures.first_sync = Some(started.elapsed().as_secs_f64());
        thread::sleep(Duration::from_secs(3));
        figures.rss = status(pid, "VmRSS");
        let before = syncs(world);
        let mut times = Vec::new();
        for change in 0..CHANGES {
            let number = probes[change as usize % probes.len()];
            let at = ((change as usize / probes.len() + 1) % 2) as u8;
            let began = Instant::now();
            world.put_probe(number, at);
            while world.answer(number).as_deref() != Some(&format!("pod{at}")) && began.elapsed() < options.limit {}
            times.push(began.elapsed().as_secs_f64() * 1000.0);
            thread::sleep(Duration::from_millis(100));
        }
        figures.change = median(times);
        if let (Some(before), Some(after)) = (before, syncs(world)) {
            figures.partial = Some((after.0 - before.0) / (after.1 - before.1).max(1.0) * 1000.0);
        }
        figures.churn = churn(world, pid, services, endpoints, &probes);
    }
    figures.peak = status(pid, "VmHWM");
    child.kill()?;
    child.wait()?;
    world.node.run("nft flush ruleset; iptables -t nat -F; iptables -t nat -X; true")?;
    Ok(figures)
}

/// One endpoint of another Service, a hundred times a second.
fn churn(world: &World, pid: u32, services: usize, endpoints: usize, probes: &[usize]) -> f64 {
    let before = processor(pid);
    let began = Instant::now();
    for change in 0..CHURN.0 * CHURN.1 {
        let number = (change as usize * 7919 + 1) % services;
        if !probes.contains(&number) {
            world.put_slice(number, endpoints, change + 1);
        }
        let due = Duration::from_secs(1) * (change + 1) / CHURN.0;
        thread::sleep(due.saturating_sub(began.elapsed()));
    }
    thread::sleep(Duration::from_millis(500));
    (processor(pid) - before) / began.elapsed().as_secs_f64() * 100.0
}

fn show(value: Option<f64>, unit: &str, limit: Duration) -> String {
    value.map_or(format!("> {} s", limit.as_secs()), |value| format!("{value:.2} {unit}"))
}

fn main() -> Result<()> {
    let options = Options::parse()?;
    println!("mode {}, {} changes for the median, churn {} changes/s", options.mode, CHANGES, CHURN.0);
    println!(
        "| Services x endpoints | program | first sync | change to packet | sync of a change | RSS, MB | peak RSS, MB | churn, % of a core |"
    );
    println!("|-|-|-|-|-|-|-|-|");
    for size in &options.sizes {
        let world = World::new()?;
        for number in 0..size.0 {
            world.put_service(number);
            world.put_slice(number, size.1, 0);
        }
        let mut all = Vec::new();
        for (name, program) in &options.programs {
            let figures = measure(&world, program, &options, *size)?;
            println!(
                "| {} x {} | {name} | {} | {} | {} | {:.1} | {:.1} | {:.1} |",
                size.0,
                size.1,
                show(figures.first_sync, "s", options.limit),
                show(figures.change, "ms", options.limit),
                show(figures.partial, "ms", options.limit),
                figures.rss,
                figures.peak,
                figures.churn
            );
            all.push(figures);
        }
        if let [ours, theirs] = all.as_slice() {
            let ratio = |ours: Option<f64>, theirs: Option<f64>| match (ours, theirs) {
                (Some(ours), Some(theirs)) if ours > 0.0 => format!("{:.1}", theirs / ours),
                _ => "-".to_owned(),
            };
            println!(
                "| {} x {} | upstream / ours | {} | {} | {} | {} | {} | {} |",
                size.0,
                size.1,
                ratio(ours.first_sync, theirs.first_sync),
                ratio(ours.change, theirs.change),
                ratio(ours.partial, theirs.partial),
                ratio(Some(ours.rss), Some(theirs.rss).filter(|rss| *rss > 0.0)),
                ratio(Some(ours.peak), Some(theirs.peak)),
                ratio(Some(ours.churn), Some(theirs.churn).filter(|churn| *churn > 0.0)),
            );
        }
        drop(world.pods.clone());
    }
    Ok(())
}
