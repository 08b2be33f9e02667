//! Rules about `metadata` that every kind shares: system fields, names, labels, annotations, owners, finalizers, immutability.

use jiff::Timestamp;
use rand::RngExt as _;
use serde_json::Value;

use super::{
    Ctx, Deletion, Strategy,
    field::{ErrorList, Path},
    names,
    value::{int_at, keep_old, list_at, member, remove, same_at, set, str_at, strings_at},
};

/// Annotations of one object may take this many bytes in sum.
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// Generated names keep room for the random suffix in 63 characters.
const MAX_GENERATED_BASE: usize = 58;
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// How a kind's names must look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain: most kinds.
    Subdomain,
    /// RFC 1123 label: namespaces.
    Label,
    /// RFC 1035 label: services.
    Label1035,
    /// Anything that fits a URL path segment: RBAC kinds.
    PathSegment,
    /// The key of a ConfigMap: LeaseCandidates.
    ConfigKey,
    /// Whatever the generic rules let pass, or rules that the kind applies itself.
    Any,
    /// A canonical IP address: IPAddress objects.
    Ip,
}

impl NameRule {
    /// The complaints about a name; `prefix` when it is a `generateName`.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked = |name: &str| match name.strip_suffix('-') {
            Some(rest) if prefix && !rest.is_empty() => format!("{}a", &rest[..rest.len() - last_char(rest)]),
            _ => name.to_string(),
        };
        match self {
            NameRule::Subdomain => names::dns1123_subdomain(&masked(name)),
            NameRule::Label => names::dns1123_label(&masked(name)),
            NameRule::Label1035 => names::dns1035_label(&masked(name)),
            NameRule::PathSegment | NameRule::Any => names::path_segment(name, prefix),
            NameRule::ConfigKey => names::config_key(name),
            NameRule::Ip => common::meta::ip::canonical_ip(name),
        }
    }
}

fn last_char(s: &str) -> usize {
    s.chars().next_back().map_or(0, char::len_utf8)
}

/// `base` plus five random characters.
pub fn generate_name(base: &str) -> String {
    let mut cut = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut name = base[..cut].to_string();
    let mut rng = rand::rng();
    for _ in 0..5 {
        name.push(SUFFIX_ALPHABET[rng.random_range(0..SUFFIX_ALPHABET.len())] as char);
    }
    name
}

/// A time as the API writes it: whole seconds, UTC.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Gives a new object its uid and creationTimestamp and wipes what clients may not choose. Called before admission, as upstream does;
/// `generateName` is turned into a name when there is none.
pub fn fill_system_fields(obj: &mut Value, now: Timestamp) {
    let Some(meta) = member(obj, "metadata") else { return };
    for wiped in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        remove(meta, wiped);
    }
    set(meta, "creationTimestamp", time(now));
    set(meta, "uid", uuid::Uuid::new_v4().to_string());
    let base = str_at(meta, "generateName");
    if !base.is_empty() && str_at(meta, "name").is_empty() {
        let name = generate_name(base);
        set(meta, "name", name);
    }
}

/// The generic part of `prepare_create`.
pub(crate) fn prepare_create(obj: &mut Value, ctx: &Ctx<'_>) {
    if str_at(obj, "metadata.uid").is_empty() || str_at(obj, "metadata.creationTimestamp").is_empty() {
        fill_system_fields(obj, ctx.now);
    }
    let Some(meta) = member(obj, "metadata") else { return };
    if ctx.namespace.is_empty() {
        remove(meta, "namespace");
    } else {
        set(meta, "namespace", ctx.namespace);
    }
}

/// The generic part of `prepare_update`: what an update can never change is quietly kept.
pub(crate) fn prepare_update(new: &mut Value, old: &Value, ctx: &Ctx<'_>) {
    let (Some(meta), Some(old_meta)) = (member(new, "metadata"), old.get("metadata")) else { return };
    if str_at(meta, "uid").is_empty() {
        keep_old(meta, old_meta, "uid");
    }
    if str_at(meta, "namespace").is_empty() && !ctx.namespace.is_empty() {
        set(meta, "namespace", ctx.namespace);
    }
    for kept in ["creationTimestamp", "deletionTimestamp"] {
        if !str_at(old_meta, kept).is_empty() {
            keep_old(meta, old_meta, kept);
        }
    }
    if int_at(meta, "deletionGracePeriodSeconds").is_none() {
        keep_old(meta, old_meta, "deletionGracePeriodSeconds");
    }
    remove(meta, "selfLink");
}

