//! CertificateSigningRequests.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Ctx, checks,
    field::{ErrorList, Path},
    metadata::NameRule,
    names,
    rules::Rules,
    table::{AGE, NAME, Row, age, human_duration, name, or_none, text},
    value::{at, each, int_at, is_set, keep_old, list_at, member, remove, same_at, set, set_if_zero, str_at},
};

const SPEC: Path<'static> = Path::root("spec");
const STATUS: Path<'static> = Path::root("status");
const SEALED: [&str; 2] = ["Approved", "Denied"];
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";

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
    name: NameRule::Any,
    defaults: |obj| {
        if let Some(spec) = member(obj, "spec") {
            set_if_zero(spec, "usages", json!([]));
        }
    },
    prepare_create: create,
    prepare_update: update,
    validate: |obj, errs| request(obj, &Leniency::default(), errs),
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
        Some("status") => {
            // Who signs does not approve: sent back, those conditions are what they were.
            SEALED.iter().for_each(|kind| keep_conditions(new, old, kind));
            timestamps(new, old, ctx);
        }
        Some(_) => {
            timestamps(new, old, ctx);
            let conditions = list_at(new, "status.conditions").to_vec();
            keep_old(new, old, "status");
            if let Some(status) = member(new, "status") {
                set(status, "conditions", conditions);
            }
        }
    }
}

fn keep_conditions(new: &mut Value, old: &Value, kind: &str) {
    let of_kind = |c: &&Value| str_at(c, "type") == kind;
    let before: Vec<&Value> = list_at(old, "status.conditions").iter().filter(of_kind).collect();
    if list_at(new, "status.conditions").iter().filter(of_kind).count() != before.len() {
        return;
    }
    let Some(status) = member(new, "status") else { return };
    let now = each(status, "conditions").filter(|c| str_at(c, "type") == kind);
    now.zip(before).for_each(|(condition, before)| *condition = before.clone());
}

fn timestamps(new: &mut Value, old: &Value, ctx: &Ctx<'_>) {
    let now = super::metadata::time(ctx.now);
    let before = list_at(old, "status.conditions");
    let Some(status) = member(new, "status") else { return };
    for condition in each(status, "conditions") {
        set_if_zero(condition, "lastUpdateTime", now.as_str());
        if !is_set(condition, "lastTransitionTime") {
            let same = |b: &&Value| {
                ["type", "status"].iter().all(|f| str_at(b, f) == str_at(condition, f))
                    && is_set(b, "lastTransitionTime")
            };
            let kept = before.iter().find(same).map(|b| str_at(b, "lastTransitionTime").to_string());
            set(condition, "lastTransitionTime", kept.unwrap_or_else(|| now.clone()));
        }
    }
}

/// What an update lets pass because the stored object has it already.
#[derive(Default)]
struct Leniency {
    approved_and_denied: bool,
    duplicate_types: bool,
    empty_types: bool,
    any_certificate: bool,
    unknown_usages: bool,
    duplicate_usages: bool,
    legacy_signer: bool,
}

impl Leniency {
    fn of(new: &Value, old: &Value) -> Leniency {
        let conditions = list_at(old, "status.conditions");
        let has = |kind: &str| conditions.iter().any(|c| str_at(c, "type") == kind);
        let usages = list_at(old, "spec.usages");
        Leniency {
            approved_and_denied: has("Approved") && has("Denied"),
            duplicate_types: (1..conditions.len()).any(|i| repeats(conditions, i)),
            empty_types: has(""),
            any_certificate: same_at(new, old, "status.certificate")
                || certificate_chain(str_at(old, "status.certificate")).is_err(),
            unknown_usages: usages.iter().any(|usage| !USAGES.contains(&usage.as_str().unwrap_or_default())),
            duplicate_usages: (1..usages.len()).any(|i| usages[..i].contains(&usages[i])),
            legacy_signer: str_at(old, "spec.signerName") == LEGACY_SIGNER,
        }
    }
}

fn repeats(conditions: &[Value], i: usize) -> bool {
    conditions[..i].iter().any(|other| str_at(other, "type") == str_at(&conditions[i], "type"))
}

