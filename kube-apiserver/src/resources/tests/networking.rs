//! Services, endpoints, Ingresses, policies and address ranges against upstream's rules.

use serde_json::json;

use super::{check_rows, create, stored, strategy, update, with};

const NET: &str = "networking.k8s.io";

#[test]
fn services() {
    let base = json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
        "ports": [{"port": 80, "nodePort": 30080}], "selector": {"a": "b"}}});
    check_rows(
        "",
        "services",
        &base,
        &[
            (
                "/spec/externalIPs",
                json!(["010.1.1.1"]),
                &["spec.externalIPs[0]: Invalid value: \"010.1.1.1\": must not have leading 0s"],
            ),
            (
                "/spec/externalIPs",
                json!(["169.254.1.1"]),
                &[
                    "spec.externalIPs[0]: Invalid value: \"169.254.1.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
                ],
            ),
            (
                "/spec/loadBalancerSourceRanges",
                json!(["10.1.0.0/8", " 10.0.0.0/8 "]),
                &[
                    "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.1.0.0/8\": must not have bits set beyond the prefix length",
                ],
            ),
            (
                "/metadata/annotations",
                json!({"service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8, x"}),
                &[
                    "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                ],
            ),
            (
                "/metadata/annotations",
                json!({"service.kubernetes.io/topology-mode": "Auto", "service.kubernetes.io/topology-aware-hints": "Disabled"}),
                &[
                    "metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: \"Auto\": must match annotations[service.kubernetes.io/topology-aware-hints] when both are specified",
                ],
            ),
            (
                "/spec/ports/0/appProtocol",
                json!("a/b/c"),
                &[
                    "spec.ports[0].appProtocol: Invalid value: \"a/b/c\": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                ],
            ),
            (
                "/spec/internalTrafficPolicy",
                json!("x"),
                &["spec.internalTrafficPolicy: Unsupported value: \"x\": supported values: \"Cluster\", \"Local\""],
            ),
        ],
    );
    let old = with(&with(&base, "/spec/ipFamilies", &json!(["IPv4"])), "/spec/externalIPs", &json!(["010.1.1.1"]));
    let (errors, _) = update("", "services", None, &old, &with(&old, "/spec/selector", &json!({"c": "d"})));
    assert_eq!(errors, Vec::<String>::new(), "what was stored stays valid");
    let (errors, _) = update("", "services", None, &old, &with(&old, "/spec/ipFamilies", &json!(["IPv6"])));
    assert_eq!(
        errors,
        [
            "spec.ipFamilies[0]: Invalid value: [\"IPv6\"]: may not change once set",
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        ]
    );
    let status = json!({"loadBalancer": {"ingress": [{"ip": "::ffff:1.2.3.4", "ipMode": "x", "hostname": "1.2.3.4"}]}});
    let (errors, _) = update("", "services", Some("status"), &base, &with(&base, "/status", &status));
    assert_eq!(
        errors,
        [
            "status.loadBalancer.ingress[0].ip: Invalid value: \"::ffff:1.2.3.4\": must not be an IPv4-mapped IPv6 address",
            "status.loadBalancer.ingress[0].ipMode: Unsupported value: \"x\": supported values: \"Proxy\", \"VIP\"",
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
        ]
    );
}

#[test]
fn endpoints() {
    let base = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]});
    check_rows(
        "",
        "endpoints",
        &base,
        &[
            (
                "/subsets/0/addresses/0/ip",
                json!("127.0.0.1"),
                &[
                    "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                ],
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("x"),
                &[
                    "subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    "subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address",
                ],
            ),
            (
                "/subsets/0/addresses",
                json!([]),
                &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"],
            ),
        ],
    );
    let old = with(&base, "/subsets/0/addresses/0/ip", &json!("127.0.0.1"));
    let (errors, _) = update("", "endpoints", None, &old, &with(&old, "/metadata/labels", &json!({"a": "b"})));
    assert_eq!(errors, Vec::<String>::new());
    let warned =
        strategy("", "endpoints").warnings(&with(&base, "/subsets/0/addresses/0/ip", &json!("::FF")), None, None);
    assert_eq!(
        warned,
        ["subsets[0].addresses[0].ip: IPv6 address \"::FF\" should be in RFC 5952 canonical format (\"::ff\")"]
    );
}

