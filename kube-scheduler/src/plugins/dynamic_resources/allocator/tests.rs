//! Table tests of allocation: one cluster, one claim (or more), one node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};
use serde_json::{Value, json};

use super::*;
use crate::plugins::dynamic_resources::cel::Programs;

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn slice(name: &str, spec: Value) -> Arc<ResourceSlice> {
    let mut spec = spec;
    spec["driver"] = json!("gpu.example.com");
    if spec["pool"].is_null() {
        spec["pool"] = json!({"name": "pool", "generation": 1, "resourceSliceCount": 1});
    }
    Arc::new(parse(json!({"metadata": {"name": name}, "spec": spec})))
}

fn claim(name: &str, devices: Value) -> Arc<ResourceClaim> {
    Arc::new(parse(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"devices": devices}})))
}

fn class(name: &str) -> Option<Arc<DeviceClass>> {
    let spec = match name {
        "any" => json!({"config": [{"opaque": {"driver": "gpu.example.com", "parameters": {"from": "class"}}}]}),
        "big" => json!({"selectors": [{"cel": {"expression": "device.attributes['gpu.example.com'].size > 5"}}]}),
        "broken" => json!({"selectors": [{"cel": {"expression": "nope"}}]}),
        _ => return None,
    };
    Some(Arc::new(parse(json!({"metadata": {"name": name}, "spec": spec}))))
}

fn node(name: &str) -> Arc<Node> {
    Arc::new(parse(json!({"metadata": {"name": name, "labels": {"zone": "a"}}})))
}

struct Cluster {
    slices: Vec<Arc<ResourceSlice>>,
    allocated: Allocated,
    features: Features,
}

impl Cluster {
    fn new(slices: Vec<Arc<ResourceSlice>>) -> Self {
        Self { slices, allocated: Allocated::default(), features: Features::default() }
    }

    fn taken(mut self, devices: Value) -> Self {
        self.allocated.add(&parse(json!({"devices": {"results": devices}})), true);
        self
    }

    fn try_on(&self, name: &str, claims: &[Arc<ResourceClaim>]) -> Result<Vec<AllocationResult>, Failure> {
        let problem = Problem::new(claims, class, &Programs::default(), self.features).map_err(Failure::Error)?;
        let inventory = Inventory::new(self.features, self.slices.clone(), &Inventory::default());
        allocate(&problem, &inventory, &self.allocated, &node(name), None)
    }

    /// `request=device` of every claim, or what went wrong.
    fn picks(&self, claims: &[Arc<ResourceClaim>]) -> Result<Vec<String>, Failure> {
        let results = self.try_on("n1", claims)?;
        let devices =
            results.into_iter().flat_map(|result| result.devices.unwrap_or_default().results.unwrap_or_default());
        Ok(devices.map(|result| format!("{}={}", result.request, result.device)).collect())
    }
}

fn one(request: Value) -> Vec<Arc<ResourceClaim>> {
    vec![claim("c", json!({"requests": [{"name": "r", "exactly": request}]}))]
}

fn exact(class: &str, count: i64) -> Value {
    json!({"deviceClassName": class, "allocationMode": "ExactCount", "count": count})
}

fn all(class: &str) -> Value {
    json!({"deviceClassName": class, "allocationMode": "All"})
}

fn sizes(sizes: &[i64]) -> Value {
    let device = |(at, size): (usize, &i64)| json!({"name": format!("d{at}"), "attributes": {"size": {"int": size}}});
    sizes.iter().enumerate().map(device).collect()
}

fn error(text: &str) -> Result<Vec<String>, Failure> {
    Err(Failure::Error(text.into()))
}

