//! The annotation of client-side apply: `kubectl` takes its fields over, and keeps it up to date.

use serde_json::Value;

use super::Write;
use super::collect::collect;
use super::compare::{New, compare};
use super::set::Set;
use super::typed::Place;
use super::validate::validate;

/// The manager whose applies follow client-side apply.
pub(super) const MANAGER: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Annotations of one object may take this many bytes in sum.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// What client-side apply applied last, if that was in this version.
pub(super) fn configuration(live: &Value, api_version: &str) -> Option<Value> {
    let text = live["metadata"]["annotations"][ANNOTATION].as_str().filter(|text| !text.is_empty())?;
    let config: Value = serde_json::from_str(text).ok()?;
    (config["apiVersion"] == api_version).then_some(config)
}

/// The fields of a configuration that are live as it says.
pub(super) fn unchanged<'v>(write: &Write<'v>, config: &'v Value, live: &'v Value) -> Option<Set<'v>> {
    let root = Place::root(write.ty);
    validate(root, config).ok()?;
    let fields = collect(root, config).ok()?;
    let comparison = compare(root, config, live, New::Typed).ok()?;
    Some(fields.difference(&comparison.changed).difference(&comparison.removed))
}

/// Writes the configuration into the annotation, if the object has it and it fits.
pub(super) fn refresh(object: &mut Value, config: &Value) {
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    if annotations.get(ANNOTATION).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(meta) = config.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(own) = meta.get_mut("annotations").and_then(Value::as_object_mut)
    {
        own.remove(ANNOTATION);
        if own.is_empty() {
            meta.remove("annotations");
        }
    }
    annotations.insert(ANNOTATION.to_owned(), format!("{config}\n").into());
    let size = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    if annotations.iter().map(size).sum::<usize>() > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    }
}
