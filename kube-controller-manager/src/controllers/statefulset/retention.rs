//! Who owns a claim: by `persistentVolumeClaimRetentionPolicy` the set, the pod that is scaled away, or nobody. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::facts::{StatefulSetExt, ordinal};
use crate::shared::meta::MetaExt;
use crate::shared::owned::Owner;
use crate::shared::owner::controller_ref;

fn owners(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or(&[])
}

fn names_set(reference: &OwnerReference, set: &StatefulSet) -> bool {
    reference.api_version == StatefulSet::API_VERSION
        && reference.kind == StatefulSet::KIND
        && reference.name == set.name_str()
}

fn names_pod(reference: &OwnerReference, pod: &Pod) -> bool {
    reference.api_version == "v1" && reference.kind == "Pod" && reference.name == pod.name_str()
}

/// The claim belongs to an earlier pod of this name: it is about to go with it.
pub(super) fn is_of_earlier_pod(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    owners(claim).iter().find(|r| names_pod(r, pod)).is_some_and(|r| r.uid != pod.uid_str())
}

fn is_of_earlier_set(claim: &PersistentVolumeClaim, set: &StatefulSet) -> bool {
    owners(claim).iter().find(|r| names_set(r, set)).is_some_and(|r| r.uid != set.uid_str())
}

/// Does somebody else manage the claim, so that the policy must not?
pub(super) fn has_other_controller(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> bool {
    if set.retention() == (false, false) {
        return false;
    }
    owners(claim).iter().any(|r| {
        if names_set(r, set) {
            r.uid != set.uid_str()
        } else if names_pod(r, pod) {
            r.uid != pod.uid_str()
        } else {
            r.controller == Some(true)
        }
    })
}

/// (the set, the pod): who is to own the claim.
fn wanted(set: &StatefulSet, pod: &Pod) -> (bool, bool) {
    let scaled_down = !ordinal(pod).is_some_and(|o| set.wants(o));
    match set.retention() {
        (false, false) => (false, false),
        (true, false) => (true, false),
        (false, true) => (false, scaled_down),
        (true, true) => (!scaled_down, scaled_down),
    }
}

/// Is the claim owned as the policy says, or none of our business?
pub(super) fn is_current(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> bool {
    if is_of_earlier_set(claim, set) || is_of_earlier_pod(claim, pod) {
        return true;
    }
    let has = |uid: &str| owners(claim).iter().any(|r| r.uid == uid);
    let has = (has(set.uid_str()), has(pod.uid_str()));
    if has_other_controller(claim, set, pod) {
        return has == (false, false);
    }
    let ours = |r: &&OwnerReference| r.uid == set.uid_str() || r.uid == pod.uid_str();
    owners(claim).iter().filter(ours).all(|r| r.controller == Some(true)) && has == wanted(set, pod)
}

/// Gives the claim the owners that the policy wants.
pub(super) fn apply(claim: &mut PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) {
    let foreign = has_other_controller(claim, set, pod);
    let mut list = claim.metadata.owner_references.take().unwrap_or_default();
    list.retain(|r| !names_set(r, set) && !names_pod(r, pod));
    let (by_set, by_pod) = if foreign { (false, false) } else { wanted(set, pod) };
    let mut add = |reference: OwnerReference| {
        if list.iter().all(|r| r.uid != reference.uid) {
            list.push(reference);
        }
    };
    if by_pod {
        add(controller_ref(pod, "v1", "Pod"));
    }
    if by_set {
        add(set.reference());
    }
    claim.metadata.owner_references = Some(list);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn owners_follow_the_policy() {
        let set = |deleted: &str, scaled: &str| -> StatefulSet {
            serde_json::from_value(
                json!({"metadata": {"name": "web", "uid": "S"}, "spec": {"replicas": 2, "selector": {}, "template": {},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}}),
            )
            .unwrap()
        };
        let pod =
            |name: &str| -> Pod { serde_json::from_value(json!({"metadata": {"name": name, "uid": "P"}})).unwrap() };
        let claim = |owners: Value| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": "c", "ownerReferences": owners}})).unwrap()
        };
        let uids = |c: &PersistentVolumeClaim| owners(c).iter().map(|r| r.uid.clone()).collect::<Vec<_>>().join(",");
        let of_set =
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "S", "controller": true});
        let of_pod =
            |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "P", "controller": true});
        for (policy, name, before, current, after) in [
            (("Retain", "Retain"), "web-0", json!([]), true, ""),
            (("Retain", "Retain"), "web-0", json!([of_set]), false, ""),
            (("Delete", "Retain"), "web-0", json!([]), false, "S"),
            (("Delete", "Retain"), "web-5", json!([of_set]), true, "S"),
            (("Retain", "Delete"), "web-0", json!([]), true, ""),
            (("Retain", "Delete"), "web-5", json!([]), false, "P"),
            (("Delete", "Delete"), "web-0", json!([]), false, "S"),
            (("Delete", "Delete"), "web-5", json!([of_set]), false, "P"),
            (("Delete", "Delete"), "web-0", json!([of_pod("web-0")]), false, "S"),
        ] {
            let (set, pod, mut claim) = (set(policy.0, policy.1), pod(name), claim(before.clone()));
            let case = format!("{policy:?} {name} {before}");
            assert_eq!(is_current(&claim, &set, &pod), current, "{case}");
            apply(&mut claim, &set, &pod);
            assert_eq!(uids(&claim), after, "{case}");
            assert!(is_current(&claim, &set, &pod), "{case}");
        }
        // Of others: left alone, and of earlier pods: waited for.
        let (set, pod) = (set("Delete", "Delete"), pod("web-0"));
        let foreign = json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": "X", "controller": true});
        assert!(is_current(&claim(json!([foreign])), &set, &pod));
        let mut both = claim(json!([foreign, of_set]));
        assert!(!is_current(&both, &set, &pod));
        apply(&mut both, &set, &pod);
        assert_eq!(uids(&both), "X");
        let mut earlier = of_pod("web-0");
        earlier["uid"] = json!("old");
        assert!(is_current(&claim(json!([earlier])), &set, &pod) && is_of_earlier_pod(&claim(json!([earlier])), &pod));
        let mut plain = of_set;
        plain["controller"] = json!(false);
        assert!(!is_current(&claim(json!([plain])), &set, &pod));
    }
}
