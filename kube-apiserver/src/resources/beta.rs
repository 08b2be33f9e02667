//! Kinds of alpha and beta versions, served only when `--runtime-config` asks for them: their scope, status and main rules.

use serde_json::{Value, json};

use super::{
    checks,
    field::{ErrorList, Path},
    metadata::NameRule,
    rules::Rules,
    table::{AGE, Column, NAME, NAME_AGE, age, name, name_age, text},
    value::{at, set, str_at},
};

const SPEC: Path<'static> = Path::root("spec");
const CLUSTER: Rules = Rules { namespaced: false, columns: NAME_AGE, row: name_age, ..Rules::GENERIC };

pub(crate) const RULES: &[Rules] = &[
    Rules {
        group: "certificates.k8s.io",
        resource: "clustertrustbundles",
        kind: "ClusterTrustBundle",
        name: NameRule::PathSegment,
        unconditional_update: false,
        validate: bundle,
        validate_update: |new, old, _, errs| {
            bundle(new, errs);
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
        validate_update: |new, old, sub, errs| {
            if sub.is_none() {
                checks::immutable(new, old, "spec", errs);
            }
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
        validate: candidate,
        validate_update: |new, old, _, errs| {
            candidate(new, errs);
            checks::immutable(new, old, "spec.leaseName", errs);
        },
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
        validate_update: |new, old, sub, errs| {
            if sub.is_none() {
                checks::immutable(new, old, "spec", errs);
            }
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
fn bundle(obj: &Value, errs: &mut ErrorList) {
    let (own, signer) = (str_at(obj, "metadata.name"), str_at(obj, "spec.signerName"));
    let path = Path::root("metadata.name");
    if signer.is_empty() {
        if own.contains(':') {
            errs.invalid(&path, own, "ClusterTrustBundle without signer name must not have \":\" in its name");
        }
    } else {
        let prefix = format!("{}:", signer.replace('/', ":"));
        match own.strip_prefix(&prefix) {
            None => errs.invalid(
                &path,
                own,
                format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"),
            ),
            Some(rest) => checks::subdomain(rest, &path, errs),
        }
    }
    let bundle = str_at(obj, "spec.trustBundle");
    let path = SPEC.child("trustBundle");
    if bundle.is_empty() {
        errs.required(&path, "");
        return;
    }
    let blocks: Result<Vec<_>, _> = x509_parser::pem::Pem::iter_from_buffer(bundle.as_bytes()).collect();
    match blocks {
        Ok(blocks) if blocks.is_empty() => {
            errs.invalid(&path, "<value omitted>", "at least one trust anchor must be provided");
        }
        Ok(blocks) if blocks.iter().all(|b| b.label == "CERTIFICATE" && b.parse_x509().is_ok()) => {}
        _ => errs.invalid(&path, "<value omitted>", "every block must be a certificate"),
    }
}

fn candidate(obj: &Value, errs: &mut ErrorList) {
    match str_at(obj, "spec.leaseName") {
        "" => errs.required(&SPEC.child("leaseName"), ""),
        name => checks::subdomain(name, &SPEC.child("leaseName"), errs),
    }
    if str_at(obj, "spec.binaryVersion").is_empty() {
        errs.required(&SPEC.child("binaryVersion"), "");
    }
    if at(obj, "spec.strategy").is_none() {
        errs.required(&SPEC.child("strategy"), "");
    } else if str_at(obj, "spec.strategy") == "OldestEmulationVersion"
        && str_at(obj, "spec.emulationVersion").is_empty()
    {
        errs.required(&SPEC.child("emulationVersion"), "must be specified when `strategy` is 'OldestEmulationVersion'");
    }
}

fn migration(obj: &Value, errs: &mut ErrorList) {
    let resource = SPEC.child("resource");
    if str_at(obj, "spec.resource.resource").is_empty() {
        errs.required(&resource.child("resource"), "resource is required");
    }
    let group = str_at(obj, "spec.resource.group");
    if !group.is_empty() {
        checks::subdomain(group, &resource.child("group"), errs);
    }
}
