//! Webhook configurations and admission policies against upstream's rules.

use serde_json::json;

use super::{check_rows, update, with};

const GROUP: &str = "admissionregistration.k8s.io";

#[test]
fn webhooks() {
    let base = json!({"webhooks": [{"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://example.com/x"},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
    check_rows(
        GROUP,
        "validatingwebhookconfigurations",
        &base,
        &[
            (
                "/webhooks/0/name",
                json!("example.com"),
                &[
                    "webhooks[0].name: Invalid value: \"example.com\": should be a domain with at least three segments separated by dots",
                ],
            ),
            (
                "/webhooks/0/sideEffects",
                json!("Some"),
                &["webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""],
            ),
            (
                "/webhooks/0/admissionReviewVersions",
                json!(["v2", "v2"]),
                &[
                    "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v2\": duplicate version",
                    "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\",\"v2\"]: must include at least one of v1, v1beta1",
                ],
            ),
            (
                "/webhooks/0/rules/0/operations",
                json!(["*", "x"]),
                &[
                    "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"x\"]: if '*' is present, must not specify other operations",
                    "webhooks[0].rules[0].operations[1]: Unsupported value: \"x\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
                ],
            ),
            (
                "/webhooks/0/rules/0/resources",
                json!(["pods/*", "pods/status"]),
                &[
                    "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status",
                ],
            ),
            (
                "/webhooks/0/rules/0/resources",
                json!(["*", "pods"]),
                &[
                    "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
                ],
            ),
            (
                "/webhooks/0/clientConfig/url",
                json!("http://u@/x?q#f"),
                &[
                    "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                    "webhooks[0].clientConfig.url: Invalid value: \"\": host must be specified; desired format: https://host[/path]",
                    "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
                    "webhooks[0].clientConfig.url: Invalid value: \"f\": fragments are not permitted in the URL",
                    "webhooks[0].clientConfig.url: Invalid value: \"q\": query parameters are not permitted in the URL",
                ],
            ),
            (
                "/webhooks/0/clientConfig",
                json!({"service": {"namespace": "n", "path": "/a//b"}}),
                &[
                    "webhooks[0].clientConfig.service.namespace: Required value",
                    "webhooks[0].clientConfig.service.path: Invalid value: \"/a//b\": segment[1] may not be empty",
                ],
            ),
            (
                "/webhooks/0/matchConditions",
                json!([{"name": "a", "expression": " "}, {"name": "a", "expression": "true"}]),
                &[
                    "webhooks[0].matchConditions[0].expression: Required value",
                    "webhooks[0].matchConditions[1].name: Duplicate value: \"a\"",
                ],
            ),
        ],
    );
    let old = with(&base, "/webhooks/0/sideEffects", &json!("Some"));
    assert_eq!(update(GROUP, "validatingwebhookconfigurations", None, &old, &old).0, Vec::<String>::new());
}

#[test]
fn policies() {
    let rules = json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]);
    let base = json!({"spec": {"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": "true"}]}});
    check_rows(
        GROUP,
        "validatingadmissionpolicies",
        &base,
        &[
            ("/spec/matchConstraints", json!(null), &["spec.matchConstraints: Required value"]),
            (
                "/spec/validations",
                json!([]),
                &[
                    "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                    "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
                ],
            ),
            (
                "/spec/validations/0/message",
                json!("a\nb"),
                &["spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks"],
            ),
            (
                "/spec/variables",
                json!([{"name": "for", "expression": ""}]),
                &[
                    "spec.variables[0].name: Invalid value: \"for\": must be a valid CEL identifier",
                    "spec.variables[0].expression: Required value: expression is not specified",
                ],
            ),
            (
                "/spec/paramKind",
                json!({"apiVersion": "a/b/c", "kind": ""}),
                &[
                    "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                    "spec.paramKind.kind: Required value",
                ],
            ),
        ],
    );
    let mutating = json!({"spec": {"matchConstraints": {"resourceRules": rules}, "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}});
    check_rows(
        GROUP,
        "mutatingadmissionpolicies",
        &mutating,
        &[
            (
                "/spec/mutations/0/applyConfiguration",
                json!({"expression": "x"}),
                &[
                    "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
                ],
            ),
            (
                "/spec/matchConstraints/resourceRules/0/operations",
                json!(["DELETE"]),
                &[
                    "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
                ],
            ),
            ("/spec/reinvocationPolicy", json!(""), &["spec.reinvocationPolicy: Required value"]),
        ],
    );
    let binding = json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}});
    check_rows(
        GROUP,
        "validatingadmissionpolicybindings",
        &binding,
        &[
            ("/spec/policyName", json!(""), &["spec.policyName: Required value"]),
            (
                "/spec/paramRef",
                json!({"parameterNotFoundAction": "x"}),
                &[
                    "spec.paramRef: Required value: one of name or selector must be specified",
                    "spec.paramRef.parameterNotFoundAction: Unsupported value: \"x\": supported values: \"Deny\", \"Allow\"",
                ],
            ),
            (
                "/spec/validationActions",
                json!(["Warn", "Deny"]),
                &[
                    "spec.validationActions: Invalid value: [\"Warn\",\"Deny\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
                ],
            ),
        ],
    );
}
