//! Extended resources backed by devices (KEP-5004): a pod that asks for `example.com/gpu` on a node whose kubelet offers none
//! gets devices of the class that names this resource, by a claim that the scheduler makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ContainerExtendedResourceRequest;
use k8s_openapi::api::resource::v1::{DeviceClaim, DeviceRequest, ExactDeviceRequest, ResourceClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::claims::EXTENDED_CLAIM;
use super::cluster::{Devices, is_extended};
use super::cycle::Special;
use crate::cache::snapshot::NodeView;
use crate::framework::pod::PodInfo;
use crate::framework::template::ExtendedContainer;

/// The claim's name as long as it is in memory only.
pub const IN_MEMORY: &str = "<extended-resources>";

/// The special claim of a pod, if devices stand behind any resource that it asks for.
pub fn special(pod: &PodInfo, devices: &Devices) -> Option<Special> {
    let mut asked = pod.template.requests.scalars.iter().filter(|(_, amount)| *amount != 0);
    if !asked.any(|(name, _)| devices.backs(name)) {
        return None;
    }
    if let Some(claim) = devices.claims.extended(&pod.uid) {
        return Some(Special { claim, stale: true });
    }
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: pod.name.to_string(),
        uid: pod.uid.to_string(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let metadata = ObjectMeta {
        name: Some(IN_MEMORY.into()),
        namespace: Some(pod.namespace().into()),
        generate_name: Some(format!("{}-extended-resources-", pod.name)),
        uid: Some(uuid::Uuid::new_v4().to_string()),
        owner_references: Some(vec![owner]),
        annotations: Some(BTreeMap::from([(EXTENDED_CLAIM.to_owned(), "true".to_owned())])),
        ..ObjectMeta::default()
    };
    Some(Special { claim: Arc::new(ResourceClaim { metadata, ..ResourceClaim::default() }), stale: false })
}

/// Which resources of the pod a node offers by devices only; `None` when it does not offer one at all.
pub fn backed_on(pod: &PodInfo, node: &NodeView<'_>, devices: &Devices) -> Option<Vec<Arc<str>>> {
    let mut backed = Vec::new();
    for (name, amount) in &pod.template.requests.scalars {
        if *amount == 0 || !is_extended(name) {
            continue;
        }
        let offered = node.snapshot.resources.column(name).map_or(0, |column| node.allocatable(column));
        match (offered, devices.backs(name)) {
            (0, true) => backed.push(name.clone()),
            (0, false) => return None,
            _ => {}
        }
    }
    backed.sort();
    Some(backed)
}

type Mappings = Vec<ContainerExtendedResourceRequest>;

/// The special claim with a request per container and resource, and which container uses which request.
pub fn requests(
    pod: &PodInfo,
    claim: &ResourceClaim,
    backed: &[Arc<str>],
    devices: &Devices,
) -> (Arc<ResourceClaim>, Mappings) {
    let mut requests = Vec::new();
    let mut mappings = Mappings::new();
    for resource in backed {
        let Some(class) = devices.class_of(resource).and_then(|class| class.metadata.name.clone()) else { continue };
        let (own, mapped) = of_resource(&pod.template.extended, resource);
        let request = |(name, count)| DeviceRequest {
            name,
            exactly: Some(ExactDeviceRequest {
                device_class_name: class.clone(),
                allocation_mode: Some("ExactCount".into()),
                count: Some(count),
                ..ExactDeviceRequest::default()
            }),
            first_available: None,
        };
        requests.extend(own.into_iter().map(request));
        mappings.extend(mapped);
    }
    requests.sort_by(|a, b| a.name.cmp(&b.name));
    let mut claim = claim.clone();
    claim.spec.devices = Some(DeviceClaim { requests: Some(requests), ..DeviceClaim::default() });
    (Arc::new(claim), mappings)
}

/// Requests (name and count) for one resource. Containers that live as long as the pod have one each; ordinary init
/// containers use those of containers that start later, and share one request for what they need beyond.
fn of_resource(containers: &[ExtendedContainer], resource: &str) -> (Vec<(String, i64)>, Mappings) {
    let wants = |at: usize| {
        let requests = &containers[at].requests;
        let index = requests.iter().position(|(name, _)| name == resource)?;
        Some((index, requests[index].1)).filter(|(_, amount)| *amount > 0)
    };
    let mapping = |at: usize, request: &str| ContainerExtendedResourceRequest {
        container_name: containers[at].name.clone(),
        resource_name: resource.to_owned(),
        request_name: request.to_owned(),
    };
    let name = |at: usize, index: usize| format!("container-{at}-request-{index}");
    let mut lasting: Vec<Option<(String, i64)>> = vec![None; containers.len()];
    let mut mappings = Mappings::new();
    for at in (0..containers.len()).filter(|at| !containers[*at].passing) {
        if let Some((index, amount)) = wants(at) {
            mappings.push(mapping(at, &name(at, index)));
            lasting[at] = Some((name(at, index), amount));
        }
    }
    let mut most: Option<(String, i64)> = None;
    let mut passing = Vec::new();
    for at in (0..containers.len()).filter(|at| containers[*at].passing) {
        let Some((index, amount)) = wants(at) else { continue };
        let mut left = amount;
        for (request, count) in lasting[at..].iter().flatten() {
            if left <= 0 {
                break;
            }
            left -= count;
            passing.push((at, Some(request.clone())));
        }
        if left > 0 {
            passing.push((at, None));
            if most.as_ref().is_none_or(|(_, count)| *count < left) {
                most = Some((name(at, index), left));
            }
        }
    }
    let shared = most.as_ref().map(|(name, _)| name.clone()).unwrap_or_default();
    mappings.extend(passing.into_iter().map(|(at, request)| mapping(at, request.as_ref().unwrap_or(&shared))));
    (most.into_iter().chain(lasting.into_iter().flatten()).collect(), mappings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_containers_use_what_comes_later() {
        let container = |name: &str, passing, amount| ExtendedContainer {
            name: name.into(),
            passing,
            requests: vec![("cpu".into(), 1), ("example.com/gpu".into(), amount)],
        };
        let containers = [
            container("init-1", true, 5),
            container("side", false, 1),
            container("init-2", true, 2),
            container("main", false, 3),
        ];
        let (requests, mappings) = of_resource(&containers, "example.com/gpu");
        let expected = [("container-0-request-1", 1), ("container-1-request-1", 1), ("container-3-request-1", 3)];
        assert_eq!(requests, expected.map(|(name, count)| (name.to_owned(), count)));
        let pairs: Vec<_> = mappings.iter().map(|m| (m.container_name.as_str(), m.request_name.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("side", "container-1-request-1"),
                ("main", "container-3-request-1"),
                ("init-1", "container-1-request-1"),
                ("init-1", "container-3-request-1"),
                ("init-1", "container-0-request-1"),
                ("init-2", "container-3-request-1"),
            ]
        );
    }
}
