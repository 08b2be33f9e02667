//! Certificates, roles, events, leases, budgets and small kinds against upstream's rules.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{check_rows, create, strategy, update, with};

const CERTIFICATES: &str = "certificates.k8s.io";

fn signing_request() -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let pem = BASE64_STANDARD.encode(request.pem().unwrap());
    json!({"spec": {"request": pem, "signerName": "example.com/a", "usages": ["client auth"]}})
}

#[test]
fn signing_requests() {
    let base = signing_request();
    let resource = "certificatesigningrequests";
    check_rows(
        CERTIFICATES,
        resource,
        &base,
        &[
            (
                "/spec/request",
                json!("eA=="),
                &["spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST"],
            ),
            ("/spec/usages", json!([]), &["spec.usages: Required value"]),
            ("/spec/usages", json!(["any", "any"]), &["spec.usages[1]: Duplicate value: \"any\""]),
            (
                "/spec/signerName",
                json!("kubernetes.io/legacy-unknown"),
                &[
                    "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
                ],
            ),
            (
                "/spec/signerName",
                json!("com/a"),
                &[
                    "spec.signerName: Invalid value: \"com\": should be a domain with at least two segments separated by dots",
                ],
            ),
            (
                "/spec/signerName",
                json!("a/b/c"),
                &[
                    "spec.signerName: Invalid value: \"a/b/c\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
                ],
            ),
            (
                "/spec/expirationSeconds",
                json!(599),
                &[
                    "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
                ],
            ),
        ],
    );
    let bad_key = {
        let pem =
            String::from_utf8(BASE64_STANDARD.decode(base["spec"]["request"].as_str().unwrap()).unwrap()).unwrap();
        let mut block = pem::parse_block(&pem);
        let last = block.len() - 1;
        block[last] ^= 1;
        pem::print_block(&block)
    };
    let errors = create(CERTIFICATES, resource, with(&base, "/spec/request", &json!(BASE64_STANDARD.encode(bad_key))));
    assert!(errors.len() == 1 && errors[0].ends_with(": x509: ECDSA verification failure"), "{errors:?}");

    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let conditions = |list: &[Value]| with(&base, "/status", &json!({"conditions": list}));
    let approve = |new: &Value| update(CERTIFICATES, resource, Some("approval"), &base, new).0;
    assert_eq!(approve(&conditions(&[condition("Approved", "True")])), Vec::<String>::new());
    assert_eq!(
        approve(&conditions(&[
            condition("Approved", "False"),
            condition("Denied", "True"),
            condition("Denied", "True")
        ])),
        [
            "status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\"",
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
            "status.conditions[2].type: Duplicate value: \"Denied\"",
        ]
    );
    let approved = conditions(&[condition("Approved", "True")]);
    let (errors, _) = update(CERTIFICATES, resource, Some("status"), &base, &approved);
    assert_eq!(errors, ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]);
    let (errors, _) = update(CERTIFICATES, resource, Some("approval"), &approved, &base);
    assert_eq!(errors, ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]);
    let signed = with(&approved, "/status/certificate", &json!(BASE64_STANDARD.encode("no PEM")));
    let (errors, _) = update(CERTIFICATES, resource, Some("status"), &approved, &signed);
    assert_eq!(
        errors,
        ["status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block"]
    );
}

/// Just enough PEM to spoil a signature.
mod pem {
    use base64::{Engine as _, prelude::BASE64_STANDARD};

    const LABEL: &str = "CERTIFICATE REQUEST";

    pub fn parse_block(pem: &str) -> Vec<u8> {
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).map(str::trim).collect();
        BASE64_STANDARD.decode(body).unwrap()
    }

    pub fn print_block(der: &[u8]) -> String {
        let body = BASE64_STANDARD.encode(der);
        let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {LABEL}-----\n{}\n-----END {LABEL}-----\n", lines.join("\n"))
    }
}

#[test]
fn trust_bundles() {
    let errors = create(
        CERTIFICATES,
        "clustertrustbundles",
        json!({"spec": {"signerName": "example.com/a", "trustBundle": "x"}}),
    );
    assert_eq!(
        errors,
        [
            "metadata.name: Invalid value: \"n\": ClusterTrustBundle for signerName example.com/a must be named with prefix example.com:a:",
            "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided",
        ]
    );
}

