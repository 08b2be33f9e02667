//! The `EncryptionConfiguration` file: its form and upstream's rules about it.

use std::{collections::HashSet, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::config::parse_go_duration;
use serde::Deserialize;

/// A file that cannot be used; names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<Resources>,
}

/// Some resources and what encrypts them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resources {
    #[serde(default)]
    pub resources: Vec<String>,
    #[serde(default)]
    pub providers: Vec<Provider>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provider {
    pub aesgcm: Option<Keys>,
    pub aescbc: Option<Keys>,
    pub secretbox: Option<Keys>,
    pub identity: Option<Identity>,
    pub kms: Option<Kms>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    #[serde(default)]
    pub keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Name: {}, Secret: [REDACTED]", self.name)
    }
}

impl Key {
    /// The key itself; validated before.
    pub fn bytes(&self) -> Vec<u8> {
        STANDARD.decode(&self.secret).unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Kms {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    pub name: String,
    cachesize: Option<i32>,
    #[serde(default)]
    pub endpoint: String,
    timeout: Option<String>,
}

impl Kms {
    /// For one call; validated before.
    pub fn timeout(&self) -> Duration {
        self.timeout.as_deref().and_then(|text| parse_go_duration(text).ok()).unwrap_or(Duration::from_secs(3))
    }
}

const AES_SIZES: &[usize] = &[16, 24, 32];
const SECRETBOX_SIZES: &[usize] = &[32];

/// Reads and checks a file.
pub(super) fn load(path: &Path) -> Result<Vec<Resources>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        ConfigError(format!("error reading encryption provider configuration file {}: {e}", path.display()))
    })?;
    parse(&text).map_err(|e| ConfigError(format!("error while parsing file {}: {e}", path.display())))
}

/// Parses and checks the text of a file.
pub(super) fn parse(text: &str) -> Result<Vec<Resources>, ConfigError> {
    let file: File = serde_saphyr::from_str(text).map_err(|e| ConfigError(e.to_string()))?;
    if (file.api_version.as_str(), file.kind.as_str()) != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration") {
        return Err(ConfigError(format!(
            "no kind {:?} is registered for version {:?}; expected an EncryptionConfiguration of apiserver.config.k8s.io/v1",
            file.kind, file.api_version
        )));
    }
    let mut errors = Vec::new();
    if file.resources.is_empty() {
        errors.push("resources: Required value: at least one resources is required".to_owned());
    }
    let mut kms_names = HashSet::new();
    for (index, entry) in file.resources.iter().enumerate() {
        let path = format!("resources[{index}]");
        check_names(&entry.resources, &format!("{path}.resources"), &mut errors);
        let path = format!("{path}.providers");
        if entry.providers.is_empty() {
            errors.push(format!("{path}: Required value: at least one {path} is required"));
        }
        for (index, provider) in entry.providers.iter().enumerate() {
            check_provider(provider, &format!("{path}[{index}]"), &mut kms_names, &mut errors);
        }
    }
    match errors.as_slice() {
        [] => Ok(file.resources),
        [one] => Err(ConfigError(one.clone())),
        many => Err(ConfigError(format!("[{}]", many.join(", ")))),
    }
}

/// `pods` or `deployments.apps` or `*.apps`, as (resource, group).
pub(super) fn split(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

fn check_names(names: &[String], path: &str, errors: &mut Vec<String>) {
    if names.is_empty() {
        errors.push(format!("{path}: Required value: at least one {path} is required"));
    }
    let split: Vec<_> = names.iter().map(|name| split(name)).collect();
    let pairs = || split.iter().enumerate().flat_map(|(i, a)| split[i + 1..].iter().map(move |b| (a, b)));
    if pairs().any(|(a, b)| a == b) {
        errors.push(format!("{path}: Invalid value: {names:?}: the same resource cannot be specified multiple times"));
    }
    let any = ("*", "*");
    if pairs().any(|(a, b)| a != b && (*a == any || *b == any || (a.1 == b.1 && (a.0 == "*" || b.0 == "*")))) {
        errors.push(format!(
            "{path}: Invalid value: {names:?}: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked"
        ));
    }
    for (index, name) in names.iter().enumerate() {
        if let Some(why) = name_error(name) {
            errors.push(format!("{path}[{index}]: Invalid value: {name:?}: {why}"));
        }
    }
}

fn name_error(name: &str) -> Option<&'static str> {
    let (resource, group) = split(name);
    if name.to_lowercase() != name {
        return Some("resource name should not contain capital letters");
    }
    match (name, resource, group) {
        ("*", ..) => Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"),
        ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", ..) => {
            Some("resources which do not have REST API/s cannot be encrypted")
        }
        (_, _, "events.k8s.io") => Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        ),
        (_, _, "extensions") => Some("'extensions' group has been removed and cannot be used for encryption"),
        (_, resource, "*") if resource != "*" => Some("encrypting the same resource across groups is not supported"),
        _ => None,
    }
}