#[test]
fn counts_classes_and_devices_in_use() {
    let cluster = || Cluster::new(vec![slice("s", json!({"nodeName": "n1", "devices": sizes(&[1, 9, 7])}))]);
    let unfit = Err(Failure::Unfit);
    for (request, expected) in [
        (exact("any", 1), Ok(vec!["r=d0"])),
        (exact("any", 3), Ok(vec!["r=d0", "r=d1", "r=d2"])),
        (exact("any", 4), unfit.clone()),
        (exact("big", 2), Ok(vec!["r=d1", "r=d2"])),
        (exact("big", 3), unfit.clone()),
        (all("big"), Ok(vec!["r=d1", "r=d2"])),
    ] {
        let expected = expected.map(|picks| picks.into_iter().map(str::to_owned).collect());
        assert_eq!(cluster().picks(&one(request.clone())), expected, "{request}");
    }
    let used =
        || cluster().taken(json!([{"driver": "gpu.example.com", "pool": "pool", "device": "d1", "request": "x"}]));
    assert_eq!(used().picks(&one(exact("big", 1))), Ok(vec!["r=d2".to_owned()]));
    assert_eq!(used().picks(&one(all("big"))), Err(Failure::Unfit));
    let admin = json!({"deviceClassName": "big", "allocationMode": "All", "adminAccess": true});
    let seen = used().try_on("n1", &one(admin)).unwrap();
    let results = seen[0].devices.as_ref().unwrap().results.as_ref().unwrap();
    assert!(results.len() == 2 && results.iter().all(|result| result.admin_access == Some(true)));
    assert_eq!(cluster().try_on("n2", &one(exact("any", 1))), Err(Failure::Unfit));
    assert_eq!(
        cluster().picks(&one(exact("any", 33))),
        error("claim ns/c: number of requested devices 33 exceeds the claim limit of 32")
    );
    let missing =
        "claim ns/c, request r: could not retrieve device class gone: deviceclass.resource.k8s.io \"gone\" not found";
    assert_eq!(cluster().picks(&one(exact("gone", 1))), error(missing));
    let broken = cluster().picks(&one(exact("broken", 1)));
    assert!(
        matches!(&broken, Err(Failure::Error(text)) if text.starts_with("class broken: selector #0: CEL compile error: ")),
        "{broken:?}"
    );
    let mut absent = exact("any", 1);
    absent["selectors"] = json!([{"cel": {"expression": "device.attributes['x'].y"}}]);
    assert_eq!(cluster().picks(&one(absent)), error("claim ns/c: selector #0: CEL runtime error: no such key: y"));
}

#[test]
fn several_requests_backtrack() {
    let cluster = Cluster::new(vec![slice("s", json!({"nodeName": "n1", "devices": sizes(&[9, 1])}))]);
    let requests =
        json!({"requests": [{"name": "a", "exactly": exact("any", 1)}, {"name": "b", "exactly": exact("big", 1)}]});
    assert_eq!(cluster.picks(&[claim("c", requests)]).unwrap(), ["a=d1", "b=d0"]);
    let two = [
        claim("c1", json!({"requests": [{"name": "a", "exactly": exact("any", 1)}]})),
        claim("c2", json!({"requests": [{"name": "b", "exactly": exact("big", 1)}]})),
    ];
    assert_eq!(cluster.picks(&two).unwrap(), ["a=d1", "b=d0"]);
}

#[test]
fn alternatives_are_tried_in_order() {
    let choice = |name: &str, class: &str, count: i64| json!({"name": name, "deviceClassName": class, "allocationMode": "ExactCount", "count": count});
    let wants = json!({
        "requests": [{"name": "r", "firstAvailable": [choice("best", "big", 2), choice("fine", "any", 2)]}],
        "config": [
            {"requests": ["r/fine"], "opaque": {"driver": "gpu.example.com", "parameters": {"for": "fine"}}},
            {"requests": ["r/best"], "opaque": {"driver": "gpu.example.com", "parameters": {"for": "best"}}},
            {"opaque": {"driver": "gpu.example.com", "parameters": {"for": "all"}}}],
    });
    let on = |devices| Cluster::new(vec![slice("s", json!({"nodeName": "n1", "devices": devices}))]);
    assert_eq!(on(sizes(&[9, 8])).picks(&[claim("c", wants.clone())]).unwrap(), ["r/best=d0", "r/best=d1"]);
    let second = on(sizes(&[9, 1])).try_on("n1", &[claim("c", wants.clone())]).unwrap();
    let devices = second[0].devices.as_ref().unwrap();
    assert!(devices.results.as_ref().unwrap().iter().all(|result| result.request == "r/fine"));
    let config: Vec<_> = devices
        .config
        .as_ref()
        .unwrap()
        .iter()
        .map(|c| (c.source.as_str(), c.opaque.as_ref().unwrap().parameters.0.clone()))
        .collect();
    assert_eq!(
        config,
        [
            ("FromClass", json!({"from": "class"})),
            ("FromClaim", json!({"for": "fine"})),
            ("FromClaim", json!({"for": "all"}))
        ]
    );
    let off = Cluster { features: Features { prioritized_list: false, ..Features::default() }, ..on(sizes(&[9, 8])) };
    let text = "claim ns/c, request r: has subrequests, but the DRAPrioritizedList feature is disabled";
    assert_eq!(off.picks(&[claim("c", wants)]), error(text));
}

