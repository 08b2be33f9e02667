//! What writers are told about their objects though they are accepted; pods and networks have their own files.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::{
    checks,
    field::{Path, go_quote},
    names,
    pod::warnings::{outdated, template},
    quantity::Quantity,
    value::{at, int_at, is_set, list_at, same_at, str_at, strings_at},
};

const METADATA: Path<'static> = Path::root("metadata.annotations");
const STORAGE_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Names of owners become host names of pods.
pub(crate) fn name_is_a_label(obj: &Value) -> Option<String> {
    let complaints = names::dns1123_label(str_at(obj, "metadata.name"));
    let text = "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended";
    (!complaints.is_empty()).then(|| format!("{text}: [{}]", complaints.join(" ")))
}

/// Deployments, replica sets and replication controllers.
pub(crate) fn named_after(obj: &Value, old: Option<&Value>, field: &str) -> Vec<String> {
    let name = name_is_a_label(obj).filter(|_| old.is_none());
    name.into_iter().chain(template(obj, old, field)).collect()
}

/// Stateful sets.
pub(crate) fn stateful_set(obj: &Value, old: Option<&Value>, sub: Option<&str>) -> Vec<String> {
    if sub.is_some() {
        return Vec::new();
    }
    let mut out = template(obj, old, "spec.template");
    let root = Path::root("spec.volumeClaimTemplates");
    for (i, claim) in list_at(obj, "spec.volumeClaimTemplates").iter().enumerate() {
        let path = root.index(i);
        // Upstream's path differs for updates.
        let path = if old.is_some() { path.child("Spec") } else { path };
        claim_spec(at(claim, "spec").unwrap_or(&Value::Null), &path, &mut out);
    }
    if int_at(obj, "spec.revisionHistoryLimit").is_some_and(|limit| limit < 0) {
        let text = "a negative value retains all historical revisions; a value >= 0 is recommended";
        out.push(format!("spec.revisionHistoryLimit: {text}"));
    }
    out
}

/// Jobs, and the jobs of cron jobs at `field`.
pub(crate) fn job_spec(obj: &Value, old: Option<&Value>, field: &str) -> Vec<String> {
    let changed = old.is_none_or(|old| !same_at(obj, old, field));
    let spec = at(obj, field).unwrap_or(&Value::Null);
    let many = |name: &str, limit: i64| int_at(spec, name).unwrap_or_default() > limit;
    let mut out = Vec::new();
    if changed
        && str_at(spec, "completionMode") == "Indexed"
        && many("completions", 100_000)
        && many("parallelism", 10_000)
    {
        out.push(format!("{field}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"));
    }
    out.extend(template(obj, old, &format!("{field}.template")));
    out
}

/// Cron jobs.
pub(crate) fn cron_job(obj: &Value, old: Option<&Value>, sub: Option<&str>) -> Vec<String> {
    if sub.is_some() {
        return Vec::new();
    }
    let mut out: Vec<String> = name_is_a_label(obj).filter(|_| old.is_none()).into_iter().collect();
    out.extend(job_spec(obj, old, "spec.jobTemplate.spec"));
    if str_at(obj, "spec.schedule").contains("TZ") {
        out.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
    }
    out
}

fn claim_spec(spec: &Value, path: &Path<'_>, out: &mut Vec<String>) {
    for list in ["requests", "limits"] {
        let text = str_at(spec, &format!("resources.{list}.storage"));
        if let Some(amount) = Quantity::parse(text).filter(|amount| !amount.is_whole()) {
            let path = path.child("resources");
            let path = path.child(list);
            let amount = go_quote(&amount.canonical());
            out.push(format!("{}: fractional byte value {amount} is invalid, must be an integer", path.key("storage")));
        }
    }
}

/// PersistentVolumeClaims.
pub(crate) fn claim(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if checks::annotation(obj, STORAGE_CLASS).is_some() {
        let text = "deprecated since v1.8; use \"storageClassName\" attribute instead";
        out.push(format!("{}: {text}", METADATA.key(STORAGE_CLASS)));
    }
    claim_spec(at(obj, "spec").unwrap_or(&Value::Null), &Path::root("spec"), &mut out);
    out
}

