//! Cgroups of the node's pods: `<root>/kubepods[/burstable|/besteffort]/pod<uid>`, on cgroup v1 (each hierarchy) and v2.
//! The runtime puts containers below; limits of pods and QoS classes are ours.

mod files;
mod fs;
mod limits;

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::node::machine;
use crate::runtime::resources::Qos;
pub(crate) use files::page_size;
use fs::Hierarchies;
pub(crate) use fs::Version;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use fs::parse_mounts;
pub(crate) use limits::Limits;

/// A failed cgroup operation.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}: {source}")]
pub struct CgroupError {
    operation: &'static str,
    path: String,
    #[source]
    source: std::io::Error,
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// We and the runtime, in the file system.
    Cgroupfs,
    /// The runtime through systemd; we name slices.
    Systemd,
}

/// The cgroups that pods live in.
pub(crate) struct Cgroups {
    driver: Driver,
    /// Parts below the mount, e.g. `["n1"]`.
    root: Vec<String>,
    per_qos: bool,
    pids_limit: i64,
    period_us: i64,
    cfs_quota: bool,
    /// Bytes of each size of huge pages that the kernel has.
    page_sizes: Vec<i64>,
    hierarchies: Hierarchies,
}

impl Cgroups {
    /// Finds the mounted hierarchies.
    pub(crate) fn detect(file: &crate::config::KubeletConfiguration) -> Result<Self, CgroupError> {
        Ok(Self {
            driver: if file.cgroup_driver == "systemd" { Driver::Systemd } else { Driver::Cgroupfs },
            root: file.cgroup_root.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
            per_qos: file.cgroups_per_qos,
            pids_limit: file.pod_pids_limit,
            period_us: i64::try_from(file.cpu_cfs_quota_period.0.as_micros()).unwrap_or(100_000),
            cfs_quota: file.cpu_cfs_quota,
            page_sizes: machine::huge_pages(Path::new("/sys/kernel/mm/hugepages"))
                .into_iter()
                .map(|(size, _)| size)
                .collect(),
            hierarchies: Hierarchies::detect()?,
        })
    }

    /// Version in use.
    pub(crate) fn version(&self) -> Version {
        self.hierarchies.version()
    }

    /// The root exists (the operator makes it; upstream refuses to start without).
    pub(crate) fn check_root(&self) -> Result<(), String> {
        if self.root.is_empty() || self.driver == Driver::Systemd || self.hierarchies.exists(&self.root) {
            return Ok(());
        }
        Err(format!("invalid configuration: cgroup-root [\"{}\"] doesn't exist", self.root.join("\" \"")))
    }

    fn parts(&self, qos: Option<Qos>, uid: Option<&str>) -> Vec<String> {
        let mut parts = self.root.clone();
        parts.push("kubepods".into());
        match qos {
            Some(Qos::Burstable) => parts.push("burstable".into()),
            Some(Qos::BestEffort) => parts.push("besteffort".into()),
            Some(Qos::Guaranteed) | None => {}
        }
        if let Some(uid) = uid {
            parts.push(format!("pod{uid}"));
        }
        parts
    }

    /// What the runtime is told as the parent of a pod's containers; empty when pods have no cgroups of their own.
    pub(crate) fn parent_of(&self, uid: &str, qos: Qos) -> String {
        if !self.per_qos {
            return if self.root.is_empty() { String::new() } else { format!("/{}", self.root.join("/")) };
        }
        format!("/{}", self.pod_parts(uid, qos).join("/"))
    }

    /// Path below each hierarchy, for statistics.
    pub(crate) fn pod_parts(&self, uid: &str, qos: Qos) -> Vec<String> {
        self.physical(self.parts(Some(qos), Some(uid)))
    }

    /// Path of the cgroup of all pods.
    pub(crate) fn pods_parts(&self) -> Vec<String> {
        self.physical(self.parts(None, None))
    }

    /// systemd nests `a-b-c.slice` as `a.slice/a-b.slice/a-b-c.slice`.
    fn physical(&self, parts: Vec<String>) -> Vec<String> {
        match self.driver {
            Driver::Cgroupfs => parts,
            Driver::Systemd => (1..=parts.len()).map(|length| slice(&parts[..length])).collect(),
        }
    }

