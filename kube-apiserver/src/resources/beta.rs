//! Kinds of alpha and beta versions, served only when `--runtime-config` asks for them: their scope, status and main rules.

use serde_json::{Value, json};

use super::{
    certificates::{has_headers, signer_name},
    checks, conditions,
    field::{ErrorList, Path},
    metadata::{self, NameRule},
    names,
    rules::Rules,
    table::{AGE, Column, NAME, NAME_AGE, age, name, name_age, text},
    value::{int_at, is_set, list_at, same_at, set, str_at},
};

const SPEC: Path<'static> = Path::root("spec");
const CLUSTER: Rules = Rules { namespaced: false, columns: NAME_AGE, row: name_age, ..Rules::GENERIC };

pub(crate) const RULES: &[Rules] = &[
    Rules {
        group: "certificates.k8s.io",
        resource: "clustertrustbundles",
        kind: "ClusterTrustBundle",
        name: NameRule::Any,
        unconditional_update: false,
        validate: |obj, errs| bundle(obj, None, errs),
        validate_update: |new, old, _, errs| {
            bundle(new, Some(old), errs);
            checks::immutable(new, old, "spec.signerName", errs);
        },
        fields: &[("spec.signerName", |obj| str_at(obj, "spec.signerName").to_string())],
        field_labels: &["metadata.name", "spec.signerName"],
        columns: BUNDLE_COLUMNS,
        row: |obj, now| vec![name(obj), str_at(obj, "spec.signerName").into(), age(obj, now)],
        ..CLUSTER
    },
    Rules {
        group: "certificates.k8s.io",
        resource: "podcertificaterequests",
        kind: "PodCertificateRequest",
        namespaced: true,
        status: true,
        unconditional_update: false,
        validate: certificate_request,
        validate_update: |new, old, sub, errs| match sub {
            None => checks::immutable(new, old, "spec", errs),
            Some(_) => certificate_status(new, old, errs),
        },
        fields: &[
            ("spec.signerName", |obj| str_at(obj, "spec.signerName").to_string()),
            ("spec.podName", |obj| str_at(obj, "spec.podName").to_string()),
            ("spec.nodeName", |obj| str_at(obj, "spec.nodeName").to_string()),
        ],
        field_labels: &["metadata.name", "metadata.namespace", "spec.signerName", "spec.podName", "spec.nodeName"],
        ..CLUSTER
    },
    Rules {
        group: "coordination.k8s.io",
        resource: "leasecandidates",
        kind: "LeaseCandidate",
        namespaced: true,
        create_on_update: true,
        unconditional_update: false,
        name: NameRule::ConfigKey,
        validate: candidate,
        validate_update: |new, old, _, errs| {
            candidate(new, errs);
            checks::immutable(new, old, "spec.leaseName", errs);
        },
        fields: &[("spec.leaseName", |obj| str_at(obj, "spec.leaseName").to_string())],
        field_labels: &["metadata.name", "metadata.namespace", "spec.leaseName"],
        ..CLUSTER
    },
    Rules {
        group: "internal.apiserver.k8s.io",
        resource: "storageversions",
        kind: "StorageVersion",
        status: true,
        unconditional_update: false,
        ..CLUSTER
    },
    Rules {
        group: "storagemigration.k8s.io",
        resource: "storageversionmigrations",
        kind: "StorageVersionMigration",
        status: true,
        unconditional_update: false,
        prepare_create: |obj, _| set(obj, "status", json!({})),
        validate: migration,
        prepare_update: |new, old, sub, _| {
            if sub.is_some() {
                metadata::keep_for_status(new, old);
            }
        },
        validate_update: |new, old, sub, errs| match sub {
            None => {
                migration(new, errs);
                checks::immutable(new, old, "spec", errs);
            }
            Some(_) => migration_status(new, old, errs),
        },
        ..CLUSTER
    },
    Rules {
        group: "scheduling.k8s.io",
        resource: "workloads",
        kind: "Workload",
        namespaced: true,
        validate_update: |new, old, _, errs| checks::immutable(new, old, "spec", errs),
        ..CLUSTER
    },
    Rules {
        group: "scheduling.k8s.io",
        resource: "podgroups",
        kind: "PodGroup",
        namespaced: true,
        status: true,
        validate_update: |new, old, sub, errs| {
            if sub.is_none() {
                checks::immutable(new, old, "spec", errs);
            }
        },
        ..CLUSTER
    },
    Rules {
        group: "resource.k8s.io",
        resource: "devicetaintrules",
        kind: "DeviceTaintRule",
        generation: true,
        status: true,
        ..CLUSTER
    },
    Rules {
        group: "resource.k8s.io",
        resource: "resourcepoolstatusrequests",
        kind: "ResourcePoolStatusRequest",
        status: true,
        unconditional_update: false,
        validate_update: |new, old, sub, errs| {
            if sub.is_none() {
                checks::immutable(new, old, "spec", errs);
            }
        },
        ..CLUSTER
    },
];

const BUNDLE_COLUMNS: &[Column] = &[NAME, text("SignerName"), AGE];

