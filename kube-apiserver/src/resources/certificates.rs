//! CertificateSigningRequests.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Ctx, checks,
    field::{ErrorList, Path},
    metadata::NameRule,
    rules::Rules,
    table::{AGE, NAME, Row, age, human_duration, name, or_none, text},
    value::{at, int_at, is_set, keep_old, list_at, member, remove, same_at, set, set_if_zero, str_at},
};

const SPEC: Path<'static> = Path::root("spec");
const STATUS: Path<'static> = Path::root("status");
const SEALED: [&str; 2] = ["Approved", "Denied"];

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(crate) const RULES: &[Rules] = &[Rules {
    group: "certificates.k8s.io",
    resource: "certificatesigningrequests",
    kind: "CertificateSigningRequest",
    namespaced: false,
    name: NameRule::PathSegment,
    defaults: |obj| {
        if let Some(spec) = member(obj, "spec") {
            set_if_zero(spec, "usages", json!([]));
        }
    },
    prepare_create: create,
    prepare_update: update,
    validate: request,
    validate_update,
    fields: &[("spec.signerName", |obj| str_at(obj, "spec.signerName").to_string())],
    field_labels: &["metadata.name", "spec.signerName"],
    columns: &[NAME, AGE, text("SignerName"), text("Requestor"), text("RequestedDuration"), text("Condition")],
    row,
    ..Rules::GENERIC
}];

/// A request says who made it; the requester has no say in that.
fn create(obj: &mut Value, ctx: &Ctx<'_>) {
    set(obj, "status", json!({}));
    let Some(spec) = member(obj, "spec") else { return };
    for field in ["uid", "groups", "extra"] {
        remove(spec, field);
    }
    set(spec, "username", ctx.user.name.as_str());
    if !ctx.user.uid.is_empty() {
        set(spec, "uid", ctx.user.uid.as_str());
    }
    if !ctx.user.groups.is_empty() {
        set(spec, "groups", ctx.user.groups.clone());
    }
    if !ctx.user.extra.is_empty() {
        set(spec, "extra", json!(ctx.user.extra));
    }
}

fn update(new: &mut Value, old: &Value, sub: Option<&str>, ctx: &Ctx<'_>) {
    keep_old(new, old, "spec");
    match sub {
        None => keep_old(new, old, "status"),
        Some("approval") => {
            // Approval writes conditions; the certificate is the signer's.
            if let Some(status) = member(new, "status") {
                keep_old(status, old.get("status").unwrap_or(&Value::Null), "certificate");
            }
        }
        Some(_) => {}
    }
    let Some(status) = member(new, "status") else { return };
    for condition in super::value::each(status, "conditions") {
        let kind = str_at(condition, "type").to_string();
        let before = list_at(old, "status.conditions").iter().find(|c| str_at(c, "type") == kind);
        let now = super::metadata::time(ctx.now);
        set_if_zero(condition, "lastUpdateTime", now.as_str());
        if !is_set(condition, "lastTransitionTime") {
            let kept = before.filter(|b| b.get("status") == condition.get("status"));
            let kept = kept.map(|b| str_at(b, "lastTransitionTime").to_string()).filter(|t| !t.is_empty());
            set(condition, "lastTransitionTime", kept.unwrap_or(now));
        }
    }
}

fn request(obj: &Value, errs: &mut ErrorList) {
    let encoded = str_at(obj, "spec.request");
    if let Err(text) = parse_request(encoded) {
        errs.invalid(&SPEC.child("request"), encoded, text);
    }
    let usages = list_at(obj, "spec.usages");
    let path = SPEC.child("usages");
    if usages.is_empty() {
        errs.required(&path, "");
    }
    for (i, usage) in usages.iter().enumerate() {
        let text = usage.as_str().unwrap_or_default();
        if !USAGES.contains(&text) {
            errs.not_supported(&path.index(i), text, &USAGES);
        }
        if usages[..i].contains(usage) {
            errs.duplicate(&path.index(i), text);
        }
    }
    signer_name(str_at(obj, "spec.signerName"), errs);
    if let Some(seconds) = int_at(obj, "spec.expirationSeconds").filter(|seconds| *seconds < 600) {
        errs.invalid(
            &SPEC.child("expirationSeconds"),
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
}

fn parse_request(encoded: &str) -> Result<(), String> {
    organizations(encoded).map(|_| ())
}

/// The organizations that a certificate request (PEM in base64) asks for.
///
/// # Errors
/// When it is no such request.
pub(crate) fn organizations(encoded: &str) -> Result<Vec<String>, String> {
    use x509_parser::prelude::FromDer as _;
    let wrong = "PEM block type must be CERTIFICATE REQUEST";
    let bytes = BASE64_STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes).map_err(|_| wrong.to_string())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err(wrong.to_string());
    }
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
        .map_err(|error| error.to_string())?;
    let subject = &request.certification_request_info.subject;
    Ok(subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect())
}

fn signer_name(name: &str, errs: &mut ErrorList) {
    let path = SPEC.child("signerName");
    if name.is_empty() {
        errs.required(&path, "");
        return;
    }
    if name == "kubernetes.io/legacy-unknown" {
        errs.invalid(&path, name, "the legacy signerName is not allowed via this API version");
        return;
    }
    let Some((domain, rest)) = name.split_once('/') else {
        errs.invalid(&path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
        return;
    };
    checks::subdomain(domain, &path, errs);
    if domain.split('.').count() < 2 {
        errs.invalid(&path, domain, "should be a domain with at least two segments separated by dots");
    }
    if rest.is_empty() || rest.contains('/') {
        errs.invalid(&path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    }
}

fn validate_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    let path = STATUS.child("conditions");
    let of = |obj: &Value, kind: &str| -> Vec<Value> {
        list_at(obj, "status.conditions").iter().filter(|c| str_at(c, "type") == kind).cloned().collect()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        let (now, before) = (of(new, kind), of(old, kind));
        if now.len() < before.len() {
            errs.forbidden(&path, format!("updates may not remove a condition of type \"{kind}\""));
        } else if sub == Some("status") && SEALED.contains(&kind) {
            if now.len() > before.len() {
                errs.forbidden(&path, format!("updates may not add a condition of type \"{kind}\""));
            } else if now != before {
                errs.forbidden(&path, format!("updates may not modify a condition of type \"{kind}\""));
            }
        }
    }
    if !of(new, "Approved").is_empty() && !of(new, "Denied").is_empty() {
        errs.invalid(&path, "Denied", "Approved and Denied conditions are mutually exclusive");
    }
    if !same_at(new, old, "status.certificate") {
        let path = STATUS.child("certificate");
        if sub != Some("status") {
            errs.forbidden(&path, "updates may not set certificate content");
        } else if is_set(old, "status.certificate") {
            errs.forbidden(&path, "updates may not modify existing certificate content");
        }
    }
}

fn row(obj: &Value, now: Timestamp) -> Row {
    let has = |kind: &str| list_at(obj, "status.conditions").iter().any(|c| str_at(c, "type") == kind);
    let mut status = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_string();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if at(obj, "status.certificate").is_some() {
        status.push_str(",Issued");
    }
    let duration = int_at(obj, "spec.expirationSeconds").map_or_else(|| "<none>".to_string(), human_duration);
    vec![
        name(obj),
        age(obj, now),
        or_none(str_at(obj, "spec.signerName")),
        str_at(obj, "spec.username").into(),
        duration.into(),
        status.into(),
    ]
}