/// Kinds whose `/status` changes status alone keep the metadata, but for the managed fields.
pub(crate) fn keep_for_status(new: &mut Value, old: &Value) {
    let (Some(meta), Some(old_meta)) = (member(new, "metadata"), old.get("metadata")) else { return };
    for kept in
        ["deletionTimestamp", "generation", "selfLink", "labels", "annotations", "finalizers", "ownerReferences"]
    {
        keep_old(meta, old_meta, kept);
    }
}

/// One more than the old generation.
pub(crate) fn bump_generation(new: &mut Value, old: &Value) {
    let generation = int_at(old, "metadata.generation").unwrap_or_default() + 1;
    if let Some(meta) = member(new, "metadata") {
        set(meta, "generation", generation);
    }
}

/// Rules for a new object's metadata.
pub(crate) fn validate(obj: &Value, namespaced: bool, rule: NameRule, path: &Path<'_>, errs: &mut ErrorList) {
    let generate = str_at(obj, "metadata.generateName");
    if !generate.is_empty() {
        for text in rule.check(generate, true) {
            errs.invalid(&path.child("generateName"), generate, text);
        }
    }
    let name = str_at(obj, "metadata.name");
    if name.is_empty() {
        errs.required(&path.child("name"), "name or generateName is required");
    } else {
        for text in rule.check(name, false) {
            errs.invalid(&path.child("name"), name, text);
        }
    }
    let namespace = str_at(obj, "metadata.namespace");
    match (namespaced, namespace) {
        (true, "") => errs.required(&path.child("namespace"), ""),
        (true, namespace) => {
            for text in names::dns1123_label(namespace) {
                errs.invalid(&path.child("namespace"), namespace, text);
            }
        }
        (false, "") => {}
        (false, _) => errs.forbidden(&path.child("namespace"), "not allowed on this type"),
    }
    if let Some(generation) = int_at(obj, "metadata.generation").filter(|g| *g < 0) {
        errs.invalid(&path.child("generation"), generation, "must be greater than or equal to 0");
    }
    validate_maps(obj, path, errs);
    validate_finalizers(obj, path, errs);
}

/// Labels, annotations and owners of any `metadata`.
pub(crate) fn validate_maps(obj: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    labels(strings_at(obj, "metadata.labels"), &path.child("labels"), errs);
    annotations(obj, &path.child("annotations"), errs);
    validate_owners(obj, &path.child("ownerReferences"), errs);
}

/// A set of labels.
pub(crate) fn labels<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>, path: &Path<'_>, errs: &mut ErrorList) {
    for (key, value) in labels {
        for text in names::label_key(key) {
            errs.invalid(path, key, text);
        }
        for text in names::label_value(value) {
            errs.invalid(path, value, text);
        }
    }
}

/// `metadata.annotations` of an object.
pub(crate) fn annotations(obj: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let mut size = 0;
    for (key, value) in strings_at(obj, "metadata.annotations") {
        size += key.len() + value.len();
        for text in names::label_key(&key.to_lowercase()) {
            errs.invalid(path, key, text);
        }
    }
    if size > MAX_ANNOTATIONS {
        errs.too_long(path, MAX_ANNOTATIONS);
    }
}

