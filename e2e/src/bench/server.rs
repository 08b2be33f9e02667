//! The processes: etcd for the whole run, the servers one after the other, and what /proc tells about them.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::{
    JSON,
    client::{Ask, Endpoint},
};
use crate::{
    Layout, Proc,
    pki::{Authority, service_account_keys},
    spawn,
};

const READY_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// A server to be measured.
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it keeps its data itself, not in etcd.
    pub embedded: bool,
    /// Admission plugins that are off.
    pub without: &'static str,
}

/// etcd, certificates and files of a run.
pub struct Bench {
    /// Where its files are.
    pub layout: Layout,
    etcd: Option<(Proc, String)>,
    port: u16,
    hertz: f64,
}

/// A server that is ready.
pub struct Running {
    /// How to ask it.
    pub endpoint: Endpoint,
    /// When its process was started.
    pub started: Instant,
    /// How long it then took to be ready.
    pub ready_after: Duration,
    /// What it uses.
    pub usage: Usage,
    /// What etcd uses; without etcd, what the server does.
    pub etcd: Usage,
    process: Proc,
}

impl Bench {
    /// Makes certificates and a kubeconfig, `admin`, and starts an empty etcd, if one is given. What an earlier run has left is
    /// removed.
    pub fn prepare(state: &Path, etcd: Option<&Path>) -> Result<Self> {
        if state.exists() {
            std::fs::remove_dir_all(state).with_context(|| format!("removing {}", state.display()))?;
        }
        let layout = Layout::new(state);
        let authority = Authority::create(&layout, "ca", "bench")?;
        authority.serving("server", "kube-apiserver", None, &["127.0.0.1", "localhost"])?;
        authority.client("admin", "admin", Some("system:masters"))?;
        service_account_keys(&layout)?;
        let port = free_port()?;
        authority.kubeconfig("admin", "admin", Some("system:masters"), &format!("https://127.0.0.1:{port}"))?;
        let etcd = etcd.map(|path| start_etcd(&layout, path)).transpose()?;
        let hertz = crate::run(&["getconf", "CLK_TCK"])?.trim().parse().context("CLK_TCK")?;
        Ok(Self { layout, etcd, port, hertz })
    }

    /// What a process uses.
    pub fn usage(&self, process: Proc) -> Usage {
        Usage { pid: process.pid, hertz: self.hertz }
    }

    /// Starts a server and waits until it is ready.
    pub async fn start(&self, program: &Program) -> Result<Running> {
        let port = self.port;
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
            format!("--disable-admission-plugins={}", program.without),
        ];
        line.push(match &self.etcd {
            Some((_, url)) if !program.embedded => format!("--etcd-servers={url}"),
            _ => format!("--data-dir={}", self.layout.data("embedded").display()),
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
        let etcd = self.etcd.as_ref().map_or(process, |(etcd, _)| *etcd);
        let (usage, etcd) = (self.usage(process), self.usage(etcd));
        Ok(Running { endpoint, started, ready_after, usage, etcd, process })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some((etcd, _)) = &self.etcd {
            let _ = etcd.stop(Duration::from_secs(10));
        }
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

impl Running {
    /// Ends the server as a crash would.
    pub fn kill(self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        ensure!(self.process.wait(Duration::from_secs(10)), "the API server survived SIGKILL");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.stop(Duration::from_secs(5));
    }
}

/// An empty etcd and its URL.
fn start_etcd(layout: &Layout, etcd: &Path) -> Result<(Proc, String)> {
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
    Ok((spawn(&line, &BTreeMap::new(), &layout.log("etcd")).context("starting etcd")?, client))
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

/// A port of loopback that nobody listens on.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
