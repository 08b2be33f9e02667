//! Rules that look at a pod as a whole: its resources against those of its containers, Windows host processes, files of variables.

use serde_json::Value;

use super::validate::Scope;
use crate::resources::{
    amounts::{self, Quantity},
    field::{ErrorList, Path},
    value::{at, bool_at, list_at, str_at, strings_at},
};

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Annotations that mean something to the server.
pub(crate) fn annotations(pod: &Value, errs: &mut ErrorList) {
    let path = Path::root("metadata.annotations");
    for (key, value) in strings_at(pod, "metadata.annotations") {
        match key {
            MIRROR if str_at(pod, "spec.nodeName").is_empty() => {
                errs.invalid(&path.key(key), value, "must set spec.nodeName if mirror pod annotation is set");
            }
            DELETION_COST if !is_cost(value) => errs.invalid(&path.key(key), value, "must be a 32bit integer"),
            _ => {}
        }
    }
}

/// A 32-bit number as one writes it: no plus sign, no leading zeros.
fn is_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    text.parse::<i32>().is_ok() && !digits.starts_with('+') && (digits == "0" || !digits.starts_with('0'))
}

/// `spec.resources` against the sums of the containers.
pub(crate) fn resources(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let path = path.child("resources");
    let whole = |list: &str| amounts::amounts(spec, &format!("resources.{list}"));
    let (requests, limits) = (whole("requests"), whole("limits"));
    let mut containers = serde_json::json!({"spec": spec});
    if let Some(spec) = containers["spec"].as_object_mut() {
        spec.remove("resources");
    }
    let above = |asked: &Quantity, given: Option<&Quantity>| given.filter(|given| asked > *given).copied();
    for (name, sum) in amounts::pod_requests(&containers, amounts::Count::Spec) {
        if let Some(given) = above(&sum, requests.get(&name)) {
            let text = format!("must be greater than or equal to aggregate container requests of {sum}");
            errs.invalid(&path.child("requests").key(&name), given.to_string(), text);
        }
    }
    for (name, sum) in amounts::pod_limits(&containers, amounts::Count::Spec) {
        if let Some(given) = above(&sum, limits.get(&name)).filter(|_| name.starts_with("hugepages-")) {
            let text = format!("must be greater than or equal to aggregate container limits of {sum}");
            errs.invalid(&path.child("limits").key(&name), given.to_string(), text);
        }
    }
    for (i, container) in list_at(spec, "containers").iter().enumerate() {
        for (name, limit) in amounts::amounts(container, "resources.limits") {
            if let Some(given) = above(&limit, limits.get(&name)) {
                let list = path.child("containers");
                let path = list.index(i);
                let text = format!("must be less than or equal to pod limits of {given}");
                errs.invalid(&path.key(&name).child("limits"), limit.to_string(), text);
            }
        }
    }
}

/// Host processes on Windows: all containers or none, and on the host's network.
pub(crate) fn host_process(scope: &Scope<'_>, path: &Path<'_>, errs: &mut ErrorList) {
    let field = "securityContext.windowsOptions.hostProcess";
    let of = |holder: &Value| at(holder, field).and_then(Value::as_bool);
    let by_pod = of(scope.spec);
    let (mut all, mut host) = (0, 0);
    for list in LISTS {
        let root = path.child(list);
        for (i, container) in list_at(scope.spec, list).iter().enumerate() {
            let own = of(container);
            all += 1;
            host += usize::from(own.or(by_pod).unwrap_or_default());
            if let (Some(pod), Some(own)) = (by_pod, own)
                && pod != own
            {
                let text = format!("pod hostProcess value must be identical if both are specified, was {pod}");
                errs.invalid(&root.index(i).child(field), own, text);
            }
        }
    }
    if host == 0 {
        return;
    }
    if host != all {
        let text = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errs.invalid(path, "", text);
    }
    if !bool_at(scope.spec, "hostNetwork") {
        let text = "hostNetwork must be true if pod contains any hostProcess containers";
        errs.invalid(&path.child("hostNetwork"), false, text);
    }
}

/// Variables from files read them from `emptyDir` volumes.
pub(crate) fn file_keys(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let volume = |name: &str| list_at(spec, "volumes").iter().find(|v| str_at(v, "name") == name);
    for list in LISTS {
        let root = path.child(list);
        for (i, container) in list_at(spec, list).iter().enumerate() {
            for (j, variable) in list_at(container, "env").iter().enumerate() {
                let Some(file) = at(variable, "valueFrom.fileKeyRef") else { continue };
                let name = str_at(file, "volumeName");
                let env = root.index(i);
                let env = env.child("env");
                let path = env.index(j);
                let path = path.child("valueFrom.fileKeyRef.volumeName");
                match volume(name) {
                    None => errs.not_found(&path, name),
                    Some(volume) if at(volume, "emptyDir").is_none() => {
                        errs.invalid(&path, name, "referenced volume must be of type emptyDir");
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(check: impl Fn(&mut ErrorList)) -> Vec<String> {
        let mut errs = ErrorList::new();
        check(&mut errs);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pod_covers_its_containers() {
        let spec = json!({"resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}, "containers": [
            {"resources": {"requests": {"cpu": "800m"}, "limits": {"memory": "2Gi"}}}, {"resources": {"requests": {"cpu": "800m"}}}]});
        assert_eq!(
            texts(|errs| resources(&spec, &Path::root("spec"), errs)),
            [
                "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 1600m",
                "spec.resources.containers[0][memory].limits: Invalid value: \"2Gi\": must be less than or equal to pod limits of 1Gi",
            ]
        );
    }

    #[test]
    fn annotations_and_files() {
        let pod = json!({"metadata": {"annotations": {MIRROR: "x", DELETION_COST: "+1"}}, "spec": {}});
        assert_eq!(texts(|errs| annotations(&pod, errs)).len(), 2);
        assert!(is_cost("-5") && is_cost("0") && !is_cost("007") && !is_cost("") && !is_cost("3000000000"));
        let spec = json!({"volumes": [{"name": "v", "secret": {}}], "containers": [{"env": [{"valueFrom": {"fileKeyRef": {"volumeName": "v"}}}]}]});
        assert_eq!(
            texts(|errs| file_keys(&spec, &Path::root("spec"), errs)),
            [
                "spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Invalid value: \"v\": referenced volume must be of type emptyDir"
            ]
        );
    }

    #[test]
    fn host_processes_come_together() {
        let spec = json!({"containers": [{"securityContext": {"windowsOptions": {"hostProcess": true}}}, {}]});
        let got = texts(|errs| host_process(&Scope::new(&spec, None), &Path::root("spec"), errs));
        assert_eq!(got.len(), 2);
        assert!(got[1].starts_with("spec.hostNetwork: Invalid value: false: "));
    }
}
