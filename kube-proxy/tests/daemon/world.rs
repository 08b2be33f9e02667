//! One node with two pods, a remote pod of another node and a client outside of the cluster; a kube-proxy on the node.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use neighbour::{Api, Machine, Reply};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// For what must succeed; generous, since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for an answer of which there is none.
pub const SILENCE: Duration = Duration::from_millis(700);
const API_PORT: u16 = 8001;
/// Pods listen here.
pub const TARGET: u16 = 8080;
/// A Service that tells when everything said before is in the rules.
const MARKER: u16 = 9999;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    fn pick<'a>(self, v4: &'a str, v6: &'a str) -> &'a str {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }

    pub fn ip(self, v4: &str, v6: &str) -> IpAddr {
        self.pick(v4, v6).parse().unwrap()
    }

    /// A cluster IP with this number.
    pub fn service(self, number: u8) -> IpAddr {
        self.ip(&format!("10.96.0.{number}"), &format!("fd00:96::{number:x}"))
    }

    pub fn pod(self, number: u8) -> IpAddr {
        self.ip(&format!("10.244.0.{number}"), &format!("fd00:244::{number:x}"))
    }

    pub fn remote(self) -> IpAddr {
        self.ip("10.244.1.5", "fd00:244:1::5")
    }

    /// The node, as the client sees it.
    pub fn node(self) -> IpAddr {
        self.ip("192.168.50.2", "fd00:50::2")
    }

    /// Another address of the node.
    pub fn node_other(self) -> IpAddr {
        self.ip("192.168.50.3", "fd00:50::3")
    }

    pub fn client(self) -> IpAddr {
        self.ip("192.168.50.9", "fd00:50::9")
    }

    /// An address that the client routes to the node.
    pub fn outside(self, number: u8) -> IpAddr {
        self.ip(&format!("203.0.113.{number}"), &format!("fd00:203::{number:x}"))
    }
}

/// Everything.
pub struct World {
    pub api: Api,
    pub node: Machine,
    pub pod1: Machine,
    pub pod2: Machine,
    _remote: Machine,
    pub client: Machine,
    proxy: Option<Child>,
    flags: Vec<String>,
    pub program: std::ffi::OsString,
    pub mode: &'static str,
    _runtime: tokio::runtime::Runtime,
}

/// A proxy's program: ours, or upstream's.
fn program() -> String {
    std::env::var("CORTEN_UPSTREAM_KUBE_PROXY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_kube-proxy-tested").into())
}

/// Whether the program under test is upstream's.
pub fn is_upstream() -> bool {
    std::env::var_os("CORTEN_UPSTREAM_KUBE_PROXY").is_some()
}

/// Whether this machine lets tests make namespaces; CI does.
pub fn allowed() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "these tests need root, and CI has it");
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

