//! Security contexts of pod and container, as the CRI takes them. Pure.

use std::path::Path;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{
    Container, PodSecurityContext, PodSpec, SELinuxOptions, SeccompProfile, SecurityContext,
};

const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Settings of the node that bear on security contexts.
pub(crate) struct SecurityDefaults<'a> {
    pub(crate) seccomp_default: bool,
    /// Where `Localhost` seccomp profiles are looked up.
    pub(crate) seccomp_root: &'a Path,
}

/// Namespaces of a pod; `target` joins an ephemeral container to another's processes.
pub(crate) fn namespaces(spec: &PodSpec, target: Option<&str>) -> cri::NamespaceOption {
    let node_or = |host: Option<bool>, other: cri::NamespaceMode| {
        (if host == Some(true) { cri::NamespaceMode::Node } else { other }) as i32
    };
    let share = spec.share_process_namespace == Some(true);
    let pid = if share { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Container };
    let mut options = cri::NamespaceOption {
        network: node_or(spec.host_network, cri::NamespaceMode::Pod),
        pid: node_or(spec.host_pid, pid),
        ipc: node_or(spec.host_ipc, cri::NamespaceMode::Pod),
        ..Default::default()
    };
    if let Some(target) = target.filter(|_| options.pid == cri::NamespaceMode::Container as i32) {
        options.pid = cri::NamespaceMode::Target as i32;
        options.target_id = target.to_owned();
    }
    options
}

fn selinux(options: &SELinuxOptions) -> cri::SeLinuxOption {
    let of = |value: &Option<String>| value.clone().unwrap_or_default();
    cri::SeLinuxOption {
        user: of(&options.user),
        role: of(&options.role),
        r#type: of(&options.type_),
        level: of(&options.level),
    }
}

fn seccomp(profile: Option<&SeccompProfile>, defaults: &SecurityDefaults<'_>) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (kind, localhost_ref) = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let name = profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default();
            (ProfileType::Localhost, defaults.seccomp_root.join(name).to_string_lossy().into_owned())
        }
        None if defaults.seccomp_default => (ProfileType::RuntimeDefault, String::new()),
        _ => (ProfileType::Unconfined, String::new()),
    };
    cri::SecurityProfile { profile_type: kind as i32, localhost_ref }
}

fn groups(pod: &PodSecurityContext) -> Vec<i64> {
    pod.fs_group.into_iter().chain(pod.supplemental_groups.iter().flatten().copied()).collect()
}

fn groups_policy(pod: &PodSecurityContext) -> i32 {
    match pod.supplemental_groups_policy.as_deref() {
        Some("Strict") => cri::SupplementalGroupsPolicy::Strict as i32,
        _ => cri::SupplementalGroupsPolicy::Merge as i32,
    }
}

/// The sandbox's security context.
pub(crate) fn sandbox(spec: &PodSpec, users: cri::UserNamespace) -> cri::LinuxSandboxSecurityContext {
    let pod = spec.security_context.clone().unwrap_or_default();
    let privileged = all_containers(spec)
        .any(|container| container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true)));
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(cri::NamespaceOption { userns_options: Some(users), ..namespaces(spec, None) }),
        selinux_options: pod.se_linux_options.as_ref().map(selinux),
        run_as_user: pod.run_as_user.map(|value| cri::Int64Value { value }),
        run_as_group: pod.run_as_group.map(|value| cri::Int64Value { value }),
        supplemental_groups: groups(&pod),
        supplemental_groups_policy: groups_policy(&pod),
        privileged,
        seccomp: Some(cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::RuntimeDefault as i32,
            localhost_ref: String::new(),
        }),
        ..Default::default()
    }
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// The user that the image asks for, and who decides when the spec does not.
pub(crate) struct ImageUser<'a> {
    pub(crate) uid: Option<i64>,
    pub(crate) name: &'a str,
}

/// A container's security context; what the container leaves open comes from the pod.
pub(crate) fn container(
    spec: &PodSpec,
    container: &Container,
    target: Option<&str>,
    defaults: &SecurityDefaults<'_>,
    users: cri::UserNamespace,
) -> cri::LinuxContainerSecurityContext {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| if unmasked { Vec::new() } else { paths.iter().map(|p| (*p).to_owned()).collect() };
    let user = own.run_as_user.or(pod.run_as_user);
    cri::LinuxContainerSecurityContext {
        capabilities: Some(capabilities(&own)),
        privileged,
        namespace_options: Some(cri::NamespaceOption { userns_options: Some(users), ..namespaces(spec, target) }),
        selinux_options: own.se_linux_options.as_ref().or(pod.se_linux_options.as_ref()).map(selinux),
        run_as_user: user.map(|value| cri::Int64Value { value }),
        run_as_group: own.run_as_group.or(pod.run_as_group).map(|value| cri::Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&pod),
        supplemental_groups_policy: groups_policy(&pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(MASKED_PATHS),
        readonly_paths: paths(READONLY_PATHS),
        seccomp: Some(seccomp(own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()), defaults)),
        ..Default::default()
    }
}

fn capabilities(own: &SecurityContext) -> cri::Capability {
    let capabilities = own.capabilities.clone().unwrap_or_default();
    cri::Capability {
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        ..Default::default()
    }
}

/// Refuses a container that must not run as root and would.
pub(crate) fn verify_non_root(
    spec: &PodSpec,
    container: &Container,
    image: &ImageUser<'_>,
    pod: &str,
) -> Result<(), String> {
    let of_pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    if own.run_as_non_root.or(of_pod.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let subject = format!("(pod: {pod:?}, container: {})", container.name);
    match (own.run_as_user.or(of_pod.run_as_user), image.uid, image.name) {
        (Some(0), _, _) => Err(format!("container's runAsUser breaks non-root policy {subject}")),
        (Some(_), _, _) => Ok(()),
        (None, Some(0), _) | (None, None, "") => {
            Err(format!("container has runAsNonRoot and image will run as root {subject}"))
        }
        (None, Some(_), _) => Ok(()),
        (None, None, name) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {subject}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_root_is_enforced() {
        let strict = |user| PodSpec {
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: user,
                ..Default::default()
            }),
            ..Default::default()
        };
        let container = Container { name: "c".into(), ..Default::default() };
        for (user, uid, name, ok) in [
            (None, Some(0), "", false),
            (None, Some(7), "", true),
            (None, None, "", false),
            (None, None, "app", false),
            (Some(0), Some(7), "", false),
            (Some(7), Some(0), "", true),
        ] {
            let verdict = verify_non_root(&strict(user), &container, &ImageUser { uid, name }, "p_ns(u)");
            assert_eq!(verdict.is_ok(), ok, "{user:?} {uid:?} {name:?}: {verdict:?}");
        }
    }

    #[test]
    fn host_namespaces_are_the_nodes() {
        let spec = PodSpec { host_network: Some(true), share_process_namespace: Some(true), ..Default::default() };
        let options = namespaces(&spec, None);
        assert_eq!(options.network, cri::NamespaceMode::Node as i32);
        assert_eq!(options.pid, cri::NamespaceMode::Pod as i32);
        assert_eq!(namespaces(&PodSpec::default(), Some("id")).pid, cri::NamespaceMode::Target as i32);
    }
}
