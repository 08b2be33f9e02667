//! ControllerRevisions: the templates that a StatefulSet or DaemonSet had, as patches that would restore them.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use super::hash;
use super::meta::MetaExt;
use super::owned::Owner;

/// The label of pods (and of DaemonSets' revisions) that names their revision.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";
/// The label of a StatefulSet's revision with the hash in its name.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// Longer names of owners are cut in the names of revisions.
const PREFIX: usize = 223;

/// The strategic merge patch that restores a template.
pub(crate) fn patch_of(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_else(|_| json!({}));
    drop_nulls(&mut template);
    if let Some(map) = template.as_object_mut() {
        map.insert("$patch".to_owned(), json!("replace"));
    }
    json!({"spec": {"template": template}})
}

fn drop_nulls(value: &mut Value) {
    common::meta::value::drop_nulls(value);
}

fn data(revision: &ControllerRevision) -> Option<&Value> {
    revision.data.as_ref().map(|d| &d.0)
}

/// The template that a revision keeps.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    serde_json::from_value(data(revision)?.get("spec")?.get("template")?.clone()).ok()
}

/// Does the revision keep what `patch` says? As upstream's semantic comparison: spelt-out and absent defaults are the same.
pub(crate) fn keeps(revision: &ControllerRevision, patch: &Value) -> bool {
    let Some(data) = data(revision) else { return false };
    if data == patch {
        return true;
    }
    let mut pair = [data.clone(), patch.clone()];
    pair.iter_mut().for_each(hash::prune);
    pair[0] == pair[1]
}

/// The JSON of Go's encoder: sorted keys, and the characters that HTML minds written as escapes.
fn go_json(value: &Value) -> String {
    let mut text = String::new();
    for character in value.to_string().chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => text.push(character),
        }
    }
    text
}

/// The hash in a revision's name, upstream's to the letter: FNV-1 over the patch's JSON and the count of collisions.
pub(crate) fn revision_hash(patch: &Value, collisions: i32) -> String {
    let bytes = go_json(patch).into_bytes().into_iter().chain(collisions.to_string().into_bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte));
    hash::safe_encode(&hash.to_string())
}

/// `owner-hash`, the owner's name cut where it is too long.
pub(crate) fn revision_name(owner: &str, hash: &str) -> String {
    format!("{}-{hash}", owner.get(..PREFIX).unwrap_or(owner))
}

/// A revision of the owner's template under the given name and number.
pub(crate) fn revision(
    owner: &impl Owner,
    labels: Option<BTreeMap<String, String>>,
    patch: Value,
    name: String,
    number: i64,
) -> ControllerRevision {
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: owner.meta().namespace.clone(),
            labels,
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![owner.reference()]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(patch)),
        revision: number,
    }
}

/// A StatefulSet's revision, named by the hash of its content.
pub(crate) fn hashed_revision(
    owner: &impl Owner,
    labels: Option<BTreeMap<String, String>>,
    patch: Value,
    number: i64,
    collisions: i32,
) -> ControllerRevision {
    let hash = revision_hash(&patch, collisions);
    let mut labels = labels.unwrap_or_default();
    let name = revision_name(owner.name_str(), &hash);
    labels.insert(HASH_LABEL.to_owned(), hash);
    revision(owner, Some(labels), patch, name, number)
}

/// Oldest first: by number, then age, then name.
pub(crate) fn by_age(a: &ControllerRevision, b: &ControllerRevision) -> Ordering {
    a.revision.cmp(&b.revision).then_with(|| a.created().cmp(&b.created())).then_with(|| a.name_str().cmp(b.name_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_upstreams() {
        assert_eq!(go_json(&json!({"b": "<&>", "a": 1})), r#"{"a":1,"b":"\u003c\u0026\u003e"}"#);
        // FNV-1 of "a" is 0x050c5d7e: 84696446.
        let fnv = |text: &str| text.bytes().fold(0x811c_9dc5_u32, |h, b| h.wrapping_mul(0x0100_0193) ^ u32::from(b));
        assert_eq!(fnv("a"), 0x050c_5d7e);
        assert_ne!(revision_hash(&json!({}), 0), revision_hash(&json!({}), 1));
        assert_eq!(revision_hash(&json!({}), 0), hash::safe_encode(&fnv("{}0").to_string()));
        assert_eq!(revision_name(&"x".repeat(300), "h").len(), PREFIX + 2);
    }

    #[test]
    fn templates_survive_and_compare() {
        let template: PodTemplateSpec =
            serde_json::from_value(json!({"metadata": {"labels": {"a": "b"}, "creationTimestamp": null},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}], "volumes": []}}))
            .unwrap();
        let patch = patch_of(&template);
        let kept = ControllerRevision { data: Some(RawExtension(patch.clone())), ..ControllerRevision::default() };
        assert_eq!(template_of(&kept).unwrap(), template);
        assert!(keeps(&kept, &patch));
        let spelt_out = json!({"spec": {"template": {"$patch": "replace", "metadata": {"labels": {"a": "b"}, "creationTimestamp": null},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {}, "env": []}]}}}});
        assert!(keeps(&kept, &spelt_out));
        let mut other = patch;
        other["spec"]["template"]["spec"]["containers"][0]["image"] = json!("j");
        assert!(!keeps(&kept, &other));
    }
}