#[test]
fn endpoint_slices() {
    let group = "discovery.k8s.io";
    let base = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]});
    check_rows(
        group,
        "endpointslices",
        &base,
        &[
            (
                "/addressType",
                json!("IPv6"),
                &["endpoints[0].addresses: Invalid value: \"10.0.0.1\": must be an IPv6 address"],
            ),
            ("/addressType", json!("FQDN"), &[]),
            (
                "/ports/0/protocol",
                json!("x"),
                &["ports[0].protocol: Unsupported value: \"x\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
            ),
            (
                "/endpoints/0/hints",
                json!({"forZones": [{"name": "a"}, {"name": "a"}]}),
                &["endpoints[0].hints.forZones[1].name: Duplicate value: \"a\""],
            ),
            (
                "/endpoints/0/addresses",
                json!([]),
                &["endpoints[0].addresses: Required value: must contain at least 1 address"],
            ),
        ],
    );
    let (_, new) = update(group, "endpointslices", None, &base, &with(&base, "/metadata/labels", &json!({"a": "b"})));
    assert_eq!(new["metadata"]["generation"], 1, "labels count as content");
}

#[test]
fn ingresses() {
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let base = json!({"spec": {"rules": [{"host": "a.b", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}});
    check_rows(
        NET,
        "ingresses",
        &base,
        &[
            ("/spec", json!({}), &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]),
            (
                "/spec/rules/0/http/paths/0/pathType",
                json!(null),
                &["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"],
            ),
            (
                "/spec/rules/0/http/paths/0/path",
                json!("a//b/."),
                &[
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//b/.\": must be an absolute path",
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//b/.\": must not contain '//'",
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//b/.\": cannot end with '/.'",
                ],
            ),
            (
                "/spec/rules/0/http/paths/0/backend",
                json!({"resource": {"apiGroup": "example.com", "kind": "a/b", "name": ""}}),
                &[
                    "spec.rules[0].http.paths[0].backend.resource.kind: Invalid value: \"a/b\": may not contain '/'",
                    "spec.rules[0].http.paths[0].backend.resource.name: Required value",
                ],
            ),
            ("/spec/rules/0/http/paths", json!([]), &["spec.rules[0].http.paths: Required value"]),
        ],
    );
    let both = with(
        &with(&base, "/metadata/annotations", &json!({"kubernetes.io/ingress.class": "x"})),
        "/spec/ingressClassName",
        &json!("y"),
    );
    assert_eq!(
        create(NET, "ingresses", both),
        [
            "annotations.kubernetes.io/ingress.class: Invalid value: \"x\": must match `ingressClassName` when both are specified"
        ]
    );
    let old = with(&base, "/spec/tls", &json!([{"secretName": "Bad_Name"}]));
    assert_eq!(update(NET, "ingresses", None, &old, &old).0, Vec::<String>::new());
    let status = json!({"loadBalancer": {"ingress": [{"ip": "x"}]}});
    assert_eq!(
        update(NET, "ingresses", Some("status"), &base, &with(&base, "/status", &status)).0,
        [
            "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        ]
    );
}

#[test]
fn ingress_classes() {
    let base = json!({"spec": {"controller": "acme.io/foo", "parameters": {"kind": "P", "name": "p"}}});
    check_rows(
        NET,
        "ingressclasses",
        &base,
        &[
            ("/spec/controller", json!(""), &["spec.controller: Required value"]),
            (
                "/spec/controller",
                json!("acme.io"),
                &[
                    "spec.controller: Invalid value: \"acme.io\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                ],
            ),
            (
                "/spec/controller",
                json!("acme.io/f#"),
                &[
                    "spec.controller: Invalid value: \"f#\": Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
                ],
            ),
            (
                "/spec/parameters/scope",
                json!("Namespace"),
                &["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"],
            ),
            (
                "/spec/parameters/namespace",
                json!("x"),
                &["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"],
            ),
            (
                "/spec/parameters/scope",
                json!("x"),
                &["spec.parameters.scope: Unsupported value: \"x\": supported values: \"Cluster\", \"Namespace\""],
            ),
        ],
    );
}

#[test]
fn network_policies() {
    let base = json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 80}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}]}});
    check_rows(
        NET,
        "networkpolicies",
        &base,
        &[
            (
                "/spec/egress/0/ports/0/endPort",
                json!(79),
                &["spec.egress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`"],
            ),
            (
                "/spec/egress/0/to/0/ipBlock/cidr",
                json!("10.1.0.0/8"),
                &[
                    "spec.egress[0].to[0].ipBlock.cidr: Invalid value: \"10.1.0.0/8\": must not have bits set beyond the prefix length",
                ],
            ),
            (
                "/spec/egress/0/to/0/ipBlock/except/0",
                json!("11.0.0.0/16"),
                &[
                    "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                ],
            ),
            (
                "/spec/egress/0/to/0/podSelector",
                json!({}),
                &["spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer"],
            ),
            (
                "/spec/policyTypes",
                json!(["Egress", "x"]),
                &["spec.policyTypes[1]: Unsupported value: \"x\": supported values: \"Ingress\", \"Egress\""],
            ),
        ],
    );
    let old = with(&base, "/spec/egress/0/to/0/ipBlock/cidr", &json!("10.1.0.0/8"));
    assert_eq!(update(NET, "networkpolicies", None, &old, &old).0, Vec::<String>::new());
    assert_eq!(
        strategy(NET, "networkpolicies").warnings(&old, None, None),
        [
            "spec.egress[0].to[0].ipBlock.cidr: CIDR value \"10.1.0.0/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.1.0.0/32\"?)"
        ]
    );
}