fn validate_owners(obj: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let owners = list_at(obj, "metadata.ownerReferences");
    let mut controller: Option<String> = None;
    for owner in owners {
        let api_version = str_at(owner, "apiVersion");
        if api_version.is_empty() || api_version.ends_with('/') {
            errs.invalid(&path.child("apiVersion"), api_version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if str_at(owner, field).is_empty() {
                errs.invalid(&path.child(field), "", "must not be empty");
            }
        }
        if api_version == "v1" && str_at(owner, "kind") == "Event" {
            errs.invalid(path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{}/{}", str_at(owner, "kind"), str_at(owner, "name"));
            match &controller {
                Some(first) => errs.invalid(
                    path,
                    owners.to_vec(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    ),
                ),
                None => controller = Some(this),
            }
        }
    }
}

fn validate_finalizers(obj: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let path = path.child("finalizers");
    let finalizers = list_at(obj, "metadata.finalizers");
    for finalizer in finalizers.iter().filter_map(Value::as_str) {
        for text in names::label_key(finalizer) {
            errs.invalid(&path, finalizer, text);
        }
    }
    let has = |name: &str| finalizers.iter().any(|f| f.as_str() == Some(name));
    if has("orphan") && has("foregroundDeletion") {
        errs.invalid(&path, finalizers.to_vec(), "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// What most kinds ask of their finalizers beyond the generic rules.
pub(crate) fn validate_finalizer_names(obj: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let path = path.child("finalizers");
    for (at, name) in list_at(obj, "metadata.finalizers").iter().filter_map(Value::as_str).enumerate() {
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            errs.invalid(&path.index(at), name, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

/// Rules for a change of metadata: the generic rules again, and what may not change.
pub(crate) fn validate_update(new: &Value, old: &Value, namespaced: bool, path: &Path<'_>, errs: &mut ErrorList) {
    validate(new, namespaced, NameRule::PathSegment, path, errs);
    if !str_at(old, "metadata.deletionTimestamp").is_empty() {
        let old_finalizers = list_at(old, "metadata.finalizers");
        let mut added: Vec<String> = list_at(new, "metadata.finalizers")
            .iter()
            .filter(|f| !old_finalizers.contains(f))
            .filter_map(|f| f.as_str().map(super::field::go_quote))
            .collect();
        added.sort();
        added.dedup();
        if !added.is_empty() {
            let added = added.join(", ");
            errs.forbidden(
                &path.child("finalizers"),
                format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{added}}}"),
            );
        }
    }
    if str_at(new, "metadata.resourceVersion").is_empty() {
        errs.invalid(&path.child("resourceVersion"), "", "must be specified for an update");
    }
    let generation = |obj: &Value| int_at(obj, "metadata.generation").unwrap_or_default();
    if generation(new) < generation(old) {
        errs.invalid(&path.child("generation"), generation(new), "must not be decremented");
    }
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(new, old, &format!("metadata.{name}"), &path.child(name), errs);
    }
}

/// Complains when the value at `at` changed.
pub(crate) fn immutable(new: &Value, old: &Value, at: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if !same_at(new, old, at) {
        let value = super::value::at(new, at).cloned().unwrap_or_default();
        errs.invalid(path, value, "field is immutable");
    }
}

/// What to do with a delete request after upstream's rules for graceful deletion were applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletePlan {
    /// Remove now (finalizers permitting).
    Immediate,
    /// `obj` was marked (deletionTimestamp, deletionGracePeriodSeconds): store it, somebody else deletes it.
    Marked,
    /// It is being deleted gracefully already and nothing changes.
    Pending,
}

/// Applies graceful deletion to `obj`.
pub fn before_delete(strategy: &dyn Strategy, obj: &mut Value, requested: Option<i64>, now: Timestamp) -> DeletePlan {
    if !strategy.is_graceful() {
        return DeletePlan::Immediate;
    }
    let requested = requested.map(|seconds| if seconds < 0 { 1 } else { seconds });
    if let Ok(deadline) = str_at(obj, "metadata.deletionTimestamp").parse::<Timestamp>() {
        return shorten_grace(obj, deadline, requested, now);
    }
    let Deletion::Graceful(seconds) = strategy.graceful_delete(obj, requested) else { return DeletePlan::Immediate };
    mark(obj, now + jiff::SignedDuration::from_secs(seconds), seconds);
    if int_at(obj, "metadata.generation").is_some_and(|g| g > 0) {
        let old = obj.clone();
        bump_generation(obj, &old);
    }
    DeletePlan::Marked
}

fn mark(obj: &mut Value, deadline: Timestamp, seconds: i64) {
    if let Some(meta) = member(obj, "metadata") {
        set(meta, "deletionTimestamp", time(deadline));
        set(meta, "deletionGracePeriodSeconds", seconds);
    }
}

/// An object that is being deleted: its grace period can only shrink.
fn shorten_grace(obj: &mut Value, deadline: Timestamp, requested: Option<i64>, now: Timestamp) -> DeletePlan {
    let current = int_at(obj, "metadata.deletionGracePeriodSeconds").map_or(0, |s| if s < 0 { 1 } else { s });
    if current == 0 {
        return DeletePlan::Immediate;
    }
    let Some(mut seconds) = requested.filter(|seconds| *seconds < current) else { return DeletePlan::Pending };
    let mut deadline = deadline + jiff::SignedDuration::from_secs(seconds.saturating_sub(current));
    if deadline < now {
        deadline = now;
        if seconds != 0 {
            seconds = 1;
        }
    }
    mark(obj, deadline, seconds);
    DeletePlan::Marked
}