impl World {
    /// A node with this mode and further flags.
    pub fn new(mode: &'static str, flags: &[&str]) -> Self {
        let [node, pod1, pod2, remote, client] = std::array::from_fn(|_| Machine::new().unwrap());
        node.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0")
            .unwrap();
        for (machine, name, v4, v6) in [
            (&pod1, "pod1", "10.244.0.5", "fd00:244::5"),
            (&pod2, "pod2", "10.244.0.6", "fd00:244::6"),
            // Another node's: only EndpointSlices say so.
            (&remote, "remote", "10.244.1.5", "fd00:244:1::5"),
        ] {
            link(&node, machine, name);
            machine.run(&format!("ip addr add {v4}/32 dev eth0; ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1 dev eth0; ip -6 addr add {v6}/128 dev eth0 nodad; ip -6 route add fd00:169::1 dev eth0; ip -6 route add default via fd00:169::1 dev eth0")).unwrap();
            node.run(&format!("ip addr add 169.254.1.1/32 dev {name}; ip route add {v4}/32 dev {name}; ip -6 addr add fd00:169::1/128 dev {name} nodad; ip -6 route add {v6}/128 dev {name}")).unwrap();
        }
        link(&node, &client, "outside");
        client.run("ip addr add 192.168.50.9/24 dev eth0; ip route add default via 192.168.50.2; ip -6 addr add fd00:50::9/64 dev eth0 nodad; ip -6 route add default via fd00:50::2").unwrap();
        node.run("ip addr add 192.168.50.2/24 dev outside; ip addr add 192.168.50.3/24 dev outside; ip -6 addr add fd00:50::2/64 dev outside nodad; ip -6 addr add fd00:50::3/64 dev outside nodad").unwrap();
        // A packet that no rule translated must leave the node to be forwarded, and be seen to come to nothing.
        node.run("ip route add default via 192.168.50.9; ip -6 route add default via fd00:50::9").unwrap();
        pod1.serve("pod1", TARGET).unwrap();
        pod2.serve("pod2", TARGET).unwrap();
        remote.serve("remote", TARGET).unwrap();

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let api = Api::default();
        let listener = node.listen(SocketAddr::from(([127, 0, 0, 1], API_PORT))).unwrap();
        listener.set_nonblocking(true).unwrap();
        runtime.block_on(async {
            api.serve(tokio::net::TcpListener::from_std(listener).unwrap(), CancellationToken::new());
        });
        api.put(json!({"kind": "Node", "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "east"}},
            "spec": {"podCIDRs": ["10.244.0.0/24", "fd00:244::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.2"}, {"type": "InternalIP", "address": "fd00:50::2"}]}}));
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut world = Self {
            api,
            node,
            pod1,
            pod2,
            _remote: remote,
            client,
            proxy: None,
            flags,
            program: program().into(),
            mode,
            _runtime: runtime,
        };
        world.start();
        for family in FAMILIES {
            world.put_marker(family);
            world.settle(family);
        }
        world
    }

    /// Starts the proxy.
    pub fn start(&mut self) {
        let log = tempfile::Builder::new().prefix("kube-proxy-test-").suffix(".log").tempfile().unwrap();
        let (file, path) = log.keep().unwrap();
        let mut command = self.node.command(&self.program.to_string_lossy());
        command.args([
            "--hostname-override=n1",
            &format!("--master=http://127.0.0.1:{API_PORT}"),
            &format!("--proxy-mode={}", self.mode),
            "--kube-api-content-type=application/json",
            "--iptables-min-sync-period=50ms",
            "--iptables-sync-period=2s",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]);
        if !self.flags.iter().any(|flag| flag.contains("detect-local-mode")) {
            command.arg("--cluster-cidr=10.244.0.0/16,fd00:244::/48");
        }
        if !self.flags.iter().any(|flag| flag.contains("nodeport-addresses")) {
            command.arg("--nodeport-addresses=0.0.0.0/0,::/0");
        }
        command.args(&self.flags).stdout(Stdio::null()).stderr(file);
        self.proxy = Some(command.spawn().unwrap());
        eprintln!("kube-proxy --proxy-mode={} writes to {}", self.mode, path.display());
    }

    /// Ends the proxy; its rules stay.
    pub fn stop(&mut self) {
        if let Some(mut proxy) = self.proxy.take() {
            let _ = proxy.kill();
            let _ = proxy.wait();
        }
    }

    /// Runs the program once with these flags in the node's namespace.
    pub fn run_once(&self, flags: &[&str]) -> std::process::ExitStatus {
        self.node
            .command(&self.program.to_string_lossy())
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
    }

    fn put_marker(&self, family: Family) {
        let name = if family == Family::V4 { "marker4" } else { "marker6" };
        self.put(family, name, 250, json!({"ports": [{"name": "p", "port": MARKER, "protocol": "TCP"}]}));
        self.put_endpoints(family, name, &[Endpoint::local(family.pod(5))]);
    }

    /// Waits until the proxy has written everything that was put before: what is put last is written last.
    pub fn settle(&self, family: Family) {
        static NUMBER: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(10_000);
        let port = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = if family == Family::V4 { "marker4" } else { "marker6" };
        // Endpoints come on another watch: the name of their port says that both have arrived.
        let port_name = format!("p{port}");
        self.put(family, name, 250, json!({"ports": [{"name": port_name, "port": port, "protocol": "TCP"}]}));
        self.put_slice(family, name, &[Endpoint::local(family.pod(5))], &[(&port_name, "TCP")]);
        let to = SocketAddr::new(family.service(250), port);
        self.eventually(&format!("the marker at {to}"), || self.node.ask(to, SILENCE).is_ok());
        std::thread::sleep(Duration::from_millis(250));
    }

    /// Waits for a condition.
    pub fn eventually(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < end, "waited in vain for {what}\n{}", self.rules());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All rules of the node, for a person who reads a failure.
    pub fn rules(&self) -> String {
        let line = if self.mode == "nftables" { "nft list ruleset" } else { "iptables-save; ip6tables-save" };
        self.node.run(line).unwrap_or_default()
    }

    /// A Service `name` with the cluster IP of this number; `spec` has the rest. A `status` in it becomes its status.
    pub fn put(&self, family: Family, name: &str, number: u8, spec: Value) {
        let ip = family.service(number).to_string();
        let mut service =
            json!({"kind": "Service", "metadata": {"name": name, "namespace": "test"}, "spec": {"type": "ClusterIP"}});
        for (field, value) in spec.as_object().unwrap() {
            if field == "status" { service["status"] = value.clone() } else { service["spec"][field] = value.clone() }
        }
        // As the API server's defaults: upstream's proxy counts on them.
        for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
            if port.get("protocol").is_none() {
                port["protocol"] = "TCP".into();
            }
        }
        service["spec"]["clusterIP"] = ip.clone().into();
        service["spec"]["clusterIPs"] = json!([ip]);
        service["spec"]["ipFamilies"] = json!([family.pick("IPv4", "IPv6")]);
        self.api.put(service);
    }

    /// The endpoints of a Service: port `p` (TCP) and `u` (UDP).
    pub fn put_endpoints(&self, family: Family, name: &str, endpoints: &[Endpoint]) {
        self.put_slice(family, name, endpoints, &[("p", "TCP"), ("u", "UDP")]);
    }

    fn put_slice(&self, family: Family, name: &str, endpoints: &[Endpoint], ports: &[(&str, &str)]) {
        let port = |(name, protocol): &(&str, &str)| json!({"name": name, "port": TARGET, "protocol": protocol});
        let ports: Vec<Value> = ports.iter().map(port).collect();
        let list: Vec<Value> = endpoints.iter().map(|endpoint| endpoint.0.clone()).collect();
        self.api.put(json!({"kind": "EndpointSlice", "addressType": family.pick("IPv4", "IPv6"),
            "metadata": {"name": format!("{name}-1"), "namespace": "test", "labels": {"kubernetes.io/service-name": name}},
            "endpoints": list,
            "ports": ports}));
    }

    /// A Service with endpoints, which is in the rules when this returns. It has port 80 in TCP and UDP.
    pub fn service(&self, family: Family, name: &str, number: u8, spec: Value, endpoints: &[Endpoint]) -> SocketAddr {
        let mut spec = spec;
        if spec.get("ports").is_none() {
            spec["ports"] =
                json!([{"name": "p", "port": 80, "protocol": "TCP"}, {"name": "u", "port": 80, "protocol": "UDP"}]);
        }
        self.put(family, name, number, spec);
        self.put_endpoints(family, name, endpoints);
        self.settle(family);
        SocketAddr::new(family.service(number), 80)
    }

    /// Removes a Service and its endpoints.
    pub fn remove(&self, name: &str) {
        self.api.delete("Service", "test", name);
        self.api.delete("EndpointSlice", "test", &format!("{name}-1"));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A cable between a machine and the node, where its end has this name; at the other machine it is eth0.
fn link(node: &Machine, machine: &Machine, name: &str) {
    // Made in the node, one end moves away: no name is ever taken in the namespace where tests run.
    node.run(&format!("ip link add {name} type veth peer name eth0 netns {}; ip link set {name} up", machine.path()))
        .unwrap();
    machine.run("ip link set eth0 up").unwrap();
}

/// An endpoint as EndpointSlices say it.
#[derive(Clone)]
pub struct Endpoint(pub Value);

impl Endpoint {
    pub fn local(ip: IpAddr) -> Self {
        Self(json!({"addresses": [ip.to_string()], "nodeName": "n1", "conditions": {"ready": true, "serving": true}}))
    }

    pub fn remote(ip: IpAddr) -> Self {
        Self(json!({"addresses": [ip.to_string()], "nodeName": "n2", "conditions": {"ready": true, "serving": true}}))
    }

    pub fn terminating(mut self) -> Self {
        self.0["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
        self
    }

    pub fn hints(mut self, hints: Value) -> Self {
        self.0["hints"] = hints;
        self
    }
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Who answered, and whom it saw.
    Answer(String, IpAddr),
    /// The sender was told that nobody is there.
    Refused,
    Silence,
}

/// Asks once over TCP.
pub fn ask(from: &Machine, to: SocketAddr) -> Outcome {
    outcome(from.ask(to, SILENCE * 3))
}

/// Asks once over UDP.
pub fn ask_udp(from: &Machine, to: SocketAddr) -> Outcome {
    outcome(from.ask_udp(to, 0, SILENCE))
}

fn outcome(result: io::Result<Reply>) -> Outcome {
    match result {
        Ok(reply) => Outcome::Answer(reply.server, reply.client),
        Err(error) => match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Outcome::Silence,
            _ => Outcome::Refused,
        },
    }
}

/// All servers that answer in `count` tries.
pub fn servers(from: &Machine, to: SocketAddr, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        let Outcome::Answer(name, _) = ask(from, to) else { panic!("no answer from {to}") };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort();
    names
}

/// The answer of an HTTP server at this address of the node, asked from a machine: code and body.
pub fn http(from: &Machine, to: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = from.connect(to, SILENCE * 5)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok((code, text.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned())))
}