/// PersistentVolumes.
pub(crate) fn volume(obj: &Value) -> Vec<String> {
    let annotations = [
        (STORAGE_CLASS, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
        ("volume.beta.kubernetes.io/mount-options", "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ];
    let mut out = Vec::new();
    for (key, text) in annotations.iter().filter(|(key, _)| checks::annotation(obj, key).is_some()) {
        out.push(format!("{}: {text}", METADATA.key(key)));
    }
    if str_at(obj, "spec.persistentVolumeReclaimPolicy") == "Recycle" {
        out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let root = Path::root("spec.nodeAffinity.required.nodeSelectorTerms");
    for (i, term) in list_at(obj, "spec.nodeAffinity.required.nodeSelectorTerms").iter().enumerate() {
        requirements(term, &root.index(i), &mut out);
    }
    let gone = [
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for (_, shown, text) in gone.iter().filter(|(field, ..)| at(obj, &format!("spec.{field}")).is_some()) {
        out.push(format!("spec.{shown}: {text}"));
    }
    out
}

/// Node labels with a newer name in the requirements of a selector.
fn requirements(selector: &Value, path: &Path<'_>, out: &mut Vec<String>) {
    let list = path.child("matchExpressions");
    for (i, requirement) in list_at(selector, "matchExpressions").iter().enumerate() {
        let key = str_at(requirement, "key");
        out.extend(outdated(key).map(|text| format!("{}: {key} is {text}", list.index(i).child("key"))));
    }
}

/// StorageClasses.
pub(crate) fn storage_class(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let root = Path::root("allowedTopologies");
    for (i, topology) in list_at(obj, "allowedTopologies").iter().enumerate() {
        let path = root.index(i);
        let list = path.child("matchLabelExpressions");
        for (j, expression) in list_at(topology, "matchLabelExpressions").iter().enumerate() {
            let text = outdated(str_at(expression, "key"));
            out.extend(text.map(|text| format!("{}: {text}", list.index(j).child("key"))));
        }
    }
    out
}

/// CSIStorageCapacities.
pub(crate) fn capacity(obj: &Value) -> Vec<String> {
    let path = Path::root("nodeTopology");
    let selector = at(obj, "nodeTopology").unwrap_or(&Value::Null);
    let mut out = Vec::new();
    requirements(selector, &path, &mut out);
    for (label, _) in strings_at(selector, "matchLabels") {
        out.extend(outdated(label).map(|text| format!("{}: {text}", path.child("matchLabels").child(label))));
    }
    out
}

/// CSIDrivers.
pub(crate) fn driver(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let news = old.is_none_or(|old| !same_at(obj, old, "spec.tokenRequests"));
    if news && is_set(obj, "spec.tokenRequests") && at(obj, "spec.serviceAccountTokenInSecrets").is_none() {
        return vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()];
    }
    Vec::new()
}

/// RuntimeClasses.
pub(crate) fn runtime_class(obj: &Value) -> Vec<String> {
    let labels = strings_at(obj, "scheduling.nodeSelector");
    labels.filter_map(|(key, _)| outdated(key)).map(|text| format!("scheduling.nodeSelector: {text}")).collect()
}

/// Secrets with a certificate and its key.
pub(crate) fn secret(obj: &Value) -> Vec<String> {
    if str_at(obj, "type") != "kubernetes.io/tls" {
        return Vec::new();
    }
    let part = |key: &str| {
        let text = at(obj, "data").and_then(|data| data.get(key)).and_then(Value::as_str);
        BASE64_STANDARD.decode(text.unwrap_or_default()).unwrap_or_default()
    };
    super::key_pairs::complaint(&part("tls.crt"), &part("tls.key")).into_iter().collect()
}

/// ServiceAccounts.
pub(crate) fn service_account(obj: &Value, old: Option<&Value>) -> Vec<String> {
    const KEY: &str = "kubernetes.io/enforce-mountable-secrets";
    let news = old.is_none_or(|old| checks::annotation(old, KEY).is_none());
    if news && checks::annotation(obj, KEY).is_some() {
        let text = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
        return vec![format!("{}: {text}", METADATA.key(KEY))];
    }
    Vec::new()
}

/// ResourceSlices.
pub(crate) fn slice(obj: &Value) -> Vec<String> {
    let driver = str_at(obj, "spec.driver");
    if driver == driver.to_lowercase() {
        return Vec::new();
    }
    let driver = go_quote(driver);
    vec![format!("spec.driver: driver names should be lowercase; {driver} contains uppercase characters")]
}
