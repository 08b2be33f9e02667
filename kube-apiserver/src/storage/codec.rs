//! How objects are written: JSON or protobuf in the store, protobuf on the wire.
//!
//! As upstream, a store in etcd holds protobuf for the built-in kinds unless told otherwise, and JSON for definitions
//! of custom resources, for API services and for custom resources. What is read is told by its first bytes, so a
//! store may hold both. The embedded store holds JSON, the form in which the cache keeps objects.

use std::borrow::Cow;

use common::{
    api::{Resource, catalog::split_api_version},
    schema::{self, Type},
    wire::{self, WireError},
};
use serde_json::Value;

/// The form in which objects are written into the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageMediaType {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// Groups that upstream stores as JSON whatever the flag says.
const ALWAYS_JSON: [&str; 2] = ["apiextensions.k8s.io", "apiregistration.k8s.io"];

/// The forms of one kind.
#[derive(Debug)]
pub struct Codec {
    ty: Type<'static>,
    api_version: String,
    kind: &'static str,
    stored: StorageMediaType,
    /// What objects in JSON begin with when they have the stored version.
    head: String,
    upgrade: Upgrade,
    fill: Option<Fill>,
}

/// Fills in what an object has when it is read from protobuf, though it was not written there.
pub type Fill = fn(&mut Value);

/// Brings the fields of an object of an older version (group, version and kind follow) into the stored form.
pub type Upgrade = fn(&mut Value, &str, &str, &str);

impl Codec {
    /// The codec of a built-in resource; `None` for one whose type isn't known.
    #[must_use]
    pub fn of(resource: &Resource, stored: StorageMediaType, upgrade: Upgrade) -> Option<Self> {
        let ty = schema::lookup(resource.group, resource.version, resource.kind)?;
        let stored = if ALWAYS_JSON.contains(&resource.group) { StorageMediaType::Json } else { stored };
        let (api_version, kind) = (resource.api_version(), resource.kind);
        let head = format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","#);
        Some(Self { ty, api_version, kind, stored, head, upgrade, fill: None })
    }

    /// As it is, but objects are filled in when they are read.
    #[must_use]
    pub fn filled_by(self, fill: Option<Fill>) -> Self {
        Self { fill, ..self }
    }

