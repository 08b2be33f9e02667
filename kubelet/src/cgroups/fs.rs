//! The cgroup file systems. On v1 a cgroup is made in every mounted hierarchy, so that nothing the runtime makes below
//! it is left behind when the pod goes; on v2 controllers are switched on down the path.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{CgroupError, Limits};

/// Which cgroup interface the node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Separate hierarchies (hybrid counts as this).
    V1,
    /// Unified.
    V2,
}

pub(super) struct Hierarchies {
    version: Version,
    /// Mount of each hierarchy on v1; the one mount on v2.
    mounts: Vec<PathBuf>,
    /// Controller -> mount.
    controllers: BTreeMap<String, PathBuf>,
    /// The v2 mount beside v1 hierarchies: runtimes make cgroups there too, which must go with the pod.
    hybrid: Option<PathBuf>,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CgroupError {
    let path = path.display().to_string();
    move |source| CgroupError { operation, path, source }
}

impl Hierarchies {
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { version: Version::V2, mounts: Vec::new(), controllers: BTreeMap::new(), hybrid: None }
    }

    pub(super) fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mounts");
        let mounts = std::fs::read_to_string(path).map_err(failed("read", path))?;
        Ok(parse(&mounts))
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn path(&self, controller: &str, parts: &[String]) -> Option<PathBuf> {
        let mount = self.controllers.get(controller).or(match self.version {
            Version::V2 => self.mounts.first(),
            Version::V1 => None,
        })?;
        Some(below(mount, parts))
    }

    pub(super) fn exists(&self, parts: &[String]) -> bool {
        self.mounts.iter().all(|mount| below(mount, parts).is_dir())
    }

    pub(super) fn create(&self, parts: &[String]) -> Result<(), CgroupError> {
        for mount in &self.mounts {
            let mut path = mount.clone();
            for part in parts {
                if self.version == Version::V2 {
                    enable_controllers(&path);
                }
                path.push(part);
                match std::fs::create_dir(&path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(failed("mkdir", &path)(error)),
                }
                if self.controllers.get("cpuset") == Some(mount) && self.version == Version::V1 {
                    inherit_cpuset(&path)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn apply(&self, parts: &[String], limits: &Limits) -> Result<(), CgroupError> {
        let write = |controller: &str, file: &str, value: String| match self.path(controller, parts) {
            Some(path) if path.join(file).exists() => write(&path.join(file), &value),
            _ => Ok(()),
        };
        match self.version {
            Version::V1 => {
                if let Some(shares) = limits.cpu_shares {
                    write("cpu", "cpu.shares", shares.to_string())?;
                }
                if let Some((quota, period)) = limits.cpu_quota {
                    write("cpu", "cpu.cfs_period_us", period.to_string())?;
                    write("cpu", "cpu.cfs_quota_us", if quota <= 0 { "-1".into() } else { quota.to_string() })?;
                }
                if let Some(memory) = limits.memory.filter(|memory| *memory > 0) {
                    write("memory", "memory.limit_in_bytes", memory.to_string())?;
                }
            }
            Version::V2 => {
                if let Some(shares) = limits.cpu_shares {
                    write("cpu", "cpu.weight", weight(shares).to_string())?;
                }
                if let Some((quota, period)) = limits.cpu_quota {
                    let quota = if quota <= 0 { "max".into() } else { quota.to_string() };
                    write("cpu", "cpu.max", format!("{quota} {period}"))?;
                }
                if let Some(memory) = limits.memory.filter(|memory| *memory > 0) {
                    write("memory", "memory.max", memory.to_string())?;
                }
            }
        }
        match limits.pids {
            Some(pids) => write("pids", "pids.max", pids.to_string()),
            None => Ok(()),
        }
    }

    pub(super) fn children(&self, parts: &[String]) -> Vec<String> {
        let directories = self.mounts.iter().filter_map(|mount| std::fs::read_dir(below(mount, parts)).ok());
        let entries = directories.flatten().flatten().filter(|entry| entry.path().is_dir());
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    pub(super) fn remove(&self, parts: &[String]) -> Result<(), CgroupError> {
        self.mounts.iter().chain(&self.hybrid).try_for_each(|mount| remove_tree(&below(mount, parts)))
    }
}

fn below(mount: &Path, parts: &[String]) -> PathBuf {
    parts.iter().fold(mount.to_path_buf(), |path, part| path.join(part))
}

fn parse(mounts: &str) -> Hierarchies {
    let mut v1 = Vec::new();
    let mut controllers = BTreeMap::new();
    let mut v2 = None;
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, mount, kind, options, ..] = fields[..] else { continue };
        match kind {
            "cgroup2" => v2 = v2.or(Some(PathBuf::from(mount))),
            "cgroup" => {
                let mount = PathBuf::from(mount);
                for option in options.split(',') {
                    controllers.entry(option.to_owned()).or_insert_with(|| mount.clone());
                }
                if !v1.contains(&mount) {
                    v1.push(mount);
                }
            }
            _ => {}
        }
    }
    match v2 {
        Some(mount) if v1.is_empty() => {
            Hierarchies { version: Version::V2, mounts: vec![mount], controllers: BTreeMap::new(), hybrid: None }
        }
        hybrid => Hierarchies { version: Version::V1, mounts: v1, controllers, hybrid },
    }
}

/// `cpu.weight` for v1 shares: the quadratic mapping of current runtimes (1024 shares = weight 100).
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "2..=262144 and 1..=10000 are exact")]
fn weight(shares: i64) -> i64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as i64
}

fn enable_controllers(path: &Path) {
    let available = std::fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        // A controller that is in use elsewhere or threaded cannot be switched on; limits are then skipped.
        let _ = std::fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// A v1 cpuset takes no tasks before it has CPUs and memory nodes.
fn inherit_cpuset(path: &Path) -> Result<(), CgroupError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = path.join(file);
        if std::fs::read_to_string(&own).is_ok_and(|text| text.trim().is_empty()) {
            let of_parent = std::fs::read_to_string(parent.join(file)).map_err(failed("read", parent))?;
            write(&own, of_parent.trim())?;
        }
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    std::fs::write(path, value).map_err(failed("write", path))
}

fn remove_tree(path: &Path) -> Result<(), CgroupError> {
    let Ok(entries) = std::fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path())?;
    }
    for pid in std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Ok(pid) = pid.parse() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
    match std::fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("rmdir", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_counts_as_v1() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = parse(mounts);
        assert_eq!(found.version, Version::V1);
        assert_eq!(found.mounts.len(), 2);
        let parts = ["n1".to_owned()];
        assert_eq!(found.path("cpu", &parts), Some(PathBuf::from("/sys/fs/cgroup/cpu/n1")));
        assert_eq!(found.path("memory", &parts), None);
        assert_eq!(parse("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0").version, Version::V2);
    }

    #[test]
    fn weights() {
        for (shares, want) in [(2, 1), (1024, 100), (262_144, 10_000)] {
            assert_eq!(weight(shares), want);
        }
    }
}
