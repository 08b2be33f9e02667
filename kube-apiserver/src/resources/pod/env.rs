//! Validation of environment variables and of the downward API.

use serde_json::Value;

use super::validate::{key_selector, no_backsteps};
use crate::resources::{
    checks,
    field::{ErrorList, Path},
    names,
    value::{at, is_set, list_at, str_at},
};

/// Fields that a variable may show.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields that a downward API volume may show.
pub(crate) const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Every field that the downward API knows at all.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.host",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `env` of a container.
pub(crate) fn variables(container: &Value, root: &Path<'_>, errs: &mut ErrorList) {
    for (i, variable) in list_at(container, "env").iter().enumerate() {
        let path = root.index(i);
        match str_at(variable, "name") {
            "" => errs.required(&path.child("name"), ""),
            name => names::env_name(name).into_iter().for_each(|text| errs.invalid(&path.child("name"), name, text)),
        }
        if let Some(from) = at(variable, "valueFrom") {
            value_from(variable, from, &path.child("valueFrom"), errs);
        }
    }
}

fn value_from(variable: &Value, from: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let mut sources = 0;
    if let Some(field) = at(from, "fieldRef") {
        sources += 1;
        field_ref(field, ENV_FIELDS, &path.child("fieldRef"), errs);
    }
    if let Some(resource) = at(from, "resourceFieldRef") {
        sources += 1;
        resource_field_ref(resource, false, &path.child("resourceFieldRef"), errs);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(selector) = at(from, kind) {
            sources += 1;
            key_selector(selector, &path.child(kind), errs);
        }
    }
    if let Some(file) = at(from, "fileKeyRef") {
        sources += 1;
        file_key(file, &path.child("fileKeyRef"), errs);
    }
    if sources == 0 {
        errs.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if is_set(variable, "value") {
        errs.invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errs.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn file_key(file: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    match str_at(file, "key") {
        "" => errs.required(&path.child("key"), ""),
        key => names::env_name(key).into_iter().for_each(|text| errs.invalid(&path.child("key"), key, text)),
    }
    match str_at(file, "volumeName") {
        "" => errs.required(&path.child("volumeName"), ""),
        name => checks::label(name, &path.child("volumeName"), errs),
    }
    match str_at(file, "path") {
        "" => errs.required(&path.child("path"), ""),
        value => no_backsteps(value, &path.child("path"), errs),
    }
}

/// A field of the pod; `allowed` depends on where it is used.
pub(crate) fn field_ref(field: &Value, allowed: &[&str], path: &Path<'_>, errs: &mut ErrorList) {
    let version = str_at(field, "apiVersion");
    let name = str_at(field, "fieldPath");
    if version.is_empty() {
        errs.required(&path.child("apiVersion"), "");
        return;
    }
    if name.is_empty() {
        errs.required(&path.child("fieldPath"), "");
        return;
    }
    let convert = "error converting fieldPath: ";
    if version != "v1" {
        errs.invalid(&path.child("fieldPath"), name, format!("{convert}unsupported pod version: {version}"));
        return;
    }
    if let Some((map, key)) = name.strip_suffix("']").and_then(|start| start.split_once("['")) {
        match map {
            "metadata.annotations" => checks::qualified(&key.to_lowercase(), path, errs),
            "metadata.labels" => checks::qualified(key, path, errs),
            _ => errs.invalid(
                &path.child("fieldPath"),
                name,
                format!("{convert}field label does not support subscript: {name}"),
            ),
        }
        return;
    }
    if !KNOWN_FIELDS.contains(&name) {
        errs.invalid(&path.child("fieldPath"), name, format!("{convert}field label not supported: {name}"));
        return;
    }
    let name = if name == "spec.host" { "spec.nodeName" } else { name };
    if !allowed.contains(&name) {
        errs.not_supported(&path.child("fieldPath"), name, allowed);
    }
}

/// A resource of a container.
pub(crate) fn resource_field_ref(field: &Value, volume: bool, path: &Path<'_>, errs: &mut ErrorList) {
    let resource = str_at(field, "resource");
    let hugepages = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if volume && str_at(field, "containerName").is_empty() {
        errs.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errs.required(&path.child("resource"), "");
    } else if !RESOURCE_FIELDS.contains(&resource) && !hugepages {
        errs.not_supported(&path.child("resource"), resource, RESOURCE_FIELDS);
    }
    let divisor = str_at(field, "divisor");
    if matches!(divisor, "" | "0") {
        return;
    }
    let bytes = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (allowed, what): (&[&str], &str) = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") => (&["1m", "1"], "cpu"),
        Some("memory") => (&bytes, "memory"),
        Some("ephemeral-storage") => (&bytes, "local ephemeral storage"),
        Some(name) if name.starts_with("hugepages-") => (&bytes, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&divisor) {
        let list = if what == "cpu" { "1m and 1".to_string() } else { allowed.join(", ") };
        errs.invalid(
            &path.child("divisor"),
            resource,
            format!("only divisor's values {list} are supported with the {what} resource"),
        );
    }
}

/// `envFrom` of a container.
pub(crate) fn sources(container: &Value, root: &Path<'_>, errs: &mut ErrorList) {
    for (i, source) in list_at(container, "envFrom").iter().enumerate() {
        let path = root.index(i);
        let prefix = str_at(source, "prefix");
        if !prefix.is_empty() {
            names::env_name(prefix).into_iter().for_each(|text| errs.invalid(&path.child("prefix"), prefix, text));
        }
        let mut sources = 0;
        for kind in ["configMapRef", "secretRef"] {
            let Some(reference) = at(source, kind) else { continue };
            sources += 1;
            let path = path.child(kind);
            match str_at(reference, "name") {
                "" => errs.required(&path.child("name"), ""),
                name => checks::subdomain(name, &path.child("name"), errs),
            }
        }
        match sources {
            0 => errs.invalid(root, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errs.invalid(root, "", "may not have more than one field specified at a time"),
        }
    }
}