    /// The JSON of a stored value in the stored version, also of what was written when that was another one.
    ///
    /// # Errors
    /// The value is damaged.
    pub fn json<'v>(&self, value: &'v [u8]) -> Result<Cow<'v, [u8]>, WireError> {
        let json = to_json(value)?;
        let bad = |error: serde_json::Error| WireError::Json(error.to_string());
        if json.starts_with(self.head.as_bytes()) {
            let Some(fill) = self.fill.filter(|_| matches!(json, Cow::Owned(_))) else { return Ok(json) };
            let mut tree: Value = serde_json::from_slice(&json).map_err(bad)?;
            fill(&mut tree);
            return encode_json(&tree).map(Cow::Owned);
        }
        let said: TypeMeta = serde_json::from_slice(&json).map_err(bad)?;
        if said.api_version.is_empty() || said.api_version == self.api_version {
            return Ok(json);
        }
        let mut tree: Value = serde_json::from_slice(&json).map_err(bad)?;
        let (group, version) = split_api_version(&said.api_version);
        (self.upgrade)(&mut tree, group, version, self.kind);
        tree["kind"] = self.kind.into();
        tree["apiVersion"] = self.api_version.as_str().into();
        self.normalize(&mut tree);
        encode_json(&tree).map(Cow::Owned)
    }

    /// The tree of a stored value in the stored version.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn tree(&self, value: &[u8]) -> Result<Value, WireError> {
        serde_json::from_slice(&self.json(value)?).map_err(|error| WireError::Json(error.to_string()))
    }

    /// Gives an object the form in which Go writes it, so that what is answered is what will be read.
    pub fn normalize(&self, object: &mut Value) {
        schema::normalize(self.ty, object);
    }

    /// What objects in JSON begin with.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.head.as_bytes()
    }

    /// `group/version` of the objects.
    #[must_use]
    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    /// Kind of the objects.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.kind
    }

    /// The protobuf message of an object, without envelope.
    ///
    /// # Errors
    /// The JSON does not fit the kind.
    pub fn protobuf(&self, json: &[u8]) -> Result<Vec<u8>, WireError> {
        let mut raw = Vec::new();
        wire::json_to_protobuf(self.ty, json, &mut raw)?;
        Ok(raw)
    }

    /// What is stored for an object.
    ///
    /// # Errors
    /// The object does not fit the kind.
    pub fn encode(&self, object: &Value) -> Result<Vec<u8>, WireError> {
        match self.stored {
            StorageMediaType::Json => encode_json(object),
            StorageMediaType::Yaml => encode_yaml(object),
            StorageMediaType::Protobuf => {
                let mut raw = Vec::with_capacity(1024);
                wire::tree_to_protobuf(self.ty, object, &mut raw)?;
                Ok(wire::seal(&self.api_version, self.kind, &raw))
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct TypeMeta {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
}

/// The JSON of a stored value: itself, or what its protobuf or YAML stands for.
///
/// # Errors
/// It is protobuf of an unknown kind, or damaged.
pub fn to_json(value: &[u8]) -> Result<Cow<'_, [u8]>, WireError> {
    if value.first() == Some(&b'{') {
        return Ok(Cow::Borrowed(value));
    }
    if !value.starts_with(wire::MAGIC) {
        let tree = wire::yaml::read(value).map_err(WireError::Yaml)?.value;
        // What is no mapping is no object, which its own bytes say best.
        return if tree.is_object() { encode_json(&tree).map(Cow::Owned) } else { Ok(Cow::Borrowed(value)) };
    }
    let envelope = wire::open(value)?;
    let (group, version) = split_api_version(envelope.api_version);
    let unknown = || WireError::NotMarshalable(format!("{} {}", envelope.api_version, envelope.kind));
    let ty = schema::lookup(group, version, envelope.kind).ok_or_else(unknown)?;
    let mut json = Vec::new();
    wire::protobuf_to_json(ty, envelope.raw, Some((envelope.api_version, envelope.kind)), &mut json)?;
    Ok(Cow::Owned(json))
}

/// The tree of a stored value.
///
/// # Errors
/// As [`to_json`].
pub fn to_tree(value: &[u8]) -> Result<Value, WireError> {
    serde_json::from_slice(&to_json(value)?).map_err(|error| WireError::Json(error.to_string()))
}

/// What is stored for an object of a built-in kind that no cache holds, such as an allocation record.
///
/// # Errors
/// The object says no known kind.
pub fn encode(object: &Value, stored: StorageMediaType) -> Result<Vec<u8>, WireError> {
    let text = |member: &str| object[member].as_str().unwrap_or_default();
    match stored {
        StorageMediaType::Json => encode_json(object),
        StorageMediaType::Yaml => encode_yaml(object),
        StorageMediaType::Protobuf => to_protobuf(object, text("apiVersion"), text("kind")),
    }
}

fn encode_yaml(object: &Value) -> Result<Vec<u8>, WireError> {
    serde_saphyr::to_string(object).map(String::into_bytes).map_err(|error| WireError::Yaml(error.to_string()))
}

/// A tree of a built-in kind in its protobuf envelope.
///
/// # Errors
/// The kind has no protobuf form, or the tree does not fit it.
pub fn to_protobuf(object: &Value, api_version: &str, kind: &str) -> Result<Vec<u8>, WireError> {
    let (group, version) = split_api_version(api_version);
    let unknown = || WireError::NotMarshalable(format!("{api_version} {kind}"));
    let ty = schema::lookup(group, version, kind).ok_or_else(unknown)?;
    let mut raw = Vec::with_capacity(1024);
    wire::tree_to_protobuf(ty, object, &mut raw)?;
    Ok(wire::seal(api_version, kind, &raw))
}

/// JSON with `kind`, `apiVersion` and `metadata` first.
///
/// # Errors
/// The tree cannot be written.
pub fn encode_json(object: &Value) -> Result<Vec<u8>, WireError> {
    crate::server::registry::encode_ordered(object).map_err(|error| WireError::Json(error.to_string()))
}

/// Tells most different stored values apart without keeping them: an update that changes nothing is none.
#[must_use]
pub fn digest(value: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(value);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use common::api::catalog;
    use serde_json::json;

    use super::*;

    fn codec(group: &str, version: &str, plural: &str, stored: StorageMediaType) -> Codec {
        let resource = catalog().by_plural(group, version, plural).unwrap();
        Codec::of(resource, stored, crate::endpoints::convert::upgrade).unwrap()
    }

    #[test]
    fn built_in_kinds_are_protobuf_and_definitions_json() {
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web"}, "spec": {"containers": []}});
        let bytes = codec("", "v1", "pods", StorageMediaType::Protobuf).encode(&pod).unwrap();
        assert!(bytes.starts_with(b"k8s\0\n\t\n\x02v1\x12\x03Pod"));
        let mut read = to_tree(&bytes).unwrap();
        assert_eq!((&read["kind"], &read["metadata"]), (&json!("Pod"), &pod["metadata"]));
        // Read back, encoded again: nothing changes any more.
        assert_eq!(codec("", "v1", "pods", StorageMediaType::Protobuf).encode(&read).unwrap(), bytes);
        read["kind"] = "Nothing".into();
        assert!(matches!(encode(&read, StorageMediaType::Protobuf), Err(WireError::NotMarshalable(_))));
        let crd = json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1"});
        let plural = "customresourcedefinitions";
        let bytes = codec("apiextensions.k8s.io", "v1", plural, StorageMediaType::Protobuf).encode(&crd).unwrap();
        assert_eq!(to_tree(&bytes).unwrap(), crd);
        assert!(bytes.starts_with(b"{"));
    }

    #[test]
    fn yaml_is_read_back_as_it_was() {
        let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "yes"},
            "data": {"a": "1", "b": "true", "c": "- x\n: y\n", "d": "", "e": "2001-01-01", "f": "~", "0x1": "\u{e9}\t\u{7f}"}});
        let codec = codec("", "v1", "configmaps", StorageMediaType::Yaml);
        let bytes = codec.encode(&map).unwrap();
        assert!(!bytes.starts_with(b"{"));
        assert_eq!(codec.tree(&bytes).unwrap(), map);
        assert_eq!(encode(&map, StorageMediaType::Yaml).unwrap(), bytes);
    }

    #[test]
    fn every_stored_kind_has_a_protobuf_form() {
        for resource in catalog().resources().filter(|resource| resource.storage.is_some()) {
            let codec = codec(resource.group, resource.version, resource.plural, StorageMediaType::Protobuf);
            assert!(codec.protobuf(b"{}").is_ok(), "{} {}", codec.api_version(), codec.kind());
        }
    }

    #[test]
    fn what_was_stored_in_another_version_is_converted() {
        let codec = codec("autoscaling", "v2", "horizontalpodautoscalers", StorageMediaType::Protobuf);
        let old = json!({
            "kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v1", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": {"kind": "Deployment", "name": "web"}},
        });
        for stored in [old.to_string().into_bytes(), encode(&old, StorageMediaType::Protobuf).unwrap()] {
            let read = codec.tree(&stored).unwrap();
            assert_eq!(read["apiVersion"], "autoscaling/v2");
            assert_eq!(read["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
        }
        let same = codec.encode(&codec.tree(&old.to_string().into_bytes()).unwrap()).unwrap();
        assert_eq!(codec.tree(&same).unwrap()["spec"]["maxReplicas"], 3);
    }

    #[test]
    fn damaged_values_are_told() {
        for value in [&b"k8s\0"[..], b"k8s\0\x0a\xff", b"k8s\0\n\t\n\x02v1\x12\x03Pod\x12\x02\x0a\x09"] {
            assert!(to_json(value).is_err());
        }
        assert!(to_tree(b"nothing").is_err());
    }
}