#[test]
fn constraints_between_devices() {
    let device = |name: &str, numa: i64, model: &str| json!({"name": name, "attributes": {"numa": {"int": numa}, "gpu.example.com/model": {"string": model}}});
    let devices = json!([device("d0", 0, "x"), device("d1", 1, "y"), device("d2", 1, "x"), {"name": "d3"}]);
    let cluster = Cluster::new(vec![slice("s", json!({"nodeName": "n1", "devices": devices}))]);
    let ask = |constraints: Value| {
        let requests = json!([{"name": "a", "exactly": exact("any", 1)}, {"name": "b", "exactly": exact("any", 1)}]);
        cluster.picks(&[claim("c", json!({"requests": requests, "constraints": constraints}))])
    };
    let (matched, distinct) = ("matchAttribute", "distinctAttribute");
    assert_eq!(ask(json!([])).unwrap(), ["a=d0", "b=d1"]);
    assert_eq!(ask(json!([{matched: "gpu.example.com/numa"}])).unwrap(), ["a=d1", "b=d2"]);
    assert_eq!(ask(json!([{distinct: "gpu.example.com/model"}])).unwrap(), ["a=d0", "b=d1"]);
    assert_eq!(
        ask(json!([{matched: "gpu.example.com/numa"}, {matched: "gpu.example.com/model"}])),
        Err(Failure::Unfit)
    );
    assert_eq!(ask(json!([{matched: "gpu.example.com/numa", "requests": ["b"]}])).unwrap(), ["a=d0", "b=d1"]);
    assert_eq!(ask(json!([{matched: "other.example.com/numa"}])), Err(Failure::Unfit));
    let triple = claim(
        "c",
        json!({"requests": [{"name": "a", "exactly": exact("any", 3)}], "constraints": [{distinct: "gpu.example.com/model"}]}),
    );
    assert_eq!(cluster.picks(&[triple]), Err(Failure::Unfit), "three devices have two models");
    let everything = claim(
        "c",
        json!({"requests": [{"name": "a", "exactly": all("any")}], "constraints": [{matched: "gpu.example.com/numa"}]}),
    );
    let text = "claim ns/c, request a: cannot add device gpu.example.com/pool/d1 because a claim constraint would not be satisfied";
    assert_eq!(cluster.picks(&[everything]), error(text));
}

#[test]
fn pools_must_be_whole_and_sound() {
    let pool =
        |generation: i64, count: i64| json!({"name": "pool", "generation": generation, "resourceSliceCount": count});
    let part = |name: &str, pool: Value, devices: Value| {
        slice(name, json!({"nodeName": "n1", "pool": pool, "devices": devices}))
    };
    let ask = |slices: Vec<_>, request| Cluster::new(slices).picks(&one(request));
    let named = |name: &str| json!([{"name": name}]);
    assert_eq!(ask(vec![part("a", pool(1, 2), named("x"))], exact("any", 1)), Err(Failure::Unfit));
    let text = "claim ns/c, request r: asks for all devices, but resource pool gpu.example.com/pool is currently being updated";
    assert_eq!(ask(vec![part("a", pool(1, 2), named("x"))], all("any")), error(text));
    let both = vec![part("b", pool(1, 2), named("y")), part("a", pool(1, 2), named("x"))];
    assert_eq!(ask(both, exact("any", 2)).unwrap(), ["r=x", "r=y"], "slices go by name");
    let newer = vec![part("a", pool(1, 1), named("old")), part("b", pool(2, 1), named("new"))];
    assert_eq!(ask(newer, all("any")).unwrap(), ["r=new"]);
    let twice = vec![part("a", pool(1, 2), named("x")), part("b", pool(1, 2), named("x"))];
    assert_eq!(ask(twice, exact("any", 1)), Err(Failure::Because("invalid resource pools were encountered".into())));
    let elsewhere = slice("b", json!({"nodeName": "n2", "pool": pool(2, 1), "devices": named("new")}));
    assert_eq!(ask(vec![part("a", pool(1, 2), named("old")), elsewhere], exact("any", 1)), Err(Failure::Unfit));
}

