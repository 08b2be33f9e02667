//! Dynamic resource allocation: claims' devices are prepared by their drivers before a pod's containers start, and given back when the
//! last pod that uses them is over.

mod drivers;
mod state;
pub mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;

use crate::pods::spec;
pub(crate) use drivers::Drivers;
use state::{Device, Driver, Info, Infos};
use wire::Claim;

/// The claims of this node's pods.
pub(crate) struct Claims {
    path: PathBuf,
    pub(crate) drivers: Arc<Drivers>,
    infos: parking_lot::Mutex<Infos>,
    /// A claim is prepared once, however many pods want it at a time.
    turn: tokio::sync::Mutex<()>,
}

/// A claim as monitoring agents see it.
pub(crate) struct Shown {
    pub(crate) name: String,
    pub(crate) devices: Vec<ShownDevice>,
}

/// A device of a claim.
pub(crate) struct ShownDevice {
    pub(crate) driver: String,
    pub(crate) pool: String,
    pub(crate) name: String,
    pub(crate) share: Option<String>,
    pub(crate) cdi: Vec<String>,
}

/// The pod's claims by their names in the pod. One that is made from a template and not wanted after all has no name in the API.
fn names(pod: &Pod) -> Result<BTreeMap<String, String>, String> {
    let mut names = BTreeMap::new();
    let status = pod.status.as_ref();
    let made = || status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    for reference in pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()) {
        if let Some(name) = &reference.resource_claim_name {
            names.insert(reference.name.clone(), name.clone());
            continue;
        }
        match made().find(|made| made.name == reference.name) {
            Some(made) => names.extend(made.resource_claim_name.clone().map(|name| (reference.name.clone(), name))),
            None => {
                return Err(format!(
                    "resource claim name for pod claim {:?} in pod {}/{} not found: pod claim not created yet",
                    reference.name,
                    spec::namespace(pod),
                    spec::name(pod)
                ));
            }
        }
    }
    Ok(names)
}

/// What a container wants: claim (by its name in the API) and request.
fn wanted(pod: &Pod, container: &Container) -> Vec<(String, String)> {
    let names = names(pod).unwrap_or_default();
    let claims = container.resources.iter().flat_map(|resources| resources.claims.iter().flatten());
    let own =
        claims.filter_map(|claim| Some((names.get(&claim.name)?.clone(), claim.request.clone().unwrap_or_default())));
    // Extended resources that the scheduler turned into a claim.
    let extended = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    let mapped = extended.into_iter().flat_map(|claim| {
        let mine = claim.request_mappings.iter().filter(|mapping| mapping.container_name == container.name);
        mine.map(|mapping| (claim.resource_claim_name.clone(), mapping.request_name.clone()))
    });
    own.chain(mapped).collect()
}

impl Claims {
    /// With what the last kubelet had prepared.
    pub(crate) fn new(root: &std::path::Path) -> anyhow::Result<Self> {
        let path = root.join("dra_manager_state");
        let infos = state::load(&path)?;
        Ok(Self { path, drivers: Arc::default(), infos: infos.into(), turn: tokio::sync::Mutex::default() })
    }

    fn save(&self) -> Result<(), String> {
        state::save(&self.path, &self.infos.lock())
            .map_err(|error| format!("failed to checkpoint claim info state: {error:#}"))
    }

    /// All claims of a pod, in the API's names.
    fn of_pod(pod: &Pod) -> Result<Vec<String>, String> {
        let mut all: Vec<String> = names(pod)?.into_values().collect();
        let extended = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
        all.extend(extended.map(|claim| claim.resource_claim_name.clone()));
        Ok(all)
    }

    /// Makes the devices of the pod's claims ready.
    pub(crate) async fn prepare(&self, client: Option<&kube::Client>, pod: &Pod) -> Result<(), String> {
        let claims = Self::of_pod(pod)?;
        if claims.is_empty() || self.is_prepared(pod, &claims) {
            return Ok(());
        }
        let client = client.ok_or("resource claims need an API server")?;
        let _turn = self.turn.lock().await;
        let api: kube::Api<ResourceClaim> = kube::Api::namespaced(client.clone(), spec::namespace(pod));
        let mut batches: BTreeMap<String, Vec<Claim>> = BTreeMap::new();
        let mut fresh = Vec::new();
        for name in claims {
            let fetched = api.get(&name).await;
            let claim = fetched.map_err(|error| {
                format!("fetch ResourceClaim {}/{name}: {}", spec::namespace(pod), common::client::brief(&error))
            })?;
            if let Some((info, drivers)) = self.admit(pod, &name, &claim)? {
                for driver in drivers {
                    batches.entry(driver).or_default().push(info.claim());
                }
                fresh.push((spec::namespace(pod).to_owned(), name));
            }
        }
        self.save()?;
        for (driver, batch) in batches {
            let answer = self.drivers.prepare(&driver, batch.clone()).await?;
            for claim in batch {
                let Some(result) = answer.claims.get(&claim.uid) else {
                    return Err(format!("NodePrepareResources skipped ResourceClaim {}", claim.name));
                };
                if !result.error.is_empty() {
                    let error = &result.error;
                    return Err(format!("NodePrepareResources failed for ResourceClaim {}: {error}", claim.name));
                }
                self.note(&claim, &driver, &result.devices);
            }
        }
        fresh.iter().for_each(|key| {
            if let Some(info) = self.infos.lock().get_mut(key) {
                info.prepared = true;
            }
        });
        self.save()
    }

