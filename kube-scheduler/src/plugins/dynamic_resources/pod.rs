//! A pod's claims: what they are called, whether they are there, and whether the pod may use them.

use std::sync::Arc;

use k8s_openapi::api::resource::v1::ResourceClaim;

use super::claims::Claims;
use crate::framework::pod::PodInfo;

/// The pod's claims, in the order of its spec. Claims that were left out on purpose are skipped.
pub fn claims_of(pod: &PodInfo, claims: &Claims) -> Result<Vec<Arc<ResourceClaim>>, String> {
    let mut found = Vec::new();
    for reference in &pod.template.resource_claims {
        let (name, generated) = match (&reference.claim, &reference.template) {
            (Some(name), _) => (Some(name.as_str()), false),
            (None, Some(_)) => {
                let mut statuses = pod.claims.iter().flat_map(|all| all.iter());
                let status = statuses.find(|status| *status.name == *reference.name);
                let missing = || format!("pod {:?}: ResourceClaim not created yet", pod.key());
                (status.ok_or_else(missing)?.claim.as_deref(), true)
            }
            (None, None) => {
                let (pod, name) = (pod.key(), &reference.name);
                return Err(format!("pod {pod:?}, spec.resourceClaim {name:?}: none of the supported fields are set"));
            }
        };
        let Some(name) = name else { continue };
        let key = || format!("could not find ResourceClaim \"{}/{name}\"", pod.namespace());
        let claim = claims.get(pod.namespace(), name).ok_or_else(key)?;
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("resourceclaim {name:?} is being deleted"));
        }
        if generated && !is_owned_by(&claim, pod) {
            let namespace = pod.namespace();
            return Err(format!(
                "ResourceClaim {namespace}/{name} was not created for Pod {namespace}/{} (Pod is not owner)",
                pod.name
            ));
        }
        found.push(claim);
    }
    Ok(found)
}

fn is_owned_by(claim: &ResourceClaim, pod: &PodInfo) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.controller == Some(true) && *owner.uid == *pod.uid)
}

/// Whether the claim is reserved for the pod.
pub fn is_reserved(claim: &ResourceClaim, pod: &PodInfo) -> bool {
    let reserved = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    reserved.into_iter().any(|consumer| *consumer.uid == *pod.uid)
}
