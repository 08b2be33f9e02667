//! Which claims pods lack, and which claims nobody uses any longer. Pure.

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::shared::meta::MetaExt;
use crate::shared::owner::controller_of;
use crate::shared::pods;

/// On generated claims: which entry of the pod's list this is.
pub(super) const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// Keeps an allocated claim until it is free.
pub(super) const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Room in `status.reservedFor`.
const MOST_CONSUMERS: usize = 256;
/// With hyphen and five random characters a name has 63.
const LONGEST_BASE: usize = 57;

/// The claims that the pod's spec lists.
pub(super) fn listed(pod: &Pod) -> &[PodResourceClaim] {
    pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default()
}

/// The claim behind an entry of the pod's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// A claim that a person made.
    Given(String),
    /// Made for the pod.
    Generated(String),
    /// None is needed.
    Nothing,
    /// Not made yet, or the pod does not tell.
    Unknown,
}

/// Decides.
pub(super) fn named(pod: &Pod, entry: &PodResourceClaim) -> Named {
    if let Some(name) = &entry.resource_claim_name {
        return Named::Given(name.clone());
    }
    let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_deref()).unwrap_or_default();
    match statuses.iter().find(|status| status.name == entry.name).map(|status| &status.resource_claim_name) {
        None => Named::Unknown,
        Some(None) => Named::Nothing,
        Some(Some(name)) => Named::Generated(name.clone()),
    }
}

/// A claim made for another pod must not be used by this one.
pub(super) fn check_owner(pod: &Pod, claim: &ResourceClaim) -> Result<(), String> {
    match controller_of(&claim.metadata).is_some_and(|owner| owner.uid == pod.uid_str()) {
        true => Ok(()),
        false => Err(format!(
            "ResourceClaim {}/{} was not created for pod {}/{} (pod is not owner)",
            claim.ns_str(),
            claim.name_str(),
            pod.ns_str(),
            pod.name_str()
        )),
    }
}

/// The pod will not start, or has ended.
pub(super) fn is_done(pod: &Pod) -> bool {
    pods::is_terminal(pod) || (pod.is_deleting() && pods::node_name(pod).is_empty())
}

/// The claim of an entry, from its template.
pub(super) fn generate(pod: &Pod, entry: &PodResourceClaim, template: &ResourceClaimTemplate) -> ResourceClaim {
    let given = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM_NAME.into(), entry.name.clone());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(base_name(pod.name_str(), &entry.name)),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: Some(annotations),
            // Not blocking: the pod can go before its claim.
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Pod".into(),
                name: pod.name_str().to_owned(),
                uid: pod.uid_str().to_owned(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        ..ResourceClaim::default()
    }
}

fn base_name(pod: &str, entry: &str) -> String {
    let full = format!("{pod}-{entry}-");
    if full.len() <= LONGEST_BASE {
        return full;
    }
    // Both parts are cut in the same proportion; names are ASCII.
    let cut = |text: &str| text.chars().take(text.len() * LONGEST_BASE / full.len()).collect::<String>();
    format!("{}-{}", cut(pod), cut(entry))
}

/// Whether the scheduler was passed over and the claim has to be reserved for its pod here.
pub(super) fn wants_reservation(pod: &Pod, claim: &ResourceClaim) -> bool {
    let Some(status) = claim.status.as_ref().filter(|status| status.allocation.is_some()) else { return false };
    let consumers = status.reserved_for.as_deref().unwrap_or_default();
    consumers.len() < MOST_CONSUMERS && !consumers.iter().any(|consumer| consumer.uid == pod.uid_str())
}

/// The entry for a pod in `status.reservedFor`.
pub(super) fn consumer(pod: &Pod) -> ResourceClaimConsumerReference {
    ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".into(),
        name: pod.name_str().to_owned(),
        uid: pod.uid_str().to_owned(),
    }
}

/// Whether the consumer is a pod.
pub(super) fn is_pod(consumer: &ResourceClaimConsumerReference) -> bool {
    consumer.api_group.as_deref().unwrap_or_default().is_empty() && consumer.resource == "pods"
}

/// The claim without the consumers that are `gone`, given back when it was the last; None when nothing changes.
pub(super) fn released(
    claim: &ResourceClaim,
    gone: impl Fn(&ResourceClaimConsumerReference) -> bool,
) -> Option<ResourceClaim> {
    let mut wanted = claim.clone();
    let ours = has_finalizer(claim);
    let status = wanted.status.as_mut()?;
    let consumers = status.reserved_for.get_or_insert_default();
    let before = consumers.len();
    consumers.retain(|consumer| !gone(consumer));
    let (changed, free) = (consumers.len() < before, consumers.is_empty());
    let give_back = ours && free && status.allocation.is_some() && (changed || claim.is_deleting());
    if give_back {
        status.allocation = None;
    }
    (changed || give_back).then_some(wanted)
}