fn check_provider(provider: &Provider, path: &str, kms_names: &mut HashSet<String>, errors: &mut Vec<String>) {
    let Provider { aesgcm, aescbc, secretbox, identity, kms } = provider;
    let given = [aesgcm.is_some(), aescbc.is_some(), secretbox.is_some(), identity.is_some(), kms.is_some()];
    match given.iter().filter(|given| **given).count() {
        1 => {}
        0 => errors.push(format!(
            "{path}: Invalid value: {{}}: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
        )),
        _ => errors.push(format!(
            "{path}: Invalid value: more than one provider specified in a single element, should split into different list elements"
        )),
    }
    let all = [("aesgcm", aesgcm, AES_SIZES), ("aescbc", aescbc, AES_SIZES), ("secretbox", secretbox, SECRETBOX_SIZES)];
    for (name, keys, sizes) in all {
        let Some(keys) = keys else { continue };
        let path = format!("{path}.{name}.keys");
        if keys.keys.is_empty() {
            errors.push(format!("{path}: Required value: at least one keys is required"));
        }
        for (index, key) in keys.keys.iter().enumerate() {
            errors.extend(key_error(key, sizes).map(|(field, why)| format!("{path}[{index}].{field}: {why}")));
        }
    }
    if let Some(kms) = kms {
        check_kms(kms, &format!("{path}.kms"), kms_names, errors);
    }
}

fn key_error(key: &Key, sizes: &[usize]) -> Option<(&'static str, String)> {
    if key.name.is_empty() {
        return Some(("name", "Required value: name is a mandatory field for a key".to_owned()));
    }
    if key.secret.is_empty() {
        return Some(("secret", "Required value: secret is a mandatory field for a key".to_owned()));
    }
    let invalid = |why: String| Some(("secret", format!("Invalid value: \"REDACTED\": {why}")));
    match STANDARD.decode(&key.secret) {
        Err(_) => invalid("secrets must be base64 encoded".to_owned()),
        Ok(bytes) if !sizes.contains(&bytes.len()) => {
            let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
            let sizes = sizes.join(" ");
            invalid(format!("secret is not of the expected length, got {}, expected one of [{sizes}]", bytes.len()))
        }
        Ok(_) => None,
    }
}

fn check_kms(kms: &Kms, path: &str, names: &mut HashSet<String>, errors: &mut Vec<String>) {
    let name = &kms.name;
    match kms.api_version.as_str() {
        "v2" => {}
        "" | "v1" => errors.push(format!(
            "{path}.apiVersion: KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead"
        )),
        other => errors.push(format!(
            "{path}.apiVersion: Invalid value: {other:?}: unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported"
        )),
    }
    if name.is_empty() {
        errors.push(format!("{path}.name: Required value: name is a mandatory field for a provider"));
    }
    if name.contains(':') {
        errors.push(format!(
            "{path}.name: Invalid value: {name:?}: invalid KMS provider name {name}, must not contain ':'"
        ));
    }
    if !names.insert(name.clone()) {
        errors.push(format!(
            "{path}.name: Invalid value: {name:?}: duplicate KMS provider name {name}, names must be unique"
        ));
    }
    if kms.cachesize.is_some() && kms.api_version == "v2" {
        errors.push(format!("{path}.cachesize: Invalid value: cachesize is not supported in v2"));
    }
    match kms.timeout.as_deref().map(parse_go_duration) {
        Some(Err(why)) => errors.push(format!("{path}.timeout: Invalid value: {why}")),
        Some(Ok(Duration::ZERO)) => {
            errors.push(format!("{path}.timeout: Invalid value: timeout should be a positive value"));
        }
        _ => {}
    }
    if kms.endpoint.is_empty() {
        errors.push(format!("{path}.endpoint: Invalid value: \"\": endpoint is a mandatory field for a kms"));
    } else if !kms.endpoint.starts_with("unix://") {
        let scheme = kms.endpoint.split_once("://").map_or("", |(scheme, _)| scheme);
        errors.push(format!(
            "{path}.endpoint: Invalid value: {:?}: unsupported scheme {scheme:?} for KMS provider, only unix is supported",
            kms.endpoint
        ));
    }
}