    fn is_prepared(&self, pod: &Pod, claims: &[String]) -> bool {
        let infos = self.infos.lock();
        claims.iter().all(|name| {
            let info = infos.get(&(spec::namespace(pod).to_owned(), name.clone()));
            info.is_some_and(|info| info.prepared && info.pods.contains(spec::uid(pod)))
        })
    }

    /// Notes that the pod uses the claim, if it may; answers the claim with its drivers when they are to be asked.
    fn admit(&self, pod: &Pod, name: &str, claim: &ResourceClaim) -> Result<Option<(Info, Vec<String>)>, String> {
        let uid = claim.metadata.uid.clone().unwrap_or_default();
        let status = claim.status.clone().unwrap_or_default();
        let shown = format!("{}/{name}", spec::namespace(pod));
        let reserved = status.reserved_for.iter().flatten().any(|consumer| consumer.uid == spec::uid(pod));
        if !reserved {
            return Err(format!(
                "pod {}({}) is not allowed to use resource claim {name}({uid})",
                spec::name(pod),
                spec::uid(pod)
            ));
        }
        let allocation = status.allocation.ok_or_else(|| format!("claim {shown} is not allocated"))?;
        let results = allocation.devices.and_then(|devices| devices.results).unwrap_or_default();
        let mut drivers: Vec<String> = results.into_iter().map(|result| result.driver).collect();
        drivers.sort();
        drivers.dedup();
        let mut infos = self.infos.lock();
        let info = infos.entry((spec::namespace(pod).to_owned(), name.to_owned())).or_default();
        if !info.uid.is_empty() && info.uid != uid {
            return Err(format!("old ResourceClaim with same name {name} and different UID {} still exists", info.uid));
        }
        (info.uid, info.name, info.namespace) = (uid, name.to_owned(), spec::namespace(pod).to_owned());
        info.pods.insert(spec::uid(pod).to_owned());
        for driver in &drivers {
            info.drivers.entry(driver.clone()).or_default();
        }
        Ok((!info.prepared).then(|| (info.clone(), drivers)))
    }

    fn note(&self, claim: &Claim, driver: &str, devices: &[wire::Device]) {
        let device = |device: &wire::Device| Device {
            pool_name: device.pool_name.clone(),
            device_name: device.device_name.clone(),
            share_id: device.share_id.clone(),
            request_names: Some(device.request_names.clone()),
            cdi_ids: Some(device.cdi_device_ids.clone()),
        };
        let mut infos = self.infos.lock();
        if let Some(info) = infos.get_mut(&(claim.namespace.clone(), claim.name.clone())) {
            let devices = Some(devices.iter().map(device).collect());
            info.drivers.insert(driver.to_owned(), Driver { devices });
        }
    }

