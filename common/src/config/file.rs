//! Versioned component configuration files: strict YAML (or JSON) with an `apiVersion`/`kind` check.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::ConfigError;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeMeta {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

/// Reads a config file. `T` should carry `#[serde(deny_unknown_fields, rename_all = "camelCase")]`; `apiVersion` and `kind`
/// are checked and removed before `T` sees the document, so `T` need not have them.
pub fn load_versioned<T: DeserializeOwned>(path: &Path, api_version: &str, kind: &str) -> Result<T, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
    parse_versioned(&name, &text, api_version, kind)
}

/// As [`load_versioned`] of any of these versions, the newest first.
pub fn load_any_version<T: DeserializeOwned>(path: &Path, api_versions: &[&str], kind: &str) -> Result<T, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
    parse_any_version(&name, &text, api_versions, kind)
}

/// As [`load_versioned`] from text; `name` appears in errors.
pub fn parse_versioned<T: DeserializeOwned>(
    name: &str,
    text: &str,
    api_version: &str,
    kind: &str,
) -> Result<T, ConfigError> {
    parse_any_version(name, text, &[api_version], kind)
}

fn parse_any_version<T: DeserializeOwned>(
    name: &str,
    text: &str,
    api_versions: &[&str],
    kind: &str,
) -> Result<T, ConfigError> {
    let invalid = |reason: String| ConfigError::Invalid { path: name.to_owned(), reason };
    let mut document: serde_json::Value = serde_saphyr::from_str(text).map_err(|error| invalid(error.to_string()))?;
    let types: TypeMeta = TypeMeta::deserialize_from(&document).map_err(|error| invalid(error.to_string()))?;
    if types.kind.is_empty() {
        return Err(invalid("'Kind' is missing in the configuration".into()));
    }
    if types.api_version.is_empty() {
        return Err(invalid("'apiVersion' is missing in the configuration".into()));
    }
    if !api_versions.contains(&types.api_version.as_str()) || types.kind != kind {
        return Err(invalid(format!(
            "no kind {:?} is registered for version {:?}; expected {kind:?} in {:?}",
            types.kind,
            types.api_version,
            api_versions.first().unwrap_or(&"")
        )));
    }
    if let Some(map) = document.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
    }
    T::deserialize(document).map_err(|error| invalid(format!("strict decoding error: {error}")))
}

impl TypeMeta {
    fn deserialize_from(document: &serde_json::Value) -> Result<Self, serde_json::Error> {
        serde::Deserialize::deserialize(document)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Sample {
        #[serde(default, with = "crate::config::duration::option")]
        sync_period: Option<Duration>,
        #[serde(default)]
        names: Vec<String>,
    }

    fn load(text: &str) -> Result<Sample, String> {
        parse_versioned("f.yaml", text, "x.config.k8s.io/v1", "Sample").map_err(|error| error.to_string())
    }

    #[test]
    fn reads_yaml_and_json() {
        let want = Sample { sync_period: Some(Duration::from_secs(90)), names: vec!["a".into()] };
        assert_eq!(load("apiVersion: x.config.k8s.io/v1\nkind: Sample\nsyncPeriod: 1m30s\nnames: [a]\n"), Ok(want));
        assert!(load(r#"{"apiVersion":"x.config.k8s.io/v1","kind":"Sample"}"#).is_ok());
    }

    #[test]
    fn names_the_file_and_what_is_wrong() {
        let unknown = load("apiVersion: x.config.k8s.io/v1\nkind: Sample\nsyncPeriode: 1s\n").unwrap_err();
        assert!(unknown.contains("f.yaml") && unknown.contains("syncPeriode"), "{unknown}");
        assert!(load("kind: Sample\n").unwrap_err().contains("apiVersion"));
        assert!(load("apiVersion: x/v2\nkind: Sample\n").unwrap_err().contains("x/v2"));
        let syntax = load("apiVersion: [").unwrap_err();
        assert!(syntax.contains("f.yaml"), "{syntax}");
    }
}
