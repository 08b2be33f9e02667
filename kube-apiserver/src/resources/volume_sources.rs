//! Rules of volume sources that pods and persistent volumes share: a table of what each must have, and the few that need more.

use serde_json::Value;

use super::{
    checks,
    field::{ErrorList, Path},
    pod::validate::{descending_path, no_backsteps},
    storage_rules::driver_name,
    value::{at, bool_at, int_at, list_at, str_at, strings_at},
};

/// Members that must not be empty.
const REQUIRED: &[(&str, &[&str])] = &[
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("hostPath", &["path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("local", &["path"]),
    ("nfs", &["server", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("quobyte", &["volume"]),
    ("rbd", &["monitors", "image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// One source; `persistent` for those of persistent volumes.
pub(crate) fn validate(kind: &str, source: &Value, persistent: bool, path: &Path<'_>, errs: &mut ErrorList) {
    for field in REQUIRED.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, fields)| fields) {
        let empty = match source.get(*field) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if empty {
            errs.required(&path.child(field), "");
        }
    }
    match kind {
        "awsElasticBlockStore" | "gcePersistentDisk" => {
            between(source, "partition", "must be between 0 and 255, inclusive", path, errs);
        }
        "azureDisk" => azure_disk(source, path, errs),
        "csi" => csi(source, persistent, path, errs),
        "fc" => fibre_channel(source, path, errs),
        "flexVolume" => flex_options(source, path, errs),
        "flocker" => flocker(source, path, errs),
        "gitRepo" => descending_path(str_at(source, "directory"), &path.child("directory"), errs),
        "hostPath" => host_path(source, path, errs),
        "iscsi" => iscsi(source, path, errs),
        "local" => no_backsteps(str_at(source, "path"), &path.child("path"), errs),
        "nfs" => {
            let value = str_at(source, "path");
            if !value.starts_with('/') {
                errs.invalid(&path.child("path"), value, "must be an absolute path");
            }
        }
        "quobyte" => quobyte(source, path, errs),
        _ => {}
    }
}

fn between(source: &Value, field: &str, text: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if let Some(number) = int_at(source, field).filter(|n| !(0..=255).contains(n)) {
        errs.invalid(&path.child(field), number, text);
    }
}

fn azure_disk(source: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let mut enumerated = |field: &str, supported: &[&str]| {
        if let Some(value) = at(source, field).and_then(Value::as_str).filter(|v| !supported.contains(v)) {
            errs.not_supported(&path.child(field), value, supported);
        }
    };
    enumerated("cachingMode", &["None", "ReadOnly", "ReadWrite"]);
    enumerated("kind", &["Dedicated", "Managed", "Shared"]);
    let (kind, uri) = (at(source, "kind").and_then(Value::as_str), str_at(source, "diskURI"));
    let wanted = match kind {
        Some("Managed") if !uri.starts_with("/subscriptions/") => {
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
        }
        Some(kind) if kind != "Managed" && !uri.starts_with("https://") => {
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
        }
        _ => return,
    };
    errs.not_supported(&path.child("diskURI"), uri, &[wanted]);
}

fn csi(source: &Value, persistent: bool, path: &Path<'_>, errs: &mut ErrorList) {
    driver_name(str_at(source, "driver"), &path.child("driver"), errs);
    if !persistent {
        if let Some(secret) = at(source, "nodePublishSecretRef") {
            match str_at(secret, "name") {
                "" => errs.required(&path.child("nodePublishSecretRef.name"), ""),
                name => checks::subdomain(name, &path.child("name"), errs),
            }
        }
        return;
    }
    if str_at(source, "volumeHandle").is_empty() {
        errs.required(&path.child("volumeHandle"), "");
    }
    for field in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        let Some(secret) = at(source, field) else { continue };
        let path = path.child(field);
        match str_at(secret, "name") {
            "" => errs.required(&path.child("name"), ""),
            name => checks::subdomain(name, &path.child("name"), errs),
        }
        match str_at(secret, "namespace") {
            "" => errs.required(&path.child("namespace"), ""),
            namespace => checks::label(namespace, &path.child("namespace"), errs),
        }
    }
}

fn fibre_channel(source: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let (names, ids) = (list_at(source, "targetWWNs"), list_at(source, "wwids"));
    let names_path = path.child("targetWWNs");
    if names.is_empty() && ids.is_empty() {
        errs.required(&names_path, "must specify either targetWWNs or wwids, but not both");
    }
    if !names.is_empty() && !ids.is_empty() {
        errs.invalid(&names_path, names.to_vec(), "targetWWNs and wwids can not be specified simultaneously");
    }
    if names.is_empty() {
        return;
    }
    match at(source, "lun") {
        None => errs.required(&path.child("lun"), "lun is required if targetWWNs is specified"),
        Some(_) => between(source, "lun", "must be between 0 and 255, inclusive", path, errs),
    }
}

fn flex_options(source: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    for (key, _) in strings_at(source, "options") {
        let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            errs.invalid(&path.child("options").key(key), key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn flocker(source: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let (name, id) = (str_at(source, "datasetName"), str_at(source, "datasetUUID"));
    match (name.is_empty(), id.is_empty()) {
        (true, true) => errs.required(path, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            errs.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously");
        }
        _ => {}
    }
    if name.contains('/') {
        errs.invalid(&path.child("datasetName"), name, "must not contain '/'");
    }
}

fn host_path(source: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let value = str_at(source, "path");
    if value.is_empty() {
        return;
    }
    no_backsteps(value, &path.child("path"), errs);
    let kind = str_at(source, "type");
    if !HOST_PATH_TYPES.contains(&kind) {
        errs.not_supported(&path.child("type"), kind, &HOST_PATH_TYPES);
    }
}

fn iscsi(source: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    qualified_name(str_at(source, "iqn"), &path.child("iqn"), errs);
    between(source, "lun", "must be between 0 and 255, inclusive", path, errs);
    let chap = bool_at(source, "chapAuthDiscovery") || bool_at(source, "chapAuthSession");
    if chap && at(source, "secretRef").is_none() {
        errs.required(&path.child("secretRef"), "");
    }
    qualified_name(str_at(source, "initiatorName"), &path.child("initiatorname"), errs);
}

/// `iqn.2001-04.com.example:name`, `eui.` and 16 hexadecimal digits, or `naa.` and 32.
fn qualified_name(name: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let hex = |digits: &str, count: usize| digits.len() == count && digits.bytes().all(|b| b.is_ascii_alphanumeric());
    let good = match name.split_at_checked(3) {
        _ if name.is_empty() => return,
        Some(("iqn", rest)) => is_iqn(rest),
        Some(("eui", rest)) => rest.strip_prefix('.').is_some_and(|digits| hex(digits, 16)),
        Some(("naa", rest)) => rest.strip_prefix('.').is_some_and(|digits| hex(digits, 32)),
        _ => {
            errs.invalid(path, name, "must be valid format starting with iqn, eui, or naa");
            return;
        }
    };
    if !good {
        errs.invalid(path, name, "must be valid format");
    }
}

/// What follows `iqn`: `.yyyy-mm.domain[:anything]`.
fn is_iqn(rest: &str) -> bool {
    let Some(rest) = rest.strip_prefix('.') else { return false };
    let Some((date, name)) = rest.split_once('.') else { return false };
    let (name, _) = name.split_once(':').unwrap_or((name, ""));
    let date: Vec<&str> = date.split('-').collect();
    let number = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    let labels = |name: &str| {
        name.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
    };
    matches!(date.as_slice(), [year, month] if number(year, 4) && number(month, 2)) && labels(name)
}

fn quobyte(source: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let text = "must be a host:port pair or multiple pairs separated by commas";
    let registry = str_at(source, "registry");
    if registry.is_empty() {
        errs.required(&path.child("registry"), text);
    } else if str_at(source, "tenant").len() >= 65 {
        errs.required(&path.child("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else if registry.split(',').any(|pair| !pair.contains(':')) {
        errs.invalid(&path.child("registry"), registry, text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sources_say_what_they_miss() {
        let cases = [
            ("rbd", json!({}), &["v.monitors: Required value", "v.image: Required value"][..]),
            (
                "iscsi",
                json!({"targetPortal": "p", "iqn": "iqn.2001-04.com.example:x", "lun": 300}),
                &["v.lun: Invalid value: 300: must be between 0 and 255, inclusive"],
            ),
            (
                "iscsi",
                json!({"targetPortal": "p", "iqn": "iqn.x"}),
                &["v.iqn: Invalid value: \"iqn.x\": must be valid format"],
            ),
            (
                "fc",
                json!({"targetWWNs": ["a"]}),
                &["v.lun: Required value: lun is required if targetWWNs is specified"],
            ),
            ("flocker", json!({}), &["v: Required value: one of datasetName and datasetUUID is required"]),
            (
                "flexVolume",
                json!({"driver": "d", "options": {"a.k8s.io/x": "1"}}),
                &[
                    "v.options[a.k8s.io/x]: Invalid value: \"a.k8s.io/x\": kubernetes.io and k8s.io namespaces are reserved",
                ],
            ),
            (
                "azureDisk",
                json!({"diskName": "n", "diskURI": "https://x", "kind": "Managed"}),
                &[
                    "v.diskURI: Unsupported value: \"https://x\": supported values: \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}\"",
                ],
            ),
            ("nfs", json!({"server": "s", "path": "x"}), &["v.path: Invalid value: \"x\": must be an absolute path"]),
        ];
        for (kind, source, want) in cases {
            let mut errs = ErrorList::new();
            validate(kind, &source, false, &Path::root("v"), &mut errs);
            assert_eq!(errs.iter().map(ToString::to_string).collect::<Vec<_>>(), want, "{kind}");
        }
    }
}
