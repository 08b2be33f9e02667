//! The table of checks, what they look at and how their findings read.

use serde_json::Value;

use super::{baseline, policy::Level, restricted};
use crate::resources::value::{at, bool_at, list_at, str_at};

/// A finding: why in short, and what exactly.
pub(super) struct Violation {
    pub reason: String,
    pub detail: String,
}

/// All findings about a pod, in the order of the checks.
#[derive(Default)]
pub(super) struct Violations(Vec<Violation>);

impl Violations {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The reasons alone.
    pub(super) fn reason(&self) -> String {
        self.0.iter().map(|v| v.reason.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The reasons with details in parentheses.
    pub(super) fn detail(&self) -> String {
        let parts = self.0.iter().map(|v| match v.detail.is_empty() {
            true => v.reason.clone(),
            false => format!("{} ({})", v.reason, v.detail),
        });
        parts.collect::<Vec<_>>().join(", ")
    }
}

impl FromIterator<Violation> for Violations {
    fn from_iter<T: IntoIterator<Item = Violation>>(iter: T) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// What a check answers.
pub(super) type Finding = Option<Violation>;
type Run = fn(&Pod<'_>) -> Finding;

/// One check of the standards.
pub(super) struct Check {
    pub id: &'static str,
    pub level: Level,
    /// First minor version of each form.
    versions: &'static [(u32, Run)],
    /// Baseline checks that this one is a stricter form of.
    pub overrides: &'static [&'static str],
}

impl Check {
    /// The form of a minor version.
    pub(super) fn at(&self, minor: u32) -> Option<Run> {
        self.versions.iter().rev().find(|(first, _)| *first <= minor).map(|(_, run)| *run)
    }
}

const fn baseline(id: &'static str, versions: &'static [(u32, Run)]) -> Check {
    Check { id, level: Level::Baseline, versions, overrides: &[] }
}

const fn restricted(id: &'static str, versions: &'static [(u32, Run)], overrides: &'static [&'static str]) -> Check {
    Check { id, level: Level::Restricted, versions, overrides }
}

/// In upstream's order: baseline before restricted, by name.
pub(super) const CHECKS: &[Check] = &[
    baseline("appArmorProfile", &[(0, baseline::app_armor)]),
    baseline("capabilities_baseline", &[(0, baseline::capabilities)]),
    baseline("hostNamespaces", &[(0, baseline::host_namespaces)]),
    baseline("hostPathVolumes", &[(0, baseline::host_path)]),
    baseline("hostPorts", &[(0, baseline::host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, baseline::probe_hosts)]),
    baseline("privileged", &[(0, baseline::privileged)]),
    baseline("procMount", &[(0, baseline::proc_mount), (35, baseline::proc_mount_outside_user_namespaces)]),
    baseline("seLinuxOptions", &[(0, |pod| baseline::se_linux(pod, 3)), (31, |pod| baseline::se_linux(pod, 4))]),
    baseline("seccompProfile_baseline", &[(0, baseline::seccomp_annotations), (19, baseline::seccomp)]),
    baseline(
        "sysctls",
        &[
            (0, |pod| baseline::sysctls(pod, 5)),
            (27, |pod| baseline::sysctls(pod, 6)),
            (29, |pod| baseline::sysctls(pod, 10)),
            (32, |pod| baseline::sysctls(pod, 12)),
        ],
    ),
    baseline("windowsHostProcess", &[(0, baseline::host_process)]),
    restricted(
        "allowPrivilegeEscalation",
        &[(8, restricted::privilege_escalation), (25, |pod| pod.not_windows(restricted::privilege_escalation))],
        &[],
    ),
    restricted(
        "capabilities_restricted",
        &[(22, restricted::capabilities), (25, |pod| pod.not_windows(restricted::capabilities))],
        &["capabilities_baseline"],
    ),
    restricted("procMount_restricted", &[(35, baseline::proc_mount)], &["procMount"]),
    restricted("restrictedVolumes", &[(0, restricted::volumes)], &["hostPathVolumes"]),
    restricted("runAsNonRoot", &[(0, restricted::non_root), (35, |pod| pod.in_host_users(restricted::non_root))], &[]),
    restricted(
        "runAsUser",
        &[(23, restricted::run_as_user), (35, |pod| pod.in_host_users(restricted::run_as_user))],
        &[],
    ),
    restricted(
        "seccompProfile_restricted",
        &[(19, restricted::seccomp), (25, |pod| pod.not_windows(restricted::seccomp))],
        &["seccompProfile_baseline"],
    ),
];

/// A pod or a template as the checks see it.
pub(super) struct Pod<'a> {
    whole: &'a Value,
    pub spec: &'a Value,
    /// All containers: initial, regular, ephemeral.
    pub containers: Vec<&'a Value>,
}

impl<'a> Pod<'a> {
    pub(super) fn of(whole: &'a Value) -> Self {
        let spec = at(whole, "spec").unwrap_or(&Value::Null);
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        Self { whole, spec, containers: lists.iter().flat_map(|list| list_at(spec, list)).collect() }
    }

    /// The annotations.
    pub(super) fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        crate::resources::value::strings_at(self.whole, "metadata.annotations")
    }

    /// The names of containers for which something holds.
    pub(super) fn containers_that(&self, holds: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|c| holds(c)).map(|c| str_at(c, "name")).collect()
    }

    /// Windows pods are exempt: validation refuses there what this check would ask for.
    fn not_windows(&self, check: Run) -> Finding {
        if str_at(self.spec, "os.name") == "windows" { None } else { check(self) }
    }

    /// Pods in a user namespace are exempt: their root is nobody on the host.
    pub(super) fn in_host_users(&self, check: Run) -> Finding {
        let own_users = at(self.spec, "hostUsers").is_some() && !bool_at(self.spec, "hostUsers");
        if own_users { None } else { check(self) }
    }
}

/// A finding with both texts.
pub(super) fn found(reason: impl Into<String>, detail: impl Into<String>) -> Finding {
    Some(Violation { reason: reason.into(), detail: detail.into() })
}

/// One form for one, another for several.
pub(super) fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `"a", "b"`.
pub(super) fn quoted(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod`, `pod and container "a"` or just the containers; nothing when neither.
pub(super) fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".to_owned()),
        (true, false) => Some(format!("pod and {}", containers(names))),
        (false, false) => Some(containers(names)),
    }
}
