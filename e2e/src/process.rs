//! Processes by pid and start time, so that a reused pid is never mistaken for ours, and commands with readable failures.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// A process that stays the same one: pid plus start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proc {
    /// Process id in the root pid namespace.
    pub pid: i32,
    /// Field 22 of /proc/pid/stat, in clock ticks since boot.
    pub start_time: u64,
}

/// Start time of a live process; `None` for one that is gone or a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // A leader turns zombie before its last thread has let go of the process's files and ports.
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    if matches!(fields.first(), Some(&"Z" | &"X")) && threads() <= 1 {
        return None;
    }
    fields.get(19)?.parse().ok()
}

impl Proc {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<Self> {
        start_time(pid).map(|start_time| Self { pid, start_time })
    }

    /// Whether it still runs (a zombie does not).
    pub fn alive(self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Sends a signal, if the process still runs.
    pub fn signal(self, signal: Signal) -> Result<()> {
        if !self.alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("signalling process {}", self.pid)),
        }
    }

    /// Waits until it is gone.
    pub fn wait(self, limit: Duration) -> bool {
        wait_for(limit, || !self.alive())
    }

    /// SIGTERM, then SIGKILL after `grace`.
    pub fn stop(self, grace: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        if !self.wait(grace) {
            self.signal(Signal::SIGKILL)?;
            self.wait(Duration::from_secs(5));
        }
        Ok(())
    }
}

/// Polls `condition` until it holds or `limit` has passed.
pub fn wait_for(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
}

/// Runs a program to its end.
///
/// # Errors
/// With the command line and what it wrote to standard error, when it fails.
pub fn run<S: AsRef<str>>(argv: &[S]) -> Result<String> {
    let words: Vec<&str> = argv.iter().map(AsRef::as_ref).collect();
    let (program, arguments) = words.split_first().context("an empty command")?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        bail!("`{}` failed ({}): {}", words.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts a program that outlives us: own process group, both outputs appended to `log`.
pub fn spawn(argv: &[String], env: &BTreeMap<String, String>, log: &Path) -> Result<Proc> {
    if let Some(parent) = log.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let out = OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
    let (program, arguments) = argv.split_first().context("an empty command")?;
    let child = Command::new(program)
        .args(arguments)
        .envs(env)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let pid = i32::try_from(child.id())?;
    // Reap it while we live; init reaps it afterwards.
    std::thread::spawn(move || {
        let mut child = child;
        let _ = child.wait();
    });
    Proc::of(pid).with_context(|| format!("{program} ended at once; see {}", log.display()))
}

/// All processes whose namespace file `kind` (`mnt`, `net`) has this inode.
pub fn in_namespace(kind: &str, inode: u64) -> Vec<Proc> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| namespace_inode(*pid, kind) == Some(inode))
        .filter_map(Proc::of)
        .collect()
}

/// The inode of a process's namespace.
pub fn namespace_inode(pid: i32, kind: &str) -> Option<u64> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    link.to_str()?.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_until_it_is_reaped() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let process = spawn(&["sleep".into(), "60".into()], &BTreeMap::new(), log.path()).unwrap();
        assert!(process.alive());
        process.stop(Duration::from_secs(5)).unwrap();
        assert!(!process.alive());
    }

    #[test]
    fn a_reused_pid_is_not_ours() {
        let me = Proc::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.alive());
        assert!(!Proc { start_time: me.start_time + 1, ..me }.alive());
    }

    #[test]
    fn a_failed_command_tells_what_it_printed() {
        let error = run(&["sh", "-c", "echo broken >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("broken") && error.contains("exit status: 3"), "{error}");
    }
}
