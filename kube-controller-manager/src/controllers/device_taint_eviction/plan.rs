//! How long a claim's devices, as they are tainted, leave its pods running. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::resource::v1::{
    Device, DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};

/// The devices that the claim was given.
pub(super) fn allocated(claim: &ResourceClaim) -> &[DeviceRequestAllocationResult] {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let results = allocation.and_then(|allocation| allocation.devices.as_ref()).and_then(|d| d.results.as_ref());
    results.map(Vec::as_slice).unwrap_or_default()
}

/// Driver and pool, as an index key.
pub(super) fn pool_of(result: &DeviceRequestAllocationResult) -> String {
    format!("{}/{}", result.driver, result.pool)
}

/// Driver and pool of a slice, as an index key.
pub(super) fn pool_of_slice(slice: &ResourceSlice) -> String {
    format!("{}/{}", slice.spec.driver, slice.spec.pool.name)
}

/// Keeps of a slice what is looked at here: the tainted devices and their taints.
pub(super) fn trim(slice: &mut ResourceSlice) {
    slice.metadata.managed_fields = None;
    slice.spec.shared_counters = None;
    let devices = slice.spec.devices.take().unwrap_or_default().into_iter();
    let tainted = devices.filter(|device| device.taints.iter().flatten().any(evicts));
    let bare = |device: Device| Device { name: device.name, taints: device.taints, ..Device::default() };
    slice.spec.devices = Some(tainted.map(bare).collect());
}

fn evicts(taint: &DeviceTaint) -> bool {
    taint.effect == "NoExecute"
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let any_or = |wanted: Option<&String>, is: &str| wanted.is_none_or(|wanted| wanted.is_empty() || wanted == is);
    let value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        Some(_) => false,
    };
    any_or(toleration.effect.as_ref(), &taint.effect) && any_or(toleration.key.as_ref(), &taint.key) && value
}

/// When this taint ends the use of a device with these tolerations, if it does.
fn ends(taint: &DeviceTaint, tolerations: &[DeviceToleration]) -> Option<Timestamp> {
    let added = taint.time_added.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let mut matching = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
    if matching.peek().is_none() {
        return Some(added);
    }
    // For ever, unless one says how long; of several the shortest.
    let shortest = matching.filter_map(|toleration| toleration.toleration_seconds).min()?;
    Some(added.checked_add(SignedDuration::from_secs(shortest.max(0))).unwrap_or(Timestamp::MAX))
}

/// When the pods of a claim have to go, if ever. `slices` are those of the claim's pools.
pub(super) fn eviction_time<'a>(
    claim: &ResourceClaim,
    slices: impl Iterator<Item = &'a ResourceSlice> + Clone,
) -> Option<Timestamp> {
    let device_ends = |result: &DeviceRequestAllocationResult| {
        let of_pool = || slices.clone().filter(|slice| pool_of_slice(slice) == pool_of(result));
        // A driver that renews its pool leaves old slices for a while.
        let newest = of_pool().map(|slice| slice.spec.pool.generation).max()?;
        let current = of_pool().filter(|slice| slice.spec.pool.generation == newest);
        let devices = current.flat_map(|slice| slice.spec.devices.iter().flatten());
        let taints =
            devices.filter(|device| device.name == result.device).flat_map(|device| device.taints.iter().flatten());
        let tolerations = result.tolerations.as_deref().unwrap_or_default();
        taints.filter(|taint| evicts(taint)).filter_map(|taint| ends(taint, tolerations)).min()
    };
    allocated(claim).iter().filter_map(device_ends).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ADDED: &str = "2026-01-01T00:00:00Z";

    fn slice(generation: i64, taints: Value) -> ResourceSlice {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"driver": "d", "nodeName": "n",
            "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
            "devices": [{"name": "gpu", "taints": taints, "attributes": {}}, {"name": "other"}]}}))
        .unwrap()
    }

    fn claim(device: &str, tolerations: Value) -> ResourceClaim {
        let result = json!({"request": "r", "driver": "d", "pool": "p", "device": device, "tolerations": tolerations});
        serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {},
            "status": {"allocation": {"devices": {"results": [result]}}}}))
        .unwrap()
    }

    #[test]
    fn taints_and_tolerations() {
        let taint = |effect: &str| json!([{"key": "k", "value": "v", "effect": effect, "timeAdded": ADDED}]);
        let added: Timestamp = ADDED.parse().unwrap();
        let later = added + SignedDuration::from_secs(30);
        let table = [
            ("not tainted", json!([]), json!([]), None),
            ("no new pods", taint("NoSchedule"), json!([]), None),
            ("tainted", taint("NoExecute"), json!([]), Some(added)),
            ("tolerated", taint("NoExecute"), json!([{"operator": "Exists"}]), None),
            ("this value", taint("NoExecute"), json!([{"key": "k", "value": "v"}]), None),
            ("another value", taint("NoExecute"), json!([{"key": "k", "value": "w"}]), Some(added)),
            (
                "another effect",
                taint("NoExecute"),
                json!([{"operator": "Exists", "effect": "NoSchedule"}]),
                Some(added),
            ),
            (
                "for a time",
                taint("NoExecute"),
                json!([{"operator": "Exists", "tolerationSeconds": 60}, {"operator": "Exists", "tolerationSeconds": 30}]),
                Some(later),
            ),
        ];
        for (name, taints, tolerations, want) in table {
            let mut slice = slice(1, taints);
            trim(&mut slice);
            assert_eq!(eviction_time(&claim("gpu", tolerations), [&slice].into_iter()), want, "{name}");
        }
        let tainted = slice(1, taint("NoExecute"));
        assert_eq!(eviction_time(&claim("other", json!([])), [&tainted].into_iter()), None);
        // The pool was renewed: the old slice counts no more.
        let renewed = slice(2, json!([]));
        assert_eq!(eviction_time(&claim("gpu", json!([])), [&tainted, &renewed].into_iter()), None);
    }

    #[test]
    fn slices_are_trimmed() {
        let mut slice = slice(1, json!([{"key": "k", "effect": "NoExecute"}]));
        trim(&mut slice);
        let devices = slice.spec.devices.unwrap();
        assert_eq!((devices.len(), devices[0].name.as_str(), devices[0].attributes.is_none()), (1, "gpu", true));
    }
}