#[test]
fn roles() {
    let group = "rbac.authorization.k8s.io";
    let base = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    check_rows(
        group,
        "roles",
        &base,
        &[
            ("/rules/0/verbs", json!([]), &["rules[0].verbs: Required value: verbs must contain at least one value"]),
            (
                "/rules/0/nonResourceURLs",
                json!(["/x"]),
                &[
                    "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                    "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
                ],
            ),
        ],
    );
    let binding = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]});
    check_rows(
        group,
        "rolebindings",
        &binding,
        &[
            ("/roleRef/name", json!(""), &["roleRef.name: Required value"]),
            (
                "/subjects/0/kind",
                json!("x"),
                &[
                    "subjects[0].kind: Unsupported value: \"x\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
                ],
            ),
        ],
    );
    let (errors, _) = update(group, "rolebindings", None, &binding, &with(&binding, "/roleRef/name", &json!("s")));
    assert_eq!(
        errors,
        [
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\"Name\":\"s\"}: cannot change roleRef"
        ]
    );
    let bad = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["-"]}]}]}});
    assert_eq!(create(group, "clusterroles", bad.clone()).len(), 2);
    assert_eq!(
        update(group, "clusterroles", None, &bad, &bad).0,
        ["aggregationRule.clusterRoleSelectors[0]: Invalid value: null: invalid label selector."]
    );
}

#[test]
fn events_by_version() {
    let event = json!({"eventTime": "2026-01-01T00:00:00.000000Z", "involvedObject": {"namespace": "default"}, "reportingInstance": "i",
        "action": "a", "reason": "r", "type": "Normal", "reportingComponent": "c"});
    for (group, field) in [("", "reportingComponent"), ("events.k8s.io", "reportingController")] {
        assert_eq!(create(group, "events", event.clone()), Vec::<String>::new());
        let errors = create(group, "events", with(&event, "/reportingComponent", &json!("")));
        assert_eq!(errors[0], format!("{field}: Required value"));
    }
}

#[test]
fn budgets() {
    let base = json!({"spec": {"minAvailable": 1}});
    check_rows(
        "policy",
        "poddisruptionbudgets",
        &base,
        &[
            (
                "/spec/maxUnavailable",
                json!(1),
                &[
                    "spec: Invalid value: {\"MinAvailable\":1,\"Selector\":null,\"MaxUnavailable\":1,\"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both set",
                ],
            ),
            (
                "/spec/minAvailable",
                json!("101%"),
                &["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"],
            ),
            (
                "/spec/unhealthyPodEvictionPolicy",
                json!(""),
                &[
                    "spec.unhealthyPodEvictionPolicy: Unsupported value: \"\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
                ],
            ),
        ],
    );
    let status = json!({"disruptionsAllowed": -1, "conditions": [{"type": "A", "status": "x", "reason": "1"}]});
    let (errors, _) = update("policy", "poddisruptionbudgets", Some("status"), &base, &with(&base, "/status", &status));
    assert_eq!(
        errors[0],
        "status.conditions[0].status: Unsupported value: \"x\": supported values: \"False\", \"True\", \"Unknown\""
    );
    assert_eq!(errors[1], "status.conditions[0].lastTransitionTime: Required value");
    assert!(errors[2].starts_with("status.conditions[0].reason: Invalid value: \"1\": a condition reason must start"));
    assert_eq!(errors[3], "status.disruptionsAllowed: Invalid value: -1: must be greater than or equal to 0");
}

#[test]
fn small_kinds() {
    assert_eq!(
        create("coordination.k8s.io", "leases", json!({"spec": {"leaseDurationSeconds": 0, "strategy": "x"}})),
        ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
        "strategies are behind a gate"
    );
    let candidate = json!({"spec": {"leaseName": "l", "binaryVersion": "1.36.0", "emulationVersion": "1.35.0", "strategy": "OldestEmulationVersion"}});
    check_rows(
        "coordination.k8s.io",
        "leasecandidates",
        &candidate,
        &[
            (
                "/spec/binaryVersion",
                json!("1.36"),
                &["spec.binaryVersion: Invalid value: \"1.36\": must be a valid semantic version"],
            ),
            (
                "/spec/emulationVersion",
                json!("1.37.0"),
                &["spec.binaryVersion: Invalid value: \"1.36.0\": must be greater than or equal to `emulationVersion`"],
            ),
            (
                "/spec/strategy",
                json!("x"),
                &["spec.strategy.strategy: Unsupported value: \"x\": supported values: \"OldestEmulationVersion\""],
            ),
        ],
    );
    assert_eq!(
        create("storagemigration.k8s.io", "storageversionmigrations", json!({"spec": {"resource": {}}})),
        ["spec.resource.resource: Required value: resource is required to be set"]
    );
    let class = json!({"value": 1});
    let (errors, new) =
        update("scheduling.k8s.io", "priorityclasses", None, &class, &with(&class, "/value", &json!(2)));
    assert_eq!(errors, ["value: Forbidden: may not be changed in an update."]);
    assert!(new["metadata"]["generation"].is_null(), "updates of a class do not count");
    let account = json!({"secrets": [{"name": "s", "namespace": "x"}]});
    assert_eq!(update("", "serviceaccounts", None, &account, &account).1["secrets"], json!([{"name": "s"}]));
    let volume = json!({"spec": {"persistentVolumeReclaimPolicy": "Recycle", "rbd": {}}});
    assert_eq!(
        strategy("", "persistentvolumes").warnings(&volume, None, None),
        [
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
            "spec.rbd: deprecated in v1.28, non-functional in v1.31+",
        ]
    );
}
