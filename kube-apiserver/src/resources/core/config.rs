//! ConfigMaps, Secrets and ServiceAccounts.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::Value;

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    names,
    rules::Rules,
    table::{AGE, NAME, Row, age, name, text},
    value::{at, bool_at, each, map_at, member, remove, same_at, set, set_if_zero, str_at, strings_at},
};

/// Data of a ConfigMap or Secret may take this many bytes in sum.
const MAX_DATA: usize = 1024 * 1024;

pub(crate) const RULES: &[Rules] = &[
    Rules {
        resource: "configmaps",
        kind: "ConfigMap",
        validate: config_map,
        validate_update: |new, old, _, errs| {
            frozen(new, old, &["data", "binaryData"], errs);
            config_map(new, errs);
        },
        columns: &[NAME, text("Data"), AGE],
        row: config_map_row,
        ..Rules::GENERIC
    },
    Rules {
        resource: "secrets",
        kind: "Secret",
        warnings: |obj, _, _| crate::resources::warnings::secret(obj),
        defaults: secret_defaults,
        prepare_update: |new, old, _, _| {
            if str_at(new, "type").is_empty() {
                set(new, "type", str_at(old, "type"));
            }
        },
        validate: secret,
        validate_update: |new, old, _, errs| {
            checks::immutable(new, old, "type", errs);
            frozen(new, old, &["data"], errs);
            secret(new, errs);
        },
        fields: &[("type", |secret| str_at(secret, "type").to_string())],
        field_labels: &["metadata.name", "metadata.namespace", "type"],
        columns: &[NAME, text("Type"), text("Data"), AGE],
        row: secret_row,
        ..Rules::GENERIC
    },
    Rules {
        resource: "serviceaccounts",
        kind: "ServiceAccount",
        warnings: |obj, old, _| crate::resources::warnings::service_account(obj, old),
        prepare_create: |account, _| name_secrets(account),
        prepare_update: |account, _, _, _| name_secrets(account),
        columns: crate::resources::table::NAME_AGE,
        row: crate::resources::table::name_age,
        ..Rules::GENERIC
    },
];

/// References to secrets say their names alone.
fn name_secrets(account: &mut Value) {
    for map in each(account, "secrets").filter_map(Value::as_object_mut) {
        map.retain(|field, _| field == "name");
    }
}

fn config_map_row(obj: &Value, now: Timestamp) -> Row {
    let entries = |path: &str| map_at(obj, path).map_or(0, serde_json::Map::len);
    vec![name(obj), (entries("data") + entries("binaryData")).into(), age(obj, now)]
}

fn secret_row(obj: &Value, now: Timestamp) -> Row {
    vec![
        name(obj),
        str_at(obj, "type").into(),
        map_at(obj, "data").map_or(0, serde_json::Map::len).into(),
        age(obj, now),
    ]
}

/// `stringData` is a write-only convenience: its entries become `data`.
fn secret_defaults(secret: &mut Value) {
    set_if_zero(secret, "type", "Opaque");
    if let Some(Value::Object(plain)) = remove(secret, "stringData")
        && !plain.is_empty()
        && let Some(data) = member(secret, "data")
    {
        for (key, value) in plain {
            set(data, &key, BASE64_STANDARD.encode(value.as_str().unwrap_or_default()));
        }
    }
}

/// Bytes behind a base64 text, without decoding it.
fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn keys(obj: &Value, field: &str, errs: &mut ErrorList) {
    let path = Path::root(field);
    for (key, _) in strings_at(obj, field) {
        for text in names::config_key(key) {
            errs.invalid(&path.key(key), key, text);
        }
    }
}

fn config_map(obj: &Value, errs: &mut ErrorList) {
    keys(obj, "data", errs);
    let mut size = 0;
    for (key, value) in strings_at(obj, "data") {
        if at(obj, "binaryData").is_some_and(|binary| binary.get(key).is_some()) {
            errs.invalid(&Path::root("data").key(key), key, "duplicate of key present in binaryData");
        }
        size += value.len();
    }
    keys(obj, "binaryData", errs);
    size += strings_at(obj, "binaryData").map(|(_, value)| decoded_len(value)).sum::<usize>();
    if size > MAX_DATA {
        errs.too_long(&Path::root(""), MAX_DATA);
    }
}

fn frozen(new: &Value, old: &Value, fields: &[&str], errs: &mut ErrorList) {
    if !bool_at(old, "immutable") {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if !bool_at(new, "immutable") {
        errs.forbidden(&Path::root("immutable"), detail);
    }
    for field in fields {
        if !same_at(new, old, field) {
            errs.forbidden(&Path::root(field), detail);
        }
    }
}

fn secret(obj: &Value, errs: &mut ErrorList) {
    let data = Path::root("data");
    keys(obj, "data", errs);
    if strings_at(obj, "data").map(|(_, value)| decoded_len(value)).sum::<usize>() > MAX_DATA {
        errs.too_long(&data, MAX_DATA);
    }
    let entry = |key: &str| at(obj, "data").and_then(|data| data.get(key)).and_then(Value::as_str);
    let mut require = |key: &str| {
        if entry(key).is_none() {
            errs.required(&data.key(key), "");
        }
    };
    match str_at(obj, "type") {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if !at(obj, "metadata.annotations").is_some_and(|a| is_set_key(a, key)) {
                errs.required(&Path::root("metadata.annotations").key(key), "");
            }
        }
        "kubernetes.io/dockercfg" => docker_config(entry(".dockercfg"), ".dockercfg", errs),
        "kubernetes.io/dockerconfigjson" => docker_config(entry(".dockerconfigjson"), ".dockerconfigjson", errs),
        "kubernetes.io/basic-auth" if entry("username").is_none() && entry("password").is_none() => {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" if entry("ssh-privatekey").is_none_or(str::is_empty) => {
            errs.required(&data.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            require("tls.crt");
            require("tls.key");
        }
        _ => {}
    }
}

fn is_set_key(map: &Value, key: &str) -> bool {
    map.get(key).and_then(Value::as_str).is_some_and(|value| !value.is_empty())
}

fn docker_config(entry: Option<&str>, key: &str, errs: &mut ErrorList) {
    let path = Path::root("data");
    let Some(encoded) = entry else {
        errs.required(&path.key(key), "");
        return;
    };
    let bytes = BASE64_STANDARD.decode(encoded).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        let detail = if bytes.is_empty() { "unexpected end of JSON input".to_string() } else { error.to_string() };
        errs.invalid(&path.key(key), "<secret contents redacted>", detail);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn string_data_becomes_data() {
        let mut obj = json!({"stringData": {"a": "x"}, "data": {"b": "eQ=="}});
        secret_defaults(&mut obj);
        assert_eq!(obj, json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}}));
    }

    #[test]
    fn immutable_config_maps_stay() {
        let mut errs = ErrorList::new();
        let old = json!({"immutable": true, "data": {"a": "1"}});
        frozen(&json!({"immutable": true, "data": {"a": "2"}}), &old, &["data"], &mut errs);
        assert_eq!(errs.message(), "data: Forbidden: field is immutable when `immutable` is set");
    }
}
