//! The baseline level: nothing that is known to lead out of the container.

use std::collections::BTreeSet;

use common::meta::sysctls;
use serde_json::Value;

use super::checks::{Finding, Pod, containers, found, plural, quoted, setters};
use crate::resources::{
    field::go_quote,
    value::{at, bool_at, int_at, list_at, str_at},
};

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// In the order in which releases added them.
/// In the order in which releases added them.
const SELINUX_TYPES: [&str; 4] = ["container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_ANNOTATION: &str = "container.seccomp.security.alpha.kubernetes.io/";

pub(super) fn app_armor(pod: &Pod<'_>) -> Finding {
    let profile = |holder: &Value| at(holder, "securityContext.appArmorProfile").map(|p| str_at(p, "type").to_owned());
    let bad = |holder: &Value| profile(holder).filter(|kind| !matches!(kind.as_str(), "RuntimeDefault" | "Localhost"));
    let names = pod.containers_that(|c| bad(c).is_some());
    let types: BTreeSet<String> = pod.containers.iter().copied().chain([pod.spec]).filter_map(bad).collect();
    let mut values: Vec<String> = types.into_iter().collect();
    let mut notes: Vec<String> = pod
        .annotations()
        .filter(|(key, value)| {
            key.starts_with(APP_ARMOR_ANNOTATION)
                && !(value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/"))
        })
        .map(|(key, value)| format!("{key}={}", go_quote(value)))
        .collect();
    notes.sort();
    let mut who: Vec<String> = setters(bad(pod.spec).is_some(), &names).into_iter().collect();
    if !notes.is_empty() {
        who.push(plural("annotation", "annotations", notes.len()).to_owned());
    }
    values.extend(notes);
    if who.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    found(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(values)))
}

pub(super) fn capabilities(pod: &Pod<'_>) -> Finding {
    let extra = |container: &Value| -> Vec<String> {
        let added = list_at(container, "securityContext.capabilities.add").iter().filter_map(Value::as_str);
        added.filter(|c| !DEFAULT_CAPABILITIES.contains(c)).map(str::to_owned).collect()
    };
    let names = pod.containers_that(|c| !extra(c).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = pod.containers.iter().flat_map(|c| extra(c)).collect();
    let detail = format!("{} must not include {} in securityContext.capabilities.add", containers(&names), quoted(all));
    found("non-default capabilities", detail)
}

pub(super) fn host_namespaces(pod: &Pod<'_>) -> Finding {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| bool_at(pod.spec, field))
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() { None } else { found("host namespaces", shared.join(", ")) }
}

pub(super) fn host_path(pod: &Pod<'_>) -> Finding {
    let volumes = list_at(pod.spec, "volumes").iter().filter(|v| at(v, "hostPath").is_some());
    let names: Vec<&str> = volumes.map(|v| str_at(v, "name")).collect();
    if names.is_empty() {
        return None;
    }
    found("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(names)))
}

pub(super) fn host_ports(pod: &Pod<'_>) -> Finding {
    let ports = |container: &Value| -> Vec<String> {
        let numbers = list_at(container, "ports").iter().filter_map(|p| int_at(p, "hostPort"));
        numbers.filter(|n| *n != 0).map(|n| n.to_string()).collect()
    };
    let names = pod.containers_that(|c| !ports(c).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = pod.containers.iter().flat_map(|c| ports(c)).collect();
    let (uses, what) = (plural("uses", "use", names.len()), plural("hostPort", "hostPorts", all.len()));
    let all: Vec<String> = all.into_iter().collect();
    found("hostPort", format!("{} {uses} {what} {}", containers(&names), all.join(", ")))
}

pub(super) fn probe_hosts(pod: &Pod<'_>) -> Finding {
    const HANDLERS: [&str; 5] =
        ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop"];
    let hosts = |container: &Value| -> Vec<String> {
        let actions =
            HANDLERS.iter().flat_map(|handler| ["httpGet", "tcpSocket"].map(|a| format!("{handler}.{a}.host")));
        actions.map(|path| str_at(container, &path).to_owned()).filter(|host| !host.is_empty()).collect()
    };
    let mut names = pod.containers_that(|c| !hosts(c).is_empty());
    if names.is_empty() {
        return None;
    }
    names.sort_unstable();
    let all: BTreeSet<String> = pod.containers.iter().flat_map(|c| hosts(c)).collect();
    let uses = plural("uses", "use", names.len());
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", all.len());
    found("probe or lifecycle host", format!("{} {uses} {what} {}", containers(&names), quoted(all)))
}

pub(super) fn privileged(pod: &Pod<'_>) -> Finding {
    let names = pod.containers_that(|c| bool_at(c, "securityContext.privileged"));
    if names.is_empty() {
        return None;
    }
    found("privileged", format!("{} must not set securityContext.privileged=true", containers(&names)))
}

pub(super) fn proc_mount(pod: &Pod<'_>) -> Finding {
    let kind = |container: &Value| {
        let kind = at(container, "securityContext.procMount").and_then(Value::as_str);
        kind.filter(|kind| *kind != "Default").map(str::to_owned)
    };
    let names = pod.containers_that(|c| kind(c).is_some());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = pod.containers.iter().filter_map(|c| kind(c)).collect();
    let detail = format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(all));
    found("procMount", detail)
}

pub(super) fn proc_mount_outside_user_namespaces(pod: &Pod<'_>) -> Finding {
    pod.in_host_users(proc_mount)
}

/// `known`: how many of the types the version allows.
pub(super) fn se_linux(pod: &Pod<'_>, known: usize) -> Finding {
    let options = |holder: &Value| at(holder, "securityContext.seLinuxOptions").cloned();
    let kind = |holder: &Value| {
        let kind = options(holder).map(|o| str_at(&o, "type").to_owned()).unwrap_or_default();
        Some(kind).filter(|kind| !kind.is_empty() && !SELINUX_TYPES[..known].contains(&kind.as_str()))
    };
    let has = |holder: &Value, field: &str| options(holder).is_some_and(|o| !str_at(&o, field).is_empty());
    let bad = |holder: &Value| kind(holder).is_some() || has(holder, "user") || has(holder, "role");
    let who = setters(bad(pod.spec), &pod.containers_that(bad))?;
    let holders = || pod.containers.iter().copied().chain([pod.spec]);
    let types: BTreeSet<String> = holders().filter_map(kind).collect();
    let mut parts = Vec::new();
    if !types.is_empty() {
        parts.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    for field in ["user", "role"] {
        if holders().any(|holder| has(holder, field)) {
            parts.push(format!("{field} may not be set"));
        }
    }
    found("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", parts.join("; ")))
}

pub(super) fn seccomp_annotations(pod: &Pod<'_>) -> Finding {
    let is_ours = |key: &str| {
        key == SECCOMP_POD_ANNOTATION
            || key
                .strip_prefix(SECCOMP_ANNOTATION)
                .is_some_and(|n| pod.containers.iter().any(|c| str_at(c, "name") == n))
    };
    let fine = |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let bad = pod.annotations().filter(|(key, value)| is_ours(key) && !fine(value));
    let bad: BTreeSet<String> = bad.map(|(key, value)| format!("{key}={}", go_quote(value))).collect();
    if bad.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", bad.len());
    found("seccompProfile", format!("forbidden {what} {}", bad.into_iter().collect::<Vec<_>>().join(", ")))
}

/// The seccomp type of a pod or container, when it is one that no level allows.
pub(super) fn bad_seccomp(holder: &Value) -> Option<String> {
    let kind = str_at(at(holder, "securityContext.seccompProfile")?, "type");
    (!matches!(kind, "RuntimeDefault" | "Localhost")).then(|| kind.to_owned())
}

pub(super) fn seccomp(pod: &Pod<'_>) -> Finding {
    let who = setters(bad_seccomp(pod.spec).is_some(), &pod.containers_that(|c| bad_seccomp(c).is_some()))?;
    let all: BTreeSet<String> = pod.containers.iter().copied().chain([pod.spec]).filter_map(bad_seccomp).collect();
    found("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(all)))
}

/// `known`: how many of the sysctls the version allows.
pub(super) fn sysctls(pod: &Pod<'_>, known: usize) -> Finding {
    let names = list_at(pod.spec, "securityContext.sysctls").iter().map(|s| str_at(s, "name"));
    let bad: Vec<&str> = names.filter(|name| !sysctls::SAFE[..known].contains(name)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

pub(super) fn host_process(pod: &Pod<'_>) -> Finding {
    let set = |holder: &Value| bool_at(holder, "securityContext.windowsOptions.hostProcess");
    let who = setters(set(pod.spec), &pod.containers_that(set))?;
    found("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
