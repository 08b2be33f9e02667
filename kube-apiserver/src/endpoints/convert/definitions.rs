//! Definitions of custom resources as upstream stores them: apiextensions.k8s.io/v1beta1, which is no longer served.

use serde_json::{Map, Value, json};

/// Fields that v1beta1 may state once for all versions.
const SHARED: [(&str, &str); 3] = [
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
];

/// v1beta1 to v1.
pub(super) fn to_v1(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let single = spec.remove("version").filter(|version| version.as_str().is_some_and(|v| !v.is_empty()));
    let shared: Vec<(&str, Value)> =
        SHARED.iter().filter_map(|(old, new)| Some((*new, spec.remove(*old).filter(|v| !v.is_null())?))).collect();
    let versions = spec.entry("versions").or_insert(Value::Null);
    if versions.as_array().is_none_or(Vec::is_empty) {
        *versions = json!([{"name": single.unwrap_or_default(), "served": true, "storage": true}]);
    }
    for version in versions.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        for (name, value) in &shared {
            version.entry(*name).or_insert_with(|| value.clone());
        }
        columns(version);
    }
    // What v1 no longer defaults to true.
    spec.entry("preserveUnknownFields").or_insert(true.into());
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) {
        webhook(conversion);
    }
}

fn columns(version: &mut Map<String, Value>) {
    let columns = version.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut);
    for column in columns.into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(path) = column.remove("JSONPath") {
            column.insert("jsonPath".to_owned(), path);
        }
    }
}

fn webhook(conversion: &mut Map<String, Value>) {
    let mut webhook = Map::new();
    for (old, new) in
        [("webhookClientConfig", "clientConfig"), ("conversionReviewVersions", "conversionReviewVersions")]
    {
        if let Some(value) = conversion.remove(old).filter(|value| !value.is_null()) {
            webhook.insert(new.to_owned(), value);
        }
    }
    if webhook.contains_key("clientConfig") {
        conversion.insert("webhook".to_owned(), webhook.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_once_is_said_for_every_version() {
        let mut crd = json!({"spec": {
            "group": "example.com", "version": "v1", "preserveUnknownFields": false,
            "validation": {"openAPIV3Schema": {"type": "object"}},
            "additionalPrinterColumns": [{"name": "A", "type": "string", "JSONPath": ".a"}],
            "versions": [{"name": "v1", "served": true, "storage": true}, {"name": "v2", "served": true, "storage": false}],
            "conversion": {"strategy": "Webhook", "conversionReviewVersions": ["v1"], "webhookClientConfig": {"url": "https://x"}},
        }});
        to_v1(&mut crd);
        let version = |name: &str, storage: bool| {
            json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object"}},
                "additionalPrinterColumns": [{"name": "A", "type": "string", "jsonPath": ".a"}]})
        };
        let webhook = json!({"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]});
        assert_eq!(
            crd["spec"],
            json!({
                "group": "example.com", "preserveUnknownFields": false,
                "versions": [version("v1", true), version("v2", false)],
                "conversion": {"strategy": "Webhook", "webhook": webhook},
            })
        );
        let mut old = json!({"spec": {"version": "v1beta1"}});
        to_v1(&mut old);
        assert_eq!(old["spec"]["versions"], json!([{"name": "v1beta1", "served": true, "storage": true}]));
        assert_eq!(old["spec"]["preserveUnknownFields"], true);
    }
}
