//! resource.k8s.io/v1beta1, which nests differently: a device's facts below `basic`, a request's facts beside its name.

use serde_json::{Map, Value};

/// Members that a v1beta1 request carries itself and later versions carry below `exactly`.
const EXACTLY: [&str; 7] =
    ["deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity"];

/// Turns the stored v1 form into v1beta1.
pub(super) fn to_v1beta1(object: &mut Value, kind: &str) {
    for request in requests(object, kind) {
        if let Some(Value::Object(exactly)) = request.remove("exactly") {
            request.extend(exactly);
        }
    }
    for device in devices(object, kind) {
        let basic: Map<String, Value> = std::mem::take(device);
        let (named, rest): (Map<_, _>, Map<_, _>) = basic.into_iter().partition(|(key, _)| key == "name");
        *device = named;
        device.insert("basic".to_owned(), rest.into());
    }
}

/// Turns v1beta1 into the stored v1 form.
pub(super) fn from_v1beta1(object: &mut Value, kind: &str) {
    for request in requests(object, kind) {
        let mut exactly = Map::new();
        for member in EXACTLY {
            exactly.extend(request.remove(member).filter(|v| !v.is_null()).map(|value| (member.to_owned(), value)));
        }
        if !exactly.is_empty() {
            request.insert("exactly".to_owned(), exactly.into());
        }
    }
    for device in devices(object, kind) {
        if let Some(Value::Object(basic)) = device.remove("basic") {
            device.extend(basic);
        }
    }
}

fn requests<'a>(object: &'a mut Value, kind: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = match kind {
        "ResourceClaim" => object.pointer_mut("/spec/devices/requests"),
        "ResourceClaimTemplate" => object.pointer_mut("/spec/spec/devices/requests"),
        _ => None,
    };
    list.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn devices<'a>(object: &'a mut Value, kind: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = if kind == "ResourceSlice" { object.pointer_mut("/spec/devices") } else { None };
    list.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_and_devices_change_their_nesting_and_back() {
        let claim = json!({"spec": {"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "c", "count": 1}}, {"name": "b", "firstAvailable": [{"name": "x"}]}]}}});
        let mut old = claim.clone();
        to_v1beta1(&mut old, "ResourceClaim");
        assert_eq!(old["spec"]["devices"]["requests"][0], json!({"name": "a", "deviceClassName": "c", "count": 1}));
        from_v1beta1(&mut old, "ResourceClaim");
        assert_eq!(old, claim);
        let slice = json!({"spec": {"devices": [{"name": "d", "capacity": {"m": {"value": "1"}}}]}});
        let mut old = slice.clone();
        to_v1beta1(&mut old, "ResourceSlice");
        assert_eq!(old["spec"]["devices"][0], json!({"name": "d", "basic": {"capacity": {"m": {"value": "1"}}}}));
        from_v1beta1(&mut old, "ResourceSlice");
        assert_eq!(old, slice);
    }
}
