//! Validation of a pod's volumes.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{
    env::{VOLUME_FIELDS, field_ref, resource_field_ref},
    validate::{Scope, mode, projected_path},
};
use crate::resources::{
    checks,
    field::{ErrorList, Path},
    quantity::Quantity,
    value::{at, int_at, list_at, str_at},
    volume_sources,
};

/// All volumes; returns the names of those that containers may mount.
pub(crate) fn validate<'a>(scope: &Scope<'a>, root: &Path<'_>, errs: &mut ErrorList) -> HashMap<&'a str, &'a Value> {
    let volumes = list_at(scope.spec, "volumes");
    let mut good: HashMap<&str, &Value> = HashMap::with_capacity(volumes.len());
    for (i, volume) in volumes.iter().enumerate() {
        let path = root.index(i);
        let before = errs.0.len();
        source(scope, volume, &path, errs);
        let name = str_at(volume, "name");
        if name.is_empty() {
            errs.required(&path.child("name"), "");
        } else {
            checks::label(name, &path.child("name"), errs);
        }
        if good.contains_key(name) {
            errs.duplicate(&path.child("name"), name);
        }
        if errs.0.len() == before {
            good.insert(name, volume);
        }
        let claim = str_at(volume, "persistentVolumeClaim.claimName");
        let created = |other: &Value| {
            at(other, "ephemeral").is_some()
                && scope.pod_name.is_some_and(|pod| format!("{pod}-{}", str_at(other, "name")) == claim)
        };
        if !claim.is_empty() && volumes.iter().any(created) {
            errs.invalid(
                &path.child("persistentVolumeClaim.claimName"),
                claim,
                "must not reference a PVC that gets created for an ephemeral volume",
            );
        }
    }
    good
}

fn source(scope: &Scope<'_>, volume: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let kinds = volume.as_object().into_iter().flatten().filter(|(key, value)| *key != "name" && !value.is_null());
    let mut found = 0;
    for (kind, source) in kinds {
        found += 1;
        let path = path.child(kind);
        if found > 1 {
            errs.forbidden(&path, "may not specify more than 1 volume type");
            continue;
        }
        one_source(scope, kind, source, &path, errs);
    }
    if found == 0 {
        errs.required(path, "must specify a volume type");
    }
}

fn one_source(scope: &Scope<'_>, kind: &str, source: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let mut require = |field: &str| {
        if str_at(source, field).is_empty() {
            errs.required(&path.child(field), "");
        }
    };
    match kind {
        "emptyDir" if at(source, "sizeLimit").and_then(Quantity::of).is_some_and(|limit| limit.sign() < 0) => {
            errs.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
        "secret" | "configMap" => {
            require(if kind == "secret" { "secretName" } else { "name" });
            mode(source, "defaultMode", path, errs);
            items(source, path, &mut Vec::new(), errs);
        }
        "downwardAPI" => {
            mode(source, "defaultMode", path, errs);
            for file in list_at(source, "items") {
                downward_file(file, path, errs);
            }
        }
        "projected" => projected(source, path, errs),
        "ephemeral" => match at(source, "volumeClaimTemplate") {
            None => errs.required(&path.child("volumeClaimTemplate"), ""),
            Some(template) => crate::resources::core::validate_claim_spec(
                at(template, "spec").unwrap_or(&Value::Null),
                &path.child("volumeClaimTemplate.spec"),
                errs,
            ),
        },
        "image" => {
            if scope.is_pod() && str_at(source, "reference").is_empty() {
                errs.required(&path.child("reference"), "");
            }
            let policy = str_at(source, "pullPolicy");
            checks::one_of(policy, &["Always", "IfNotPresent", "Never"], &path.child("pullPolicy"), errs);
        }
        other => volume_sources::validate(other, source, false, path, errs),
    }
}

/// Keys and the files they become; `taken` collects file paths of one projection.
fn items(source: &Value, path: &Path<'_>, taken: &mut Vec<String>, errs: &mut ErrorList) {
    let root = path.child("items");
    for (i, item) in list_at(source, "items").iter().enumerate() {
        let path = root.index(i);
        let file = str_at(item, "path");
        for (field, value) in [("key", str_at(item, "key")), ("path", file)] {
            if value.is_empty() {
                errs.required(&path.child(field), "");
            }
        }
        projected_path(file, &path.child("path"), errs);
        mode(item, "mode", &path, errs);
        taken.push(file.to_string());
    }
}

fn downward_file(file: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let target = str_at(file, "path");
    if target.is_empty() {
        errs.required(&path.child("path"), "");
    }
    projected_path(target, &path.child("path"), errs);
    match (at(file, "fieldRef"), at(file, "resourceFieldRef")) {
        (Some(field), resource) => {
            field_ref(field, VOLUME_FIELDS, &path.child("fieldRef"), errs);
            if resource.is_some() {
                errs.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(resource)) => resource_field_ref(resource, true, &path.child("resourceFieldRef"), errs),
        (None, None) => errs.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(file, "mode", path, errs);
}

fn projected(source: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    mode(source, "defaultMode", path, errs);
    let root = path.child("sources");
    let mut taken = HashSet::new();
    for (i, projection) in list_at(source, "sources").iter().enumerate() {
        let source_path = root.index(i);
        let mut kinds = 0;
        for kind in ["secret", "configMap"] {
            let Some(part) = at(projection, kind) else { continue };
            kinds += 1;
            let part_path = source_path.child(kind);
            let name = str_at(part, "name");
            if name.is_empty() {
                errs.required(&part_path.child("name"), "");
            }
            let mut files = Vec::new();
            items(part, &part_path, &mut files, errs);
            claim_files(files, name, &mut taken, path, errs);
        }
        if let Some(part) = at(projection, "downwardAPI") {
            kinds += 1;
            for file in list_at(part, "items") {
                downward_file(file, &source_path.child("downwardAPI"), errs);
                let target = str_at(file, "path").to_string();
                claim_files(vec![target.clone()], &target, &mut taken, path, errs);
            }
        }
        if let Some(token) = at(projection, "serviceAccountToken") {
            kinds += 1;
            service_account_token(token, &source_path.child("serviceAccountToken"), path, errs);
        }
        kinds += ["clusterTrustBundle", "podCertificate"].iter().filter(|k| at(projection, k).is_some()).count();
        if kinds > 1 {
            errs.forbidden(&source_path, "may not specify more than 1 volume type per source");
        }
    }
}

fn claim_files(files: Vec<String>, shown: &str, taken: &mut HashSet<String>, path: &Path<'_>, errs: &mut ErrorList) {
    for file in files.into_iter().filter(|file| !file.is_empty()) {
        if taken.contains(&file) {
            errs.invalid(path, shown, "conflicting duplicate paths");
        } else {
            taken.insert(file);
        }
    }
}

fn service_account_token(token: &Value, path: &Path<'_>, volume: &Path<'_>, errs: &mut ErrorList) {
    let seconds = int_at(token, "expirationSeconds").unwrap_or_default();
    let seconds_path = path.child("expirationSeconds");
    if seconds < 600 {
        errs.invalid(&seconds_path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        errs.invalid(&seconds_path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    match str_at(token, "path") {
        "" => errs.required(&volume.child("path"), ""),
        target => projected_path(target, &volume.child("path"), errs),
    }
}
