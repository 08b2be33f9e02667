//! The processes: etcd for the whole run, the servers one after the other, and what /proc tells about them.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use e2e::{
    Layout, Proc,
    pki::{Authority, service_account_keys},
    spawn,
};

use super::{
    client::{Ask, Endpoint},
    load::JSON,
};

const READY_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// A server to be measured.
pub struct Program {
    pub path: PathBuf,
    pub embedded: bool,
}

/// etcd, certificates and files of a run.
pub struct Bench {
    layout: Layout,
    etcd: Proc,
    etcd_url: String,
    hertz: f64,
}

/// A server that is ready.
pub struct Running {
    pub endpoint: Endpoint,
    pub started: Instant,
    pub ready_after: Duration,
    pub usage: Usage,
    pub etcd: Usage,
    process: Proc,
}

impl Bench {
    /// Makes certificates and starts an empty etcd. What an earlier run has left is removed.
    pub fn prepare(state: &Path, etcd: &Path) -> Result<Self> {
        if state.exists() {
            std::fs::remove_dir_all(state).with_context(|| format!("removing {}", state.display()))?;
        }
        let layout = Layout::new(state);
        let authority = Authority::create(&layout, "ca", "bench")?;
        authority.serving("server", "kube-apiserver", None, &["127.0.0.1", "localhost"])?;
        authority.client("admin", "admin", Some("system:masters"))?;
        service_account_keys(&layout)?;
        let (client, peer) = (url(free_port()?), url(free_port()?));
        let line = [
            etcd.display().to_string(),
            "--name=bench".to_owned(),
            format!("--data-dir={}", layout.data("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=bench={peer}"),
            "--quota-backend-bytes=4294967296".to_owned(),
        ];
        let etcd = spawn(&line, &BTreeMap::new(), &layout.log("etcd")).context("starting etcd")?;
        let hertz = e2e::run(&["getconf", "CLK_TCK"])?.trim().parse().context("CLK_TCK")?;
        Ok(Self { layout, etcd, etcd_url: client, hertz })
    }

    /// Starts a server and waits until it is ready.
    pub async fn start(&self, program: &Program) -> Result<Running> {
        let port = free_port()?;
        let pki = |file: &str| self.layout.pki(file).display().to_string();
        let mut line = vec![
            program.path.display().to_string(),
            "--bind-address=127.0.0.1".to_owned(),
            // From the block for documentation: nobody is called there.
            "--advertise-address=192.0.2.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={port}"),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--tls-cert-file={}", pki("server.crt")),
            format!("--tls-private-key-file={}", pki("server.key")),
            format!("--service-account-key-file={}", pki("sa.pub")),
            format!("--service-account-signing-key-file={}", pki("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            // No controller manager makes service accounts here.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        line.push(match program.embedded {
            true => format!("--data-dir={}", self.layout.data("embedded").display()),
            false => format!("--etcd-servers={}", self.etcd_url),
        });
        let endpoint = Endpoint::new(&self.layout, SocketAddr::from(([127, 0, 0, 1], port)))?;
        let log = self.layout.log("kube-apiserver");
        let started = Instant::now();
        let process = spawn(&line, &BTreeMap::new(), &log)?;
        while !ready(&endpoint).await {
            if started.elapsed() > READY_LIMIT || !process.alive() {
                process.stop(Duration::from_secs(5))?;
                bail!("{} is not ready; see {}", program.path.display(), log.display());
            }
            tokio::time::sleep(POLL).await;
        }
        let ready_after = started.elapsed();
        let usage = |pid| Usage { pid, hertz: self.hertz };
        let (usage, etcd) = (usage(process.pid), usage(self.etcd.pid));
        Ok(Running { endpoint, started, ready_after, usage, etcd, process })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.etcd.stop(Duration::from_secs(10));
        // Data is large; logs are for who asks why.
        let _ = std::fs::remove_dir_all(self.layout.data(""));
    }
}

impl Running {
    /// Ends the server.
    pub fn stop(self) -> Result<()> {
        self.process.stop(Duration::from_secs(30))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.stop(Duration::from_secs(5));
    }
}

async fn ready(endpoint: &Endpoint) -> bool {
    let Ok(mut connection) = endpoint.connect().await else { return false };
    connection.size(Ask::get("/readyz", JSON)).await.is_ok()
}

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pid: i32,
    hertz: f64,
}

impl Usage {
    /// Seconds of processor time so far, all threads.
    pub fn processor(self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        // User and system time are fields 14 and 15; the name before was fields 1 and 2.
        fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / self.hertz
    }

    /// Megabytes resident.
    pub fn rss(self) -> f64 {
        self.memory("VmRSS:")
    }

    /// Megabytes that were resident at most since [`Self::reset_peak`].
    pub fn peak(self) -> f64 {
        self.memory("VmHWM:")
    }

    /// Forgets the peak so far.
    pub fn reset_peak(self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5")?)
    }

    fn memory(self, line: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let value = status.lines().find_map(|found| found.strip_prefix(line));
        let kilobytes = value.and_then(|value| value.split_whitespace().next()?.parse::<f64>().ok());
        kilobytes.map_or(f64::NAN, |kilobytes| kilobytes / 1024.0)
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