fn request(obj: &Value, lenient: &Leniency, errs: &mut ErrorList) {
    let encoded = str_at(obj, "spec.request");
    if let Err(text) = check_request(encoded) {
        errs.invalid(&SPEC.child("request"), encoded, text);
    }
    let usages = list_at(obj, "spec.usages");
    let path = SPEC.child("usages");
    if usages.is_empty() {
        errs.required(&path, "");
    }
    for (i, usage) in usages.iter().enumerate().filter(|_| !lenient.unknown_usages) {
        let text = usage.as_str().unwrap_or_default();
        if !USAGES.contains(&text) {
            errs.not_supported(&path.index(i), text, &USAGES);
        }
    }
    for (i, usage) in usages.iter().enumerate().filter(|_| !lenient.duplicate_usages) {
        if usages[..i].contains(usage) {
            errs.duplicate(&path.index(i), usage.clone());
        }
    }
    let signer = str_at(obj, "spec.signerName");
    if signer == LEGACY_SIGNER && !lenient.legacy_signer {
        let text = "the legacy signerName is not allowed via this API version";
        errs.invalid(&SPEC.child("signerName"), signer, text);
    } else {
        signer_name(signer, &SPEC.child("signerName"), errs);
    }
    if let Some(seconds) = int_at(obj, "spec.expirationSeconds").filter(|seconds| *seconds < 600) {
        errs.invalid(
            &SPEC.child("expirationSeconds"),
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
    conditions(list_at(obj, "status.conditions"), lenient, errs);
    if !lenient.any_certificate
        && let Err(text) = certificate_chain(str_at(obj, "status.certificate"))
    {
        errs.invalid(&STATUS.child("certificate"), "<certificate data>", text);
    }
}

fn conditions(conditions: &[Value], lenient: &Leniency, errs: &mut ErrorList) {
    let root = STATUS.child("conditions");
    for (i, condition) in conditions.iter().enumerate() {
        let (path, kind, status) = (root.index(i), str_at(condition, "type"), str_at(condition, "status"));
        if kind.is_empty() && !lenient.empty_types {
            errs.required(&path.child("type"), "");
        }
        let allowed: &[&str] =
            if matches!(kind, "Approved" | "Denied" | "Failed") { &["True"] } else { &["False", "True", "Unknown"] };
        checks::one_of(status, allowed, &path.child("status"), errs);
        let before = |other: &str| conditions[..i].iter().any(|c| str_at(c, "type") == other);
        if !lenient.approved_and_denied
            && ((kind == "Approved" && before("Denied")) || (kind == "Denied" && before("Approved")))
        {
            errs.invalid(&root, kind, "Approved and Denied conditions are mutually exclusive");
        }
        if !lenient.duplicate_types && repeats(conditions, i) {
            errs.duplicate(&path.child("type"), kind);
        }
    }
}

/// The request's PEM block, decoded from base64.
fn request_block(encoded: &str) -> Result<x509_parser::pem::Pem, String> {
    let wrong = "PEM block type must be CERTIFICATE REQUEST";
    let bytes = BASE64_STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes).map_err(|_| wrong.to_string())?;
    if pem.label == "CERTIFICATE REQUEST" { Ok(pem) } else { Err(wrong.to_string()) }
}

/// A request that its own key signed. Algorithms unknown here pass: the signer knows them or refuses.
fn check_request(encoded: &str) -> Result<(), String> {
    use x509_parser::{error::X509Error, prelude::FromDer as _, public_key::PublicKey};
    let pem = request_block(encoded)?;
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
        .map_err(|error| error.to_string())?;
    if request.verify_signature() != Err(X509Error::SignatureVerificationError) {
        return Ok(());
    }
    let text = match request.certification_request_info.subject_pki.parsed() {
        Ok(PublicKey::RSA(_)) => "crypto/rsa: verification error",
        Ok(PublicKey::EC(_)) => "x509: ECDSA verification failure",
        _ => "x509: Ed25519 verification failure",
    };
    Err(text.to_owned())
}

/// The organizations that a certificate request (PEM in base64) asks for.
///
/// # Errors
/// When it is no such request.
pub(crate) fn organizations(encoded: &str) -> Result<Vec<String>, String> {
    use x509_parser::prelude::FromDer as _;
    let pem = request_block(encoded)?;
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
        .map_err(|error| error.to_string())?;
    let subject = &request.certification_request_info.subject;
    Ok(subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect())
}

/// Nothing, or certificates in PEM without headers (base64 of it).
fn certificate_chain(encoded: &str) -> Result<(), String> {
    if encoded.is_empty() {
        return Ok(());
    }
    let bytes = BASE64_STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    let mut blocks = 0;
    for block in x509_parser::pem::Pem::iter_from_buffer(&bytes).map_while(Result::ok) {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if has_headers(&bytes) {
            return Err("no PEM block headers are permitted".to_owned());
        }
        blocks += 1;
        block.parse_x509().map_err(|error| format!("x509: {error}"))?;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

/// Whether any PEM block has headers (RFC 1421), which certificates must not.
pub(super) fn has_headers(pem: &[u8]) -> bool {
    pem.split(|b| *b == b'\n').any(|line| !line.starts_with(b"-----") && line.contains(&b':'))
}

/// `domain/path`: a domain of at least two labels and a path of subdomains.
pub(super) fn signer_name(name: &str, path: &Path<'_>, errs: &mut ErrorList) {
    const LONGEST_DOMAIN: usize = 253;
    const LONGEST: usize = LONGEST_DOMAIN + 253 + 63 + 2;
    if name.is_empty() {
        return errs.required(path, "");
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let text = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errs.invalid(path, name, text);
    };
    if domain.len() > LONGEST_DOMAIN {
        errs.too_long(path, LONGEST_DOMAIN);
    }
    signer_part(domain, names::dns1123_label, path, errs);
    if !domain.contains('.') {
        errs.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    signer_part(rest, names::dns1123_subdomain, path, errs);
    if name.len() > LONGEST {
        errs.too_long(path, LONGEST);
    }
}

/// Complains about the first label that breaks the rule.
fn signer_part(part: &str, rule: names::Rule, path: &Path<'_>, errs: &mut ErrorList) {
    let bad = part.split('.').map(|label| (label, rule(label))).find(|(_, texts)| !texts.is_empty());
    for (label, text) in bad.into_iter().flat_map(|(label, texts)| texts.into_iter().map(move |text| (label, text))) {
        errs.invalid(path, part, format!("validating label {label:?}: {text}"));
    }
}

fn validate_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    request(new, &Leniency::of(new, old), errs);
    let path = STATUS.child("conditions");
    let of = |obj: &Value, kind: &str| -> Vec<Value> {
        list_at(obj, "status.conditions").iter().filter(|c| str_at(c, "type") == kind).cloned().collect()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        if of(new, kind).len() < of(old, kind).len() {
            errs.forbidden(&path, format!("updates may not remove a condition of type \"{kind}\""));
        }
    }
    for kind in SEALED.iter().filter(|_| sub != Some("approval")) {
        let (now, before) = (of(new, kind), of(old, kind));
        if now.len() > before.len() {
            errs.forbidden(&path, format!("updates may not add a condition of type \"{kind}\""));
        } else if now.len() == before.len() && now != before {
            errs.forbidden(&path, format!("updates may not modify a condition of type \"{kind}\""));
        }
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
