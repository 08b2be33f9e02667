//! Version and kind of a document, and whether they fit what the URL asks for.

use std::fmt;

use common::{api::catalog, schema};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::body::Expected;

/// `kind` and `apiVersion` as a document says them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TypeMeta {
    /// `kind`.
    pub kind: Option<String>,
    /// `apiVersion`.
    pub api_version: Option<String>,
}

/// How a document differs from what is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The version cannot be read.
    Unreadable(String),
    /// The kind is right, in another version that exists.
    Version(String),
    /// Another kind, or a version that does not exist.
    Kind {
        /// The kind.
        kind: String,
        /// Its version without the group.
        version: String,
        /// Upstream's complaint.
        error: String,
    },
}

/// How Go calls what it reads version and kind into.
const GO_TYPE_META: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// Kinds of no group of their own.
const UNVERSIONED: [&str; 5] = ["APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "Status"];

impl TypeMeta {
    /// Reads version and kind, and nothing else, of a text.
    ///
    /// # Errors
    /// Go's complaint.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let object = json.trim_ascii_start().first() == Some(&b'{');
        if let Some(meta) = object.then(|| serde_json::from_slice(json).ok()).flatten() {
            return Ok(meta);
        }
        schema::check_syntax(json)?;
        Self::of(&serde_json::from_slice(json).map_err(|error| error.to_string())?)
    }

    /// Version and kind of a tree.
    ///
    /// # Errors
    /// Go's complaint.
    pub fn of(document: &Value) -> Result<Self, String> {
        let text = |name: &str| match document.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(format!(
                "json: cannot unmarshal {} into Go struct field .{name} of type string",
                go_type(other).unwrap_or_default()
            )),
        };
        match go_type(document) {
            None | Some("object") => Ok(Self { kind: text("kind")?, api_version: text("apiVersion")? }),
            Some(other) => Err(format!("json: cannot unmarshal {other} into Go value of type {GO_TYPE_META}")),
        }
    }

    /// Compares with what is expected; what is not said fits.
    ///
    /// # Errors
    /// How it differs.
    pub fn check(&self, expected: Expected<'_>) -> Result<(), Mismatch> {
        let wanted = expected.api_version();
        let kind = self.kind.as_deref().filter(|k| !k.is_empty()).unwrap_or(expected.kind);
        let version = self.api_version.as_deref().filter(|v| !v.is_empty()).unwrap_or(&wanted);
        if version == wanted && kind == expected.kind {
            return Ok(());
        }
        if version.matches('/').count() > 1 {
            return Err(Mismatch::Unreadable(format!("unexpected GroupVersion string: {version}")));
        }
        let (group, short) = catalog::split_api_version(version);
        let error = match (is_registered(group, short, kind), kind == expected.kind) {
            (true, true) => return Err(Mismatch::Version(version.to_owned())),
            (true, false) => unknown_conversion(short, kind, expected),
            (false, _) => format!(
                "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
            ),
        };
        Err(Mismatch::Kind { kind: kind.to_owned(), version: short.to_owned(), error })
    }
}

/// What upstream says of a kind that is none of those it converts between.
fn unknown_conversion(version: &str, kind: &str, expected: Expected<'_>) -> String {
    // Events of both groups are one kind inside.
    let package = match expected.group {
        "" | "events.k8s.io" => "core",
        group => group.split('.').next().unwrap_or_default(),
    };
    format!("converting ({version}.{kind}) to ({package}.{}): unknown conversion", expected.kind)
}

fn go_type(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null => None,
        Value::Bool(_) => Some("bool"),
        Value::Number(_) => Some("number"),
        Value::String(_) => Some("string"),
        Value::Array(_) => Some("array"),
        Value::Object(_) => Some("object"),
    }
}

/// Whether upstream's scheme knows a kind: those of the type table, and lists of what is served.
fn is_registered(group: &str, version: &str, kind: &str) -> bool {
    let known = |kind: &str| {
        schema::lookup(group, version, kind).is_some() || common::api::catalog().by_kind(group, version, kind).is_some()
    };
    known(kind)
        || kind.strip_suffix("List").is_some_and(known)
        || (group.is_empty() && version == "v1" && UNVERSIONED.contains(&kind))
}

impl<'de> serde::Deserialize<'de> for TypeMeta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = TypeMeta;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TypeMeta, A::Error> {
                let mut meta = TypeMeta::default();
                // Go looks for these two without regard to case; the last one wins.
                while let Some(name) = map.next_key::<std::borrow::Cow<'_, str>>()? {
                    if name.eq_ignore_ascii_case("kind") {
                        meta.kind = map.next_value::<Option<String>>()?.or(meta.kind);
                    } else if name.eq_ignore_ascii_case("apiVersion") {
                        meta.api_version = map.next_value::<Option<String>>()?.or(meta.api_version);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(meta)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Expected<'_> = Expected { group: "", version: "v1", kind: "Pod" };

    #[test]
    fn names_are_found_in_any_case_and_the_last_wins() {
        let meta = TypeMeta::read(br#"{"kind": "Pod", "a": [1, {}], "APIVERSION": "v1", "Kind": "x", "KIND": null}"#);
        assert_eq!(meta, Ok(TypeMeta { kind: Some("x".into()), api_version: Some("v1".into()) }));
        assert!(TypeMeta::read(br#"{"kind": 1}"#).unwrap_err().contains("number into Go struct field .kind"));
        assert_eq!(TypeMeta::read(b"null"), Ok(TypeMeta::default()));
    }

    #[test]
    fn differences_are_told_apart() {
        let check = |kind: &str, version: &str| {
            TypeMeta { kind: Some(kind.into()), api_version: Some(version.into()) }.check(POD)
        };
        assert_eq!(check("", ""), Ok(()));
        assert_eq!(check("Pod", "a/b/c"), Err(Mismatch::Unreadable("unexpected GroupVersion string: a/b/c".into())));
        let error = "converting (v1.Secret) to (core.Pod): unknown conversion".to_owned();
        assert_eq!(check("Secret", "v1"), Err(Mismatch::Kind { kind: "Secret".into(), version: "v1".into(), error }));
    }
}