    /// The pod is over: gives back what no other pod uses.
    pub(crate) async fn unprepare(&self, uid: &str) -> Result<(), String> {
        let used = |info: &Info| info.pods.contains(uid);
        if !self.infos.lock().values().any(used) {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let mut batches: BTreeMap<String, Vec<Claim>> = BTreeMap::new();
        let mut over = Vec::new();
        for (key, info) in self.infos.lock().iter_mut().filter(|(_, info)| used(info)) {
            if info.pods.len() > 1 {
                info.pods.remove(uid);
                continue;
            }
            // Till all drivers have answered the pod keeps it; a new pod must have it prepared anew.
            info.prepared = false;
            over.push(key.clone());
            for driver in info.drivers.keys() {
                batches.entry(driver.clone()).or_default().push(info.claim());
            }
        }
        for (driver, batch) in batches {
            let answer = self.drivers.unprepare(&driver, batch.clone()).await?;
            for claim in batch {
                let Some(result) = answer.claims.get(&claim.uid) else {
                    return Err(format!("NodeUnprepareResources skipped ResourceClaim {}", claim.name));
                };
                if !result.error.is_empty() {
                    let error = &result.error;
                    return Err(format!("NodeUnprepareResources failed for ResourceClaim {}: {error}", claim.name));
                }
            }
        }
        self.infos.lock().retain(|key, _| !over.contains(key));
        self.save()
    }

    /// Pods that still have claims.
    pub(crate) fn pods(&self) -> Vec<String> {
        self.infos.lock().values().flat_map(|info| info.pods.iter().cloned()).collect()
    }

    /// CDI names of the devices that a container wants.
    pub(crate) fn cdi_of(&self, pod: &Pod, container: &Container) -> Vec<String> {
        let infos = self.infos.lock();
        let mut ids = Vec::new();
        for (claim, request) in wanted(pod, container) {
            let Some(info) = infos.get(&(spec::namespace(pod).to_owned(), claim)) else { continue };
            ids.extend(info.devices(&request).flat_map(|(_, device)| device.cdi_ids.iter().flatten().cloned()));
        }
        ids
    }

    /// Claims of a container, for monitoring agents.
    pub(crate) fn shown(&self, pod: &Pod, container: &str) -> Vec<Shown> {
        let Some(container) = pod.spec.as_ref().and_then(|spec| spec::container(spec, container)) else {
            return Vec::new();
        };
        let infos = self.infos.lock();
        let claims = wanted(pod, &container).into_iter();
        claims
            .filter_map(|(name, request)| {
                let info = infos.get(&(spec::namespace(pod).to_owned(), name.clone()))?;
                let devices = info.devices(&request).map(|(driver, device)| ShownDevice {
                    driver: driver.clone(),
                    pool: device.pool_name.clone(),
                    name: device.device_name.clone(),
                    share: device.share_id.clone(),
                    cdi: device.cdi_ids.clone().unwrap_or_default(),
                });
                Some(Shown { name, devices: devices.collect() })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_have_the_claims_that_they_name() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {
                "resourceClaims": [{"name": "a", "resourceClaimName": "claim"}, {"name": "b", "resourceClaimTemplateName": "t"}],
                "containers": [
                    {"name": "one", "resources": {"claims": [{"name": "a", "request": "r"}, {"name": "b"}]}},
                    {"name": "two", "resources": {"limits": {"example.com/x": "1"}}},
                ],
            },
            "status": {
                "resourceClaimStatuses": [{"name": "b", "resourceClaimName": "made"}],
                "extendedResourceClaimStatus": {"resourceClaimName": "extended", "requestMappings": [
                    {"containerName": "two", "resourceName": "example.com/x", "requestName": "container-1-request-0"}]},
            },
        }))
        .unwrap();
        let containers = &pod.spec.as_ref().unwrap().containers;
        let pair = |claim: &str, request: &str| (claim.to_owned(), request.to_owned());
        assert_eq!(wanted(&pod, &containers[0]), [pair("claim", "r"), pair("made", "")]);
        assert_eq!(wanted(&pod, &containers[1]), [pair("extended", "container-1-request-0")]);
        assert_eq!(Claims::of_pod(&pod).unwrap(), ["claim", "made", "extended"]);
        let early = Pod { status: None, ..pod.clone() };
        assert!(Claims::of_pod(&early).unwrap_err().contains("not created yet"));
    }

    #[test]
    fn only_pods_that_it_is_reserved_for_use_a_claim() {
        let directory = tempfile::tempdir().unwrap();
        let claims = Claims::new(directory.path()).unwrap();
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}})).unwrap();
        let claim = |uid: &str, reserved: &str| -> ResourceClaim {
            let result = json!({"request": "r", "driver": "d", "pool": "p", "device": "x"});
            serde_json::from_value(json!({
                "metadata": {"name": "c", "uid": uid}, "spec": {},
                "status": {"allocation": {"devices": {"results": [result]}},
                    "reservedFor": [{"resource": "pods", "name": "p", "uid": reserved}]},
            }))
            .unwrap()
        };
        let refused = claims.admit(&pod, "c", &claim("1", "other")).unwrap_err();
        assert_eq!(refused, "pod p(u) is not allowed to use resource claim c(1)");
        let (_, drivers) = claims.admit(&pod, "c", &claim("1", "u")).unwrap().unwrap();
        assert_eq!(drivers, ["d"]);
        assert!(claims.admit(&pod, "c", &claim("2", "u")).unwrap_err().contains("different UID 1 still exists"));
    }
}
