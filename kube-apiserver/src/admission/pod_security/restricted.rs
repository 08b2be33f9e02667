//! The restricted level: current practice of hardening, asked for explicitly.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    baseline::{self, bad_seccomp},
    checks::{Finding, Pod, containers, found, plural, quoted, setters},
};
use crate::resources::value::{at, bool_at, int_at, list_at, str_at};

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

pub(super) fn privilege_escalation(pod: &Pod<'_>) -> Finding {
    let path = "securityContext.allowPrivilegeEscalation";
    let names = pod.containers_that(|c| at(c, path).is_none() || bool_at(c, path));
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    found("allowPrivilegeEscalation != false", detail)
}

pub(super) fn capabilities(pod: &Pod<'_>) -> Finding {
    let extra = |container: &Value| -> Vec<String> {
        let added = list_at(container, "securityContext.capabilities.add").iter().filter_map(Value::as_str);
        added.filter(|c| *c != "NET_BIND_SERVICE").map(str::to_owned).collect()
    };
    let keeping = pod.containers_that(|c| !list_at(c, "securityContext.capabilities.drop").iter().any(|d| d == "ALL"));
    let adding = pod.containers_that(|c| !extra(c).is_empty());
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if !adding.is_empty() {
        let all: BTreeSet<String> = pod.containers.iter().flat_map(|c| extra(c)).collect();
        let (who, what) = (containers(&adding), quoted(all));
        details.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    if details.is_empty() { None } else { found("unrestricted capabilities", details.join("; ")) }
}

pub(super) fn volumes(pod: &Pod<'_>) -> Finding {
    let kind = |volume: &Value| {
        let mut kinds = volume.as_object().into_iter().flatten().filter(|(k, v)| *k != "name" && !v.is_null());
        kinds.next().map_or_else(|| "unknown".to_owned(), |(kind, _)| kind.clone())
    };
    let allowed = |volume: &Value| VOLUMES.iter().any(|kind| at(volume, kind).is_some());
    let bad: Vec<&Value> = list_at(pod.spec, "volumes").iter().filter(|v| !allowed(v)).collect();
    if bad.is_empty() {
        return None;
    }
    let kinds: BTreeSet<String> = bad.iter().map(|v| kind(v)).collect();
    let names: Vec<&str> = bad.iter().map(|v| str_at(v, "name")).collect();
    let what = plural("restricted volume type", "restricted volume types", kinds.len());
    let (volumes, uses) = (plural("volume", "volumes", names.len()), plural("uses", "use", names.len()));
    found("restricted volume types", format!("{volumes} {} {uses} {what} {}", quoted(&names), quoted(kinds)))
}

pub(super) fn non_root(pod: &Pod<'_>) -> Finding {
    let path = "securityContext.runAsNonRoot";
    let refuses = |holder: &Value| at(holder, path).is_some() && !bool_at(holder, path);
    if let Some(who) = setters(refuses(pod.spec), &pod.containers_that(refuses)) {
        return found("runAsNonRoot != true", format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = pod.containers_that(|c| at(c, path).is_none());
    if silent.is_empty() || bool_at(pod.spec, path) {
        return None;
    }
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent));
    found("runAsNonRoot != true", detail)
}

pub(super) fn run_as_user(pod: &Pod<'_>) -> Finding {
    let root = |holder: &Value| int_at(holder, "securityContext.runAsUser") == Some(0);
    let who = setters(root(pod.spec), &pod.containers_that(root))?;
    found("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub(super) fn seccomp(pod: &Pod<'_>) -> Finding {
    if let Some(finding) = baseline::seccomp(pod) {
        return Some(finding);
    }
    let path = "securityContext.seccompProfile";
    let silent = pod.containers_that(|c| at(c, path).is_none());
    let by_pod = at(pod.spec, path).is_some() && bad_seccomp(pod.spec).is_none();
    if silent.is_empty() || by_pod {
        return None;
    }
    let who = containers(&silent);
    let detail =
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"");
    found("seccompProfile", detail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::policy::{Level, LevelVersion, evaluate};
    use super::*;

    fn findings(level: Level, version: Option<u32>, spec: Value) -> String {
        evaluate(LevelVersion { level, version }, &json!({"spec": spec})).detail()
    }

    #[test]
    fn a_plain_pod_is_baseline_but_not_restricted() {
        let plain = json!({"containers": [{"name": "c", "image": "i"}]});
        assert_eq!(findings(Level::Baseline, None, plain.clone()), "");
        assert_eq!(
            findings(Level::Restricted, None, plain),
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
    }

    #[test]
    fn a_hardened_pod_is_restricted() {
        let spec = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
        assert_eq!(findings(Level::Restricted, None, spec), "");
    }

    #[test]
    fn baseline_names_what_leads_to_the_host() {
        let spec = json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "kernel.msgmax"}]},
            "volumes": [{"name": "h", "hostPath": {"path": "/"}}],
            "containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 443}], "securityContext": {"privileged": true, "capabilities": {"add": ["NET_ADMIN"]}}},
                {"name": "b", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}, "securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}}]});
        assert_eq!(
            findings(Level::Baseline, None, spec.clone()),
            "non-default capabilities (container \"a\" must not include \"NET_ADMIN\" in securityContext.capabilities.add), \
             host namespaces (hostNetwork=true), hostPath volumes (volume \"h\"), \
             hostPort (container \"a\" uses hostPorts 443, 80), \
             probe or lifecycle host (container \"b\" uses probe or lifecycle host \"10.0.0.1\"), \
             privileged (container \"a\" must not set securityContext.privileged=true), \
             seLinuxOptions (container \"b\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set), \
             forbidden sysctls (kernel.msgmax)"
        );
        assert!(!findings(Level::Baseline, Some(33), spec).contains("probe or lifecycle"));
    }

    #[test]
    fn restricted_forms_replace_baseline_ones() {
        let spec =
            json!({"volumes": [{"name": "h", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {}}], "containers": []});
        assert_eq!(
            findings(Level::Restricted, None, spec),
            "restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \"nfs\")"
        );
    }
}