#[test]
fn where_devices_can_be_used() {
    let term = |key: &str, value: &str| json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}]});
    let selector = |spec: Value| {
        let found = Cluster::new(vec![slice("s", spec)]).try_on("n1", &one(exact("any", 1)));
        found.map(|results| serde_json::to_value(&results[0].node_selector).unwrap())
    };
    let device = json!([{"name": "d"}]);
    let only =
        json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]});
    assert_eq!(selector(json!({"nodeName": "n1", "devices": device})), Ok(only.clone()));
    assert_eq!(selector(json!({"allNodes": true, "devices": device})), Ok(Value::Null));
    assert_eq!(selector(json!({"nodeSelector": term("zone", "a"), "devices": device})), Ok(term("zone", "a")));
    assert_eq!(selector(json!({"nodeSelector": term("zone", "b"), "devices": device})), Err(Failure::Unfit));
    let own = json!([{"name": "no", "nodeName": "n2"}, {"name": "yes", "nodeSelector": term("zone", "a")}]);
    assert_eq!(selector(json!({"perDeviceNodeSelection": true, "devices": own})), Ok(term("zone", "a")));
    let bound = json!([{"name": "d", "bindsToNode": true, "bindingConditions": ["Attached"], "bindingFailureConditions": ["Broken"]}]);
    assert_eq!(selector(json!({"allNodes": true, "devices": bound})), Ok(only));
}

