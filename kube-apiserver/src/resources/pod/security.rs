//! Validation of security contexts.

use serde_json::Value;

use super::validate::{Scope, descending_path};
use crate::resources::{
    checks,
    field::{ErrorList, Path},
    value::{at, bool_at, int_at, list_at, str_at},
};

fn id(holder: &Value, field: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if let Some(id) = int_at(holder, field).filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errs.invalid(&path.child(field), id, "must be between 0 and 2147483647, inclusive");
    }
}

fn enumerated(holder: &Value, field: &str, supported: &[&str], path: &Path<'_>, errs: &mut ErrorList) {
    let value = str_at(holder, field);
    if at(holder, field).is_some() && !supported.contains(&value) {
        errs.not_supported(&path.child(field), value, supported);
    }
}

/// The security context of a whole pod.
pub(crate) fn pod(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let path = path.child("securityContext");
    if bool_at(spec, "shareProcessNamespace") && bool_at(spec, "hostPID") {
        errs.invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    let Some(context) = at(spec, "securityContext") else { return };
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(context, field, &path, errs);
    }
    for (i, group) in list_at(context, "supplementalGroups").iter().filter_map(Value::as_i64).enumerate() {
        if !(0..=i64::from(i32::MAX)).contains(&group) {
            errs.invalid(
                &path.child("supplementalGroups").index(i),
                group,
                "must be between 0 and 2147483647, inclusive",
            );
        }
    }
    sysctls(spec, context, &path.child("sysctls"), errs);
    enumerated(context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], &path, errs);
    seccomp(context, &path.child("seccompProfile"), errs);
    app_armor(context, &path.child("appArmorProfile"), errs);
    enumerated(context, "supplementalGroupsPolicy", &["Merge", "Strict"], &path, errs);
    enumerated(context, "seLinuxChangePolicy", &["MountOption", "Recursive"], &path, errs);
}

fn sysctls(spec: &Value, context: &Value, root: &Path<'_>, errs: &mut ErrorList) {
    let sysctls = list_at(context, "sysctls");
    let repeated = checks::repeats(sysctls, |item| str_at(item, "name"));
    for (i, sysctl) in sysctls.iter().enumerate() {
        let path = root.index(i);
        let name = str_at(sysctl, "name");
        if name.is_empty() {
            errs.required(&path.child("name"), "");
        } else if !is_sysctl_name(name) {
            errs.invalid(
                &path.child("name"),
                name,
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if repeated[i] {
            errs.duplicate(&path.child("name"), name);
        }
        let name = name.replace('/', ".");
        if bool_at(spec, "hostNetwork") && name.starts_with("net.") {
            errs.invalid(&path.child("name"), name.as_str(), "may not be specified when 'hostNetwork' is true");
        }
        if bool_at(spec, "hostIPC") && (name.starts_with("kernel.shm") || name.starts_with("fs.mqueue.")) {
            errs.invalid(&path.child("name"), name.as_str(), "may not be specified when 'hostIPC' is true");
        }
    }
}

/// Segments of lower-case letters, digits, '-' and '_', the last two only inside, joined by '.' or '/'.
fn is_sysctl_name(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let segment = |part: &str| {
        let bytes = part.as_bytes();
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| edge(Some(b)) || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn seccomp(context: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let Some(profile) = at(context, "seccompProfile") else { return };
    let local = at(profile, "localhostProfile").and_then(Value::as_str);
    match (str_at(profile, "type"), local) {
        ("", _) => errs.required(&path.child("type"), "type is required when seccompProfile is set"),
        ("Localhost", None) => {
            errs.required(&path.child("localhostProfile"), "must be set when seccomp type is Localhost");
        }
        ("Localhost", Some(file)) => descending_path(file, &path.child("localhostProfile"), errs),
        ("RuntimeDefault" | "Unconfined", Some(_)) => errs.invalid(
            &path.child("localhostProfile"),
            profile.clone(),
            "can only be set when seccomp type is Localhost",
        ),
        ("RuntimeDefault" | "Unconfined", None) => {}
        (other, _) => {
            errs.not_supported(&path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]);
        }
    }
}

fn app_armor(context: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let Some(profile) = at(context, "appArmorProfile") else { return };
    let local = at(profile, "localhostProfile").and_then(Value::as_str);
    match (str_at(profile, "type"), local) {
        ("", _) => errs.required(&path.child("type"), "type is required when appArmorProfile is set"),
        ("Localhost", None | Some("")) => {
            errs.required(&path.child("localhostProfile"), "must be set when AppArmor type is Localhost");
        }
        ("Localhost", Some(_)) => {}
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errs.invalid(&path.child("localhostProfile"), name, "can only be set when AppArmor type is Localhost");
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        (other, _) => {
            errs.not_supported(&path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]);
        }
    }
}

/// The security context of one container.
pub(crate) fn container(scope: &Scope<'_>, container: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let Some(context) = at(container, "securityContext") else { return };
    for field in ["runAsUser", "runAsGroup"] {
        id(context, field, path, errs);
    }
    enumerated(context, "procMount", &["Default", "Unmasked"], path, errs);
    if scope.host_users() && str_at(context, "procMount") == "Unmasked" {
        errs.invalid(&path.child("procMount"), "Unmasked", "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(context, &path.child("seccompProfile"), errs);
    if at(context, "allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        if bool_at(context, "privileged") {
            errs.invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        if list_at(context, "capabilities.add").iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            errs.invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    app_armor(context, &path.child("appArmorProfile"), errs);
}

/// A pod with its own user namespace cannot share other namespaces of the host.
pub(crate) fn host_users(scope: &Scope<'_>, path: &Path<'_>, errs: &mut ErrorList) {
    if scope.host_users() {
        return;
    }
    let detail = "when `hostUsers` is false";
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if bool_at(scope.spec, field) {
            errs.forbidden(&path.child(shown), detail);
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let root = path.child(list);
        for (i, container) in list_at(scope.spec, list).iter().enumerate() {
            if !list_at(container, "volumeDevices").is_empty() {
                errs.forbidden(&root.index(i).child("volumeDevices"), detail);
            }
        }
    }
}
