//! The cgroup file systems. On v1 a cgroup is made in every mounted hierarchy, so that nothing the runtime makes below
//! it is left behind when the pod goes; on v2 controllers are switched on down the path.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{CgroupError, Limits, files};

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
    /// A v2 hierarchy at any place.
    #[cfg(test)]
    pub(super) fn unified(mount: &Path) -> Self {
        Self { version: Version::V2, mounts: vec![mount.to_owned()], controllers: BTreeMap::new(), hybrid: None }
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

    /// Writes limits. A file that the kernel does not offer is skipped: its controller is not there.
    pub(super) fn apply(&self, parts: &[String], limits: &Limits) -> Result<(), CgroupError> {
        for (controller, file, value) in files::of(self.version, limits) {
            if let Some(path) = self.path(controller, parts).map(|path| path.join(&file)).filter(|path| path.exists()) {
                write(&path, &value)?;
            }
        }
        Ok(())
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

/// Reads a table of mounts.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn parse_mounts(mounts: &str) {
    let _ = parse(mounts);
}

/// Hands all controllers down, at once or, where one of them refuses (in use elsewhere, threaded), one by one.
fn enable_controllers(path: &Path) {
    let available = std::fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
    let wanted: Vec<String> = available.split_whitespace().map(|controller| format!("+{controller}")).collect();
    let control = path.join("cgroup.subtree_control");
    if wanted.is_empty() || std::fs::write(&control, wanted.join(" ")).is_ok() {
        return;
    }
    for controller in wanted {
        let _ = std::fs::write(&control, controller);
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
}