/// The name of a signer's bundle starts with the signer's name.
fn bundle_name(obj: &Value, errs: &mut ErrorList) {
    let (own, signer) = (str_at(obj, "metadata.name"), str_at(obj, "spec.signerName"));
    let path = Path::root("metadata.name");
    if signer.is_empty() && own.contains(':') {
        return errs.invalid(&path, own, "ClusterTrustBundle without signer name must not have \":\" in its name");
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    let rest = if signer.is_empty() { Some(own) } else { own.strip_prefix(&prefix) };
    let texts = rest.map_or_else(
        || vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")],
        names::dns1123_subdomain,
    );
    checks::complain(own, texts, &path, errs);
}

/// `old`: the certificates of a bundle that does not change are not looked at.
fn bundle(obj: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    bundle_name(obj, errs);
    let signer = str_at(obj, "spec.signerName");
    if !signer.is_empty() {
        signer_name(signer, &SPEC.child("signerName"), errs);
    }
    if old.is_none_or(|old| !same_at(obj, old, "spec.trustBundle")) {
        trust_bundle(str_at(obj, "spec.trustBundle"), &SPEC.child("trustBundle"), errs);
    }
}

fn trust_bundle(bundle: &str, path: &Path<'_>, errs: &mut ErrorList) {
    const LARGEST: usize = 1024 * 1024;
    const OMITTED: &str = "<value omitted>";
    if bundle.len() > LARGEST {
        return errs.too_long(path, LARGEST);
    }
    let before = errs.0.len();
    let mut seen: Vec<(Vec<u8>, Vec<String>)> = Vec::new();
    let blocks = x509_parser::pem::Pem::iter_from_buffer(bundle.as_bytes()).map_while(Result::ok);
    for (i, block) in blocks.enumerate() {
        let complaint = if block.label != "CERTIFICATE" {
            Some(format!("has bad block type: {}", block.label))
        } else if has_headers(bundle.as_bytes()) {
            Some("has PEM block headers".to_owned())
        } else {
            match block.parse_x509() {
                Err(_) => Some("does not parse as X.509".to_owned()),
                Ok(certificate) if !certificate.is_ca() => Some("does not have the CA bit set".to_owned()),
                Ok(_) => None,
            }
        };
        if let Some(complaint) = complaint {
            errs.invalid(path, OMITTED, format!("entry {i} {complaint}"));
        } else if let Some((_, at)) = seen.iter_mut().find(|(der, _)| *der == block.contents) {
            at.push(i.to_string());
        } else {
            seen.push((block.contents, vec![i.to_string()]));
        }
    }
    if errs.0.len() > before {
        return;
    }
    if seen.is_empty() {
        errs.invalid(path, OMITTED, "at least one trust anchor must be provided");
    }
    for (_, at) in seen.iter().filter(|(_, at)| at.len() > 1) {
        errs.invalid(path, OMITTED, format!("duplicate trust anchor (indices [{}])", at.join(" ")));
    }
}

/// Who asks for a certificate of which signer for how long. The key itself is the signer's to check.
fn certificate_request(obj: &Value, errs: &mut ErrorList) {
    const HOUR: i64 = 60 * 60;
    let signer = str_at(obj, "spec.signerName");
    signer_name(signer, &SPEC.child("signerName"), errs);
    for who in ["pod", "serviceAccount", "node"] {
        let (name, uid) = (format!("{who}Name"), format!("{who}UID"));
        let text = str_at(obj, &format!("spec.{name}"));
        checks::complain(text, names::dns1123_subdomain(text), &SPEC.child(&name), errs);
        match str_at(obj, &format!("spec.{uid}")) {
            "" => errs.invalid(&SPEC.child(&uid), "", "must not be empty"),
            long if long.len() > 128 => errs.too_long(&SPEC.child(&uid), 128),
            _ => {}
        }
    }
    let path = SPEC.child("maxExpirationSeconds");
    let Some(seconds) = int_at(obj, "spec.maxExpirationSeconds") else {
        return errs.required(&path, "must be set");
    };
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    let ours = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let max = if ours { 24 * HOUR } else { 91 * 24 * HOUR };
    if !(HOUR..=max).contains(&seconds) {
        errs.invalid(&path, seconds, format!("must be in the range [{HOUR}, {max}]"));
    }
    let has = |field: &str| is_set(obj, &format!("spec.{field}"));
    let one = match (has("stubPKCS10Request"), has("pkixPublicKey"), has("proofOfPossession")) {
        (true, false, false) => Some("stubPKCS10Request"),
        (false, true, true) => Some("pkixPublicKey"),
        _ => None,
    };
    match one {
        None => errs.invalid_shape(
            &SPEC,
            "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set",
        ),
        // In base64, four characters hold three bytes.
        Some(field) if str_at(obj, &format!("spec.{field}")).len() > 10 * 1024 / 3 * 4 + 4 => {
            errs.too_long(&SPEC.child(field), 10 * 1024);
        }
        Some(_) => {}
    }
}

/// A decision about a certificate request is made once.
fn certificate_status(new: &Value, old: &Value, errs: &mut ErrorList) {
    const DECISIONS: [&str; 3] = ["Issued", "Denied", "Failed"];
    let path = Path::root("status.conditions");
    let list = list_at(new, "status.conditions");
    for (i, condition) in list.iter().enumerate() {
        let (kind, status) = (str_at(condition, "type"), str_at(condition, "status"));
        // Upstream's path has the index as a field.
        let index = format!("[{i}]");
        let path = path.child(&index);
        if !DECISIONS.contains(&kind) {
            errs.not_supported(&path.child("type"), kind, &DECISIONS);
            continue;
        }
        if list[..i].iter().any(|c| DECISIONS.contains(&str_at(c, "type"))) {
            let text = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errs.invalid(&path.child("type"), kind, text);
        }
        if status != "True" {
            errs.not_supported(&path.child("status"), status, &["True"]);
        }
    }
    conditions::validate(list, &path, errs);
    let decided = DECISIONS.iter().any(|kind| conditions::is_true(old, kind));
    if errs.is_empty() && decided && !same_at(new, old, "status") {
        errs.invalid_shape(&Path::root("status"), "immutable after PodCertificateRequest is issued, denied, or failed");
    }
}

fn candidate(obj: &Value, errs: &mut ErrorList) {
    if str_at(obj, "spec.leaseName").is_empty() {
        errs.required(&SPEC.child("leaseName"), "");
    }
    let version = |field: &str| semver(str_at(obj, &format!("spec.{field}")));
    let check = |field: &str, errs: &mut ErrorList| {
        let text = str_at(obj, &format!("spec.{field}"));
        if !text.is_empty() && semver(text).is_none() {
            errs.invalid(&SPEC.child(field), text, "must be a valid semantic version");
        }
    };
    check("emulationVersion", errs);
    if str_at(obj, "spec.binaryVersion").is_empty() {
        errs.required(&SPEC.child("binaryVersion"), "");
    }
    check("binaryVersion", errs);
    if let (Some(binary), Some(emulation)) = (version("binaryVersion"), version("emulationVersion"))
        && binary < emulation
    {
        let text = "must be greater than or equal to `emulationVersion`";
        errs.invalid(&SPEC.child("binaryVersion"), str_at(obj, "spec.binaryVersion"), text);
    }
    match str_at(obj, "spec.strategy") {
        "" => errs.required(&SPEC.child("strategy"), ""),
        strategy => {
            if strategy == "OldestEmulationVersion" && version("emulationVersion").is_none_or(|v| v == (0, 0, 0)) {
                let text = "must be specified when `strategy` is 'OldestEmulationVersion'";
                errs.required(&SPEC.child("emulationVersion"), text);
            }
            super::cluster::lease_strategy(strategy, &SPEC.child("strategy"), errs);
        }
    }
}

/// The numbers of `major.minor.patch[-pre][+build]`.
fn semver(text: &str) -> Option<(u64, u64, u64)> {
    let core = text.split_once(['-', '+']).map_or(text, |(core, _)| core);
    let mut parts = core.split('.').map(|part| {
        let plain = part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
        if plain { part.parse().ok() } else { None }
    });
    let version = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(version)
}

fn migration(obj: &Value, errs: &mut ErrorList) {
    let path = SPEC.child("resource");
    let (resource, group) = (str_at(obj, "spec.resource.resource"), str_at(obj, "spec.resource.group"));
    let complaints = names::dns1035_label(resource);
    if resource.is_empty() {
        errs.required(&path.child("resource"), "resource is required to be set");
    } else if !complaints.is_empty() {
        errs.invalid(&path.child("resource"), resource, complaints.join(","));
    }
    let complaints = names::dns1123_subdomain(group);
    if !group.is_empty() && !complaints.is_empty() {
        errs.invalid(&path.child("group"), group, complaints.join(","));
    }
}

/// The outcome of a migration is final.
fn migration_status(new: &Value, old: &Value, errs: &mut ErrorList) {
    let path = Path::root("status");
    let (version, list) = (str_at(new, "status.resourceVersion"), list_at(new, "status.conditions"));
    let (version_path, list_path) = (path.child("resourceVersion"), path.child("conditions"));
    if !version.is_empty() && (version.starts_with('0') || !version.bytes().all(|b| b.is_ascii_digit())) {
        let text = format!("resource version is not well formed: {version}");
        errs.invalid(&version_path, version, text);
    }
    conditions::validate(list, &list_path, errs);
    if is_set(old, "status.resourceVersion") && !same_at(new, old, "status.resourceVersion") {
        errs.invalid(&version_path, version, "field is immutable");
    }
    let now = |kind: &str| conditions::is_true(new, kind);
    if now("Succeeded") && now("Failed") {
        let text = "Both success and failed conditions cannot be true at the same time";
        errs.invalid(&list_path, list.to_vec(), text);
    }
    for (kind, name) in [("Succeeded", "Success"), ("Failed", "Failed")] {
        if conditions::is_true(old, kind) && !now(kind) {
            let text = format!("{name} condition cannot be set to false once it is true");
            errs.invalid(&list_path, list.to_vec(), text);
        }
    }
}