#[test]
fn service_cidrs_and_addresses() {
    let base = json!({"spec": {"cidrs": ["10.0.0.0/24"]}});
    check_rows(
        NET,
        "servicecidrs",
        &base,
        &[
            ("/spec/cidrs", json!([]), &["spec.cidrs: Required value: at least one CIDR required"]),
            (
                "/spec/cidrs",
                json!(["2001:DB8::/64"]),
                &["spec.cidrs[0]: Invalid value: \"2001:DB8::/64\": must be in canonical form (\"2001:db8::/64\")"],
            ),
            (
                "/spec/cidrs",
                json!(["10.0.0.0/24", "10.0.1.0/24"]),
                &[
                    "spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
                ],
            ),
            (
                "/spec/cidrs",
                json!(["a", "b", "c"]),
                &["spec.cidrs: Invalid value: {\"CIDRs\":[\"a\",\"b\",\"c\"]}: may only hold up to 2 values"],
            ),
        ],
    );
    let labelled = with(&base, "/metadata/labels", &json!({"a": "b"}));
    let (_, stored_now) = update(NET, "servicecidrs", Some("status"), &base, &labelled);
    assert!(stored_now["metadata"]["labels"].is_null(), "status updates keep metadata");
    let address = json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {"resource": "services", "name": "s", "namespace": "d"}}});
    check_rows(
        NET,
        "ipaddresses",
        &address,
        &[
            (
                "/metadata/name",
                json!("010.0.0.1"),
                &["metadata.name: Invalid value: \"010.0.0.1\": must not have leading 0s"],
            ),
            ("/spec/parentRef/name", json!(""), &["spec.parentRef.name: Required value"]),
            ("/spec", json!({}), &["spec.parentRef: Required value"]),
        ],
    );
    let (errors, _) = update(NET, "ipaddresses", None, &address, &with(&address, "/spec/parentRef/name", &json!("t")));
    assert_eq!(
        errors,
        [
            "spec.parentRef: Invalid value: {\"Group\":\"\",\"Resource\":\"services\",\"Namespace\":\"d\",\"Name\":\"t\"}: field is immutable"
        ]
    );
}

#[test]
fn nodes_and_namespaces() {
    let base = json!({"spec": {"podCIDRs": ["10.0.0.0/24"]}, "status": {"capacity": {"cpu": "1"}, "declaredFeatures": ["A", "B/c"]}});
    check_rows(
        "",
        "nodes",
        &base,
        &[
            (
                "/spec/podCIDRs",
                json!(["10.0.0.1/24"]),
                &["spec.podCIDRs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the prefix length"],
            ),
            (
                "/status/declaredFeatures",
                json!(["B", "A"]),
                &["status.declaredFeatures[1]: Invalid value: \"A\": list must be sorted alphabetically"],
            ),
            ("/status/declaredFeatures", json!(["A", "A"]), &["status.declaredFeatures[1]: Duplicate value: \"A\""]),
            (
                "/status/nodeInfo",
                json!({"swap": {"capacity": 0}}),
                &["metadata.nodeSwapStatus.capacity: Invalid value: 0: must be greater than 0"],
            ),
            (
                "/spec/taints",
                json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]),
                &[
                    "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoSchedule\",\"TimeAdded\":null}: taints must be unique by key and effect pair",
                ],
            ),
        ],
    );
    let bad = with(&base, "/status/allocatable", &json!({"pods": "500m"}));
    let (errors, _) = update("", "nodes", Some("status"), &base, &bad);
    assert_eq!(errors, ["status.allocatable.pods: Invalid value: \"500m\": must be an integer"]);
    let config = with(&base, "/spec/configSource", &json!({"configMap": {"name": "c"}}));
    let (errors, new) = update("", "nodes", None, &base, &config);
    assert_eq!((errors, &new["spec"]["configSource"]), (Vec::new(), &json!(null)), "no new object has one");
    let finalized = json!({"spec": {"finalizers": ["x"]}});
    let (errors, _) = update("", "namespaces", Some("finalize"), &json!({}), &finalized);
    assert_eq!(
        errors,
        [
            "spec.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified"
        ]
    );
    assert!(stored(strategy("", "namespaces"), json!({}))["metadata"]["name"] == "n");
}