pub(super) fn has_finalizer(claim: &ResourceClaim) -> bool {
    claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Whether the finalizer has to go: the claim is free and not allocated.
pub(super) fn is_unbound(claim: &ResourceClaim) -> bool {
    let allocated = claim.status.as_ref().is_some_and(|status| status.allocation.is_some());
    has_finalizer(claim) && !allocated && is_free(claim)
}

/// Nobody uses it.
pub(super) fn is_free(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().is_none_or(|status| status.reserved_for.as_ref().is_none_or(Vec::is_empty))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(node: &str, status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p", "uid": "u"}, "status": status,
            "spec": {"nodeName": node, "containers": [], "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}]}}))
        .unwrap()
    }

    fn claim(finalizer: bool, deleting: bool, allocated: bool, consumers: &[&str]) -> ResourceClaim {
        let consumers: Vec<_> =
            consumers.iter().map(|uid| json!({"resource": "pods", "name": uid, "uid": uid})).collect();
        let allocation = allocated.then(|| json!({}));
        let finalizers: &[&str] = if finalizer { &[FINALIZER] } else { &[] };
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(
            json!({"metadata": {"namespace": "n", "name": "c", "finalizers": finalizers, "deletionTimestamp": deleted},
            "spec": {}, "status": {"allocation": allocation, "reservedFor": consumers}}),
        )
        .unwrap()
    }

    #[test]
    fn entries_name_claims() {
        let entry = |value: Value| -> PodResourceClaim { serde_json::from_value(value).unwrap() };
        let template = entry(json!({"name": "gpu", "resourceClaimTemplateName": "t"}));
        let given = entry(json!({"name": "gpu", "resourceClaimName": "mine"}));
        let with =
            |name: Value| pod("", json!({"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": name}]}));
        assert_eq!(named(&pod("", json!({})), &given), Named::Given("mine".into()));
        assert_eq!(named(&pod("", json!({})), &template), Named::Unknown);
        assert_eq!(named(&with(json!("p-gpu-x")), &template), Named::Generated("p-gpu-x".into()));
        assert_eq!(named(&with(Value::Null), &template), Named::Nothing);
    }

    #[test]
    fn claims_are_made_from_templates() {
        let template: ResourceClaimTemplate = serde_json::from_value(json!({"metadata": {"name": "t"},
            "spec": {"metadata": {"labels": {"a": "b"}}, "spec": {}}}))
        .unwrap();
        let pod = pod("", json!({}));
        let made = generate(&pod, &listed(&pod)[0], &template);
        assert_eq!(made.metadata.generate_name.as_deref(), Some("p-gpu-"));
        assert_eq!((made.annotation(POD_CLAIM_NAME), made.label("a")), (Some("gpu"), Some("b")));
        check_owner(&pod, &made).unwrap();
        let long = base_name(&"p".repeat(60), &"c".repeat(40));
        assert!(long.len() <= LONGEST_BASE && long.starts_with("ppp") && long.ends_with("ccc"), "{long}");
    }

    #[test]
    fn consumers_that_went_are_removed() {
        let gone = |consumer: &ResourceClaimConsumerReference| consumer.uid.starts_with("gone");
        let table = [
            ("both stay", claim(true, false, true, &["a", "b"]), None),
            ("one goes", claim(true, false, true, &["a", "gone"]), Some((true, 1))),
            ("the last goes", claim(true, false, true, &["gone"]), Some((false, 0))),
            ("allocated by another controller", claim(false, false, true, &["gone"]), Some((true, 0))),
            ("free and being deleted", claim(true, true, true, &[]), Some((false, 0))),
            ("free", claim(true, false, true, &[]), None),
        ];
        for (name, claim, want) in table {
            let got = released(&claim, gone).map(|claim| {
                let status = claim.status.unwrap();
                (status.allocation.is_some(), status.reserved_for.unwrap().len())
            });
            assert_eq!(got, want, "{name}");
        }
        assert!(is_unbound(&claim(true, false, false, &[])) && !is_unbound(&claim(true, false, true, &[])));
    }

    #[test]
    fn reservations() {
        let pod = pod("n1", json!({}));
        assert!(wants_reservation(&pod, &claim(true, false, true, &["x"])));
        assert!(!wants_reservation(&pod, &claim(true, false, true, &["u"])));
        assert!(!wants_reservation(&pod, &claim(true, false, false, &[])));
        assert!(is_done(&super::tests::pod("", json!({"phase": "Succeeded"}))) && !is_done(&pod));
    }
}