    /// Makes the cgroups of all pods and of the QoS classes.
    pub(crate) fn ensure_node(&self, limits: &Limits) -> Result<(), CgroupError> {
        if !self.per_qos {
            return Ok(());
        }
        self.ensure(self.parts(None, None), limits)?;
        // What a class may take of huge pages is bounded by its pods.
        let class =
            Limits { huge_pages: self.page_sizes.iter().map(|size| (*size, None)).collect(), ..Limits::default() };
        let least = Limits { cpu_shares: Some(2), ..class.clone() };
        self.ensure(self.parts(Some(Qos::BestEffort), None), &least)?;
        self.ensure(self.parts(Some(Qos::Burstable), None), &class)
    }

    /// Limits a cgroup that the operator made for something else than pods.
    pub(crate) fn limit_reserved(&self, cgroup: &str, limits: &Limits) -> Result<(), CgroupError> {
        let parts = cgroup.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let parts = self.physical(parts);
        if !self.hierarchies.exists(&parts) {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(CgroupError { operation: "find", path: cgroup.to_owned(), source });
        }
        self.hierarchies.apply(&parts, limits)
    }

    /// Shares of the burstable class: what its pods ask for together.
    pub(crate) fn set_burstable_shares(&self, shares: i64) -> Result<(), CgroupError> {
        if !self.per_qos {
            return Ok(());
        }
        self.ensure(self.parts(Some(Qos::Burstable), None), &Limits { cpu_shares: Some(shares), ..Limits::default() })
    }

    /// Makes a pod's cgroup and sets its limits: while it is resized, the wider of those `before` and now. `no_quota`: the pod has
    /// CPUs for itself.
    pub(crate) fn ensure_pod(
        &self,
        pod: &Pod,
        before: Option<&Pod>,
        qos: Qos,
        no_quota: bool,
    ) -> Result<(), CgroupError> {
        let (true, Some(spec), Some(uid)) = (self.per_qos, &pod.spec, &pod.metadata.uid) else { return Ok(()) };
        let of = |spec| limits::pod(spec, qos, self.period_us, self.cfs_quota && !no_quota, &self.page_sizes);
        let mut limits = of(spec);
        if let Some(before) = before.and_then(|before| before.spec.as_ref()) {
            limits = limits.or_wider(&of(before));
        }
        limits.pids = (self.pids_limit > 0).then_some(self.pids_limit);
        self.ensure(self.parts(Some(qos), Some(uid)), &limits)
    }

    fn ensure(&self, parts: Vec<String>, limits: &Limits) -> Result<(), CgroupError> {
        let parts = self.physical(parts);
        if self.driver == Driver::Systemd && !self.hierarchies.exists(&parts) {
            // systemd makes the slice with the first container in it.
            return Ok(());
        }
        self.hierarchies.create(&parts)?;
        self.hierarchies.apply(&parts, limits)
    }

    /// Removes a pod's cgroup; kills what is still in it.
    pub(crate) fn remove_pod(&self, uid: &str) -> Result<(), CgroupError> {
        if !self.per_qos || self.driver == Driver::Systemd {
            return Ok(());
        }
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            self.hierarchies.remove(&self.parts(Some(qos), Some(uid)))?;
        }
        Ok(())
    }

    /// UIDs of pods that have a cgroup.
    pub(crate) fn pods(&self) -> Vec<String> {
        let mut uids = Vec::new();
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let children = self.hierarchies.children(&self.parts(Some(qos), None));
            uids.extend(children.iter().filter_map(|name| name.strip_prefix("pod").map(str::to_owned)));
        }
        uids.sort();
        uids.dedup();
        uids
    }

    /// A file of a controller in a cgroup.
    pub(crate) fn file(&self, controller: &str, parts: &[String], file: &str) -> Option<PathBuf> {
        self.hierarchies.path(controller, parts).map(|path| path.join(file))
    }
}

fn slice(parts: &[String]) -> String {
    let escaped: Vec<String> = parts.iter().map(|part| part.replace('-', "_")).collect();
    format!("{}.slice", escaped.join("-"))
}

#[cfg(test)]
mod tests;
