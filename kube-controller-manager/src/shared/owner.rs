//! Claiming dependants by controllerRef: a controller owns what points at it and matches its
//! selector, adopts orphans that match and releases what matches no more.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::meta::MetaExt;

/// The reference that manages the object, if any.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_deref().unwrap_or(&[]).iter().find(|r| r.controller == Some(true))
}

/// A managing reference to `owner`.
pub(crate) fn controller_ref(owner: &impl MetaExt, api_version: &str, kind: &str) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: owner.name_str().to_owned(),
        uid: owner.uid_str().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What to do with one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Owned and matching.
    Keep,
    /// Somebody else's, or nothing to do.
    Ignore,
    /// An orphan that matches: take it (after asking the server that the owner still lives).
    Adopt,
    /// Owned, but it matches no more: let it go.
    Release,
}

/// Decides for one candidate. `matches` is the owner's selector (and filter) on it.
pub(crate) fn claim(owner: &ObjectMeta, object: &ObjectMeta, matches: bool) -> Claim {
    let owner_deleting = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_deleting || !matches || object.deletion_timestamp.is_some() => Claim::Ignore,
        None if owner.namespace.is_some() && owner.namespace != object.namespace => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The strategic merge patch that adopts; the UID makes sure it hits the object that was seen.
pub(crate) fn adopt_patch(object: &ObjectMeta, reference: &OwnerReference) -> Value {
    json!({"metadata": {"uid": object.uid, "ownerReferences": [reference]}})
}

/// The strategic merge patch that releases.
pub(crate) fn release_patch(object: &ObjectMeta, owner_uid: &str) -> Value {
    json!({"metadata": {"uid": object.uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn meta(uid: &str, owner: Option<&str>, deleting: bool) -> ObjectMeta {
        ObjectMeta {
            namespace: Some("ns".into()),
            uid: Some(uid.into()),
            deletion_timestamp: deleting.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
            owner_references: owner
                .map(|o| vec![OwnerReference { uid: o.into(), controller: Some(true), ..OwnerReference::default() }]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn claims() {
        let live = meta("o", None, false);
        let dying = meta("o", None, true);
        let table = [
            ("owned and matching", &live, meta("p", Some("o"), false), true, Claim::Keep),
            ("owned, matching, owner dying", &dying, meta("p", Some("o"), false), true, Claim::Keep),
            ("owned, not matching", &live, meta("p", Some("o"), false), false, Claim::Release),
            ("owned, not matching, owner dying", &dying, meta("p", Some("o"), false), false, Claim::Ignore),
            ("another's", &live, meta("p", Some("x"), false), true, Claim::Ignore),
            ("orphan", &live, meta("p", None, false), true, Claim::Adopt),
            ("orphan, owner dying", &dying, meta("p", None, false), true, Claim::Ignore),
            ("dying orphan", &live, meta("p", None, true), true, Claim::Ignore),
            ("orphan, not matching", &live, meta("p", None, false), false, Claim::Ignore),
        ];
        for (name, owner, object, matches, want) in table {
            assert_eq!(claim(owner, &object, matches), want, "{name}");
        }
        let mut elsewhere = meta("p", None, false);
        elsewhere.namespace = Some("other".into());
        assert_eq!(claim(&live, &elsewhere, true), Claim::Ignore);
    }
}