#[test]
fn taints_keep_claims_away() {
    let devices = json!([{"name": "d0", "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]},
                         {"name": "d1", "taints": [{"key": "k", "effect": "None"}]}]);
    let cluster = || Cluster::new(vec![slice("s", json!({"nodeName": "n1", "devices": devices}))]);
    let tolerating = |toleration: Value| {
        let mut request = exact("any", 1);
        request["tolerations"] = json!([toleration]);
        cluster().picks(&one(request)).unwrap()
    };
    assert_eq!(cluster().picks(&one(exact("any", 1))).unwrap(), ["r=d1"]);
    assert_eq!(cluster().picks(&one(all("any"))), Err(Failure::Unfit));
    assert_eq!(tolerating(json!({"operator": "Exists"})), ["r=d0"]);
    assert_eq!(tolerating(json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"})), ["r=d0"]);
    assert_eq!(tolerating(json!({"key": "k", "operator": "Equal", "value": "w"})), ["r=d1"]);
    assert_eq!(tolerating(json!({"operator": "Exists", "effect": "NoExecute"})), ["r=d1"]);
    let off = Cluster { features: Features { device_taints: false, ..Features::default() }, ..cluster() };
    assert_eq!(off.picks(&one(exact("any", 1))).unwrap(), ["r=d0"]);
}

fn partitions() -> Vec<Arc<ResourceSlice>> {
    let pool = json!({"name": "pool", "generation": 1, "resourceSliceCount": 2});
    let device = |name: &str, memory: &str| json!({"name": name, "consumesCounters": [{"counterSet": "gpu", "counters": {"memory": {"value": memory}}}]});
    let counters = json!([{"name": "gpu", "counters": {"memory": {"value": "40Gi"}}}]);
    let devices = json!([device("whole", "40Gi"), device("half-1", "20Gi"), device("half-2", "20Gi")]);
    vec![
        slice("counters", json!({"nodeName": "n1", "pool": pool, "sharedCounters": counters})),
        slice("devices", json!({"nodeName": "n1", "pool": pool, "devices": devices})),
    ]
}

#[test]
fn partitions_share_counters() {
    let taken = |name: &str| json!([{"driver": "gpu.example.com", "pool": "pool", "device": name, "request": "x"}]);
    let cluster = || Cluster::new(partitions());
    assert_eq!(cluster().picks(&one(exact("any", 1))).unwrap(), ["r=whole"]);
    assert_eq!(cluster().picks(&one(exact("any", 2))).unwrap(), ["r=half-1", "r=half-2"]);
    assert_eq!(cluster().picks(&one(exact("any", 3))), Err(Failure::Unfit));
    assert_eq!(cluster().taken(taken("half-2")).picks(&one(exact("any", 1))).unwrap(), ["r=half-1"]);
    assert_eq!(cluster().taken(taken("whole")).picks(&one(exact("any", 1))), Err(Failure::Unfit));
    let mut wrong = partitions();
    let text = serde_json::to_string(&*wrong[1]).unwrap().replace("\"counterSet\":\"gpu\"", "\"counterSet\":\"gone\"");
    wrong[1] = Arc::new(serde_json::from_str(&text).unwrap());
    let invalid = Err(Failure::Because("invalid resource pools were encountered".into()));
    assert_eq!(Cluster::new(wrong).picks(&one(exact("any", 1))), invalid);
    let off = Cluster { features: Features { partitionable_devices: false, ..Features::default() }, ..cluster() };
    assert_eq!(off.picks(&one(exact("any", 1))), Err(Failure::Unfit));
}

#[test]
fn capacity_is_shared() {
    let devices = json!([{"name": "d", "allowMultipleAllocations": true,
                          "capacity": {"bandwidth": {"value": "10Gi", "requestPolicy": {"default": "1Gi", "validRange": {"min": "1Gi", "step": "1Gi"}}}}}]);
    let cluster = || Cluster::new(vec![slice("s", json!({"nodeName": "n1", "devices": devices}))]);
    let ask = |amount: &str, count| {
        let mut request = exact("any", count);
        request["capacity"] = json!({"requests": {"bandwidth": amount}});
        one(request)
    };
    let found = cluster().try_on("n1", &ask("4500Mi", 1)).unwrap();
    let result = &found[0].devices.as_ref().unwrap().results.as_ref().unwrap()[0];
    assert_eq!(result.consumed_capacity.as_ref().unwrap()["bandwidth"].0, "5Gi");
    assert!(result.share_id.is_some());
    assert_eq!(cluster().picks(&ask("11Gi", 1)), Err(Failure::Unfit));
    let used = cluster().taken(json!([{"driver": "gpu.example.com", "pool": "pool", "device": "d", "request": "x", "shareID": "s1", "consumedCapacity": {"bandwidth": "6Gi"}}]));
    assert_eq!(used.picks(&ask("4Gi", 1)).unwrap(), ["r=d"]);
    assert_eq!(used.picks(&ask("5Gi", 1)), Err(Failure::Unfit));
    let twice = [ask("4Gi", 1), ask("6Gi", 1)].concat();
    assert_eq!(cluster().picks(&twice).unwrap(), ["r=d", "r=d"]);
    assert_eq!(cluster().picks(&[ask("5Gi", 1), ask("6Gi", 1)].concat()), Err(Failure::Unfit));
    let mut unknown = exact("any", 1);
    unknown["capacity"] = json!({"requests": {"nope": "1"}});
    assert_eq!(cluster().picks(&one(unknown)), Err(Failure::Unfit));
}

#[test]
fn a_search_ends_in_time() {
    // Every device has an attribute of its own: no two match, and there are many ways to find out.
    let device = |at| json!({"name": format!("d{at:02}"), "attributes": {"id": {"int": at}, "half": {"int": at / 16}}});
    let devices: Value = (0..32).map(device).collect();
    let cluster = Cluster::new(vec![slice("s", json!({"nodeName": "n1", "devices": devices}))]);
    let wants = json!({"requests": [{"name": "a", "exactly": exact("any", 16)}, {"name": "b", "exactly": exact("any", 16)}],
                       "constraints": [{"distinctAttribute": "gpu.example.com/id"}, {"matchAttribute": "gpu.example.com/half", "requests": ["a"]},
                                       {"matchAttribute": "gpu.example.com/id", "requests": ["b"]}]});
    let problem = Problem::new(&[claim("c", wants)], class, &Programs::default(), cluster.features).unwrap();
    let inventory = Inventory::new(cluster.features, cluster.slices.clone(), &Inventory::default());
    let many = json!({"requests": (0..16).map(|at| json!({"name": format!("r{at}"), "exactly": exact("any", 1)})).collect::<Value>(),
                      "constraints": [{"matchAttribute": "gpu.example.com/id", "requests": ["r0", "r15"]}]});
    let hopeless = Problem::new(&[claim("c", many)], class, &Programs::default(), cluster.features).unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    let answer = allocate(&hopeless, &inventory, &cluster.allocated, &node("n1"), Some(deadline));
    assert_eq!(answer, Err(Failure::TimedOut));
    assert_eq!(allocate(&problem, &inventory, &cluster.allocated, &node("n1"), None), Err(Failure::Unfit));
}

#[test]
fn what_slices_say_is_not_parsed_again() {
    let slices = partitions();
    let before = Inventory::new(Features::default(), slices.clone(), &Inventory::default());
    let pools = before.pools(&node("n1"));
    let after = Inventory::new(Features::default(), slices, &before);
    assert!(Arc::ptr_eq(&pools[0].slices[0], &after.pools(&node("n1"))[0].slices[0]));
}
