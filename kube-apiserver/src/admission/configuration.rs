//! `--admission-control-config-file`: which plugin is configured how.

use std::path::Path;

use common::wire::yaml;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

const VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
/// Plugins whose own configuration has no version, with the member that tells it: such a file may take the place of the whole.
const UNVERSIONED: [(&str, &str); 2] =
    [("ImagePolicyWebhook", "imagePolicy"), ("PodNodeSelector", "podNodeSelectorPluginConfig")];

/// Configurations by plugin name, as text.
#[derive(Debug, Default)]
pub struct Configurations(Vec<(String, String)>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    plugins: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    configuration: Option<Value>,
}

impl Configurations {
    /// Reads the file and those that it names, relative to it.
    ///
    /// # Errors
    /// A file is unreadable, or the first is no AdmissionConfiguration; the text says which and why.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("unable to read admission control configuration from \"{shown}\" [{e}]"))?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let read = |file: &str| {
            let file = folder.join(file);
            std::fs::read_to_string(&file)
                .map_err(|e| format!("couldn't open admission plugin configuration {}: {e}", file.display()))
        };
        Self::parse(&text, read).map_err(|e| format!("{shown}: {e}"))
    }

    fn parse(text: &str, read: impl Fn(&str) -> Result<String, String>) -> Result<Self, String> {
        let document = yaml::read(text.as_bytes())?;
        let told = |member: &str| document.value.get(member).is_some();
        if !told("apiVersion") && !told("kind") && UNVERSIONED.iter().any(|(_, member)| told(member)) {
            return Ok(Self(UNVERSIONED.iter().map(|(name, _)| ((*name).to_owned(), text.to_owned())).collect()));
        }
        if !document.twice.is_empty() {
            return Err(document.strict_error());
        }
        let file: File = of_kind(document.value, &VERSIONS, "AdmissionConfiguration")?;
        let mut plugins = Vec::new();
        for entry in file.plugins {
            let text = match (entry.configuration, entry.path.as_str()) {
                (Some(inline), _) => inline.to_string(),
                (None, "") => continue,
                (None, path) => read(path)?,
            };
            plugins.push((entry.name, text));
        }
        Ok(Self(plugins))
    }

    /// The configuration of a plugin; of several, the first.
    #[must_use]
    pub fn of(&self, plugin: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == plugin).map(|(_, text)| text.as_str())
    }
}

/// A plugin's versioned configuration.
///
/// # Errors
/// It is of another kind or version, or does not fit.
pub(super) fn versioned<T: DeserializeOwned>(text: &str, versions: &[&str], kind: &str) -> Result<T, String> {
    of_kind(yaml::read(text.as_bytes())?.value, versions, kind)
}

fn of_kind<T: DeserializeOwned>(mut document: Value, versions: &[&str], kind: &str) -> Result<T, String> {
    let mut take = |member: &str| match document.as_object_mut().and_then(|map| map.remove(member)) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        _ => Err(format!("Object '{member}' is missing")),
    };
    let (found_kind, version) = (take("kind")?, take("apiVersion")?);
    if found_kind != kind || !versions.contains(&version.as_str()) {
        return Err(format!("no kind {found_kind:?} is registered for version {version:?}"));
    }
    serde_json::from_value(document).map_err(|error| format!("strict decoding error: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Configurations, String> {
        Configurations::parse(
            text,
            |path| if path == "a.yaml" { Ok("from a file".into()) } else { Err(format!("no {path}")) },
        )
    }

    #[test]
    fn configurations_are_inline_or_in_files() {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";
        let read = parse(&format!(
            "{head}plugins:\n- {{name: A, path: a.yaml}}\n- {{name: B, configuration: {{x: 1}}}}\n- name: C\n"
        ))
        .unwrap();
        assert_eq!((read.of("A"), read.of("B"), read.of("C")), (Some("from a file"), Some("{\"x\":1}"), None));
        assert_eq!(parse(&format!("{head}plugins: [{{name: A, path: b}}]")).unwrap_err(), "no b");
        assert!(parse(&format!("{head}plugins: [{{nam: A}}]")).unwrap_err().contains("unknown field `nam`"));
        assert!(parse(&format!("{head}{head}")).unwrap_err().contains("already set"));
        assert_eq!(parse("plugins: []").unwrap_err(), "Object 'kind' is missing");
        assert!(
            parse("apiVersion: v1\nkind: Pod\n")
                .unwrap_err()
                .contains("no kind \"Pod\" is registered for version \"v1\"")
        );
    }

    #[test]
    fn old_files_are_of_one_plugin() {
        let text = "podNodeSelectorPluginConfig:\n  clusterDefaultNodeSelector: a=b\n";
        assert_eq!(parse(text).unwrap().of("PodNodeSelector"), Some(text));
    }
}
