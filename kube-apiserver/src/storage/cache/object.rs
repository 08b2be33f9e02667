//! An object as the cache keeps it: the bytes clients get, and the little that selectors ask about.
//!
//! The stored object has no resourceVersion. It is spliced into the bytes once, at ingest, without building a tree; the
//! buffer is the whole watch frame of the event that brought the object, and the object is a slice of it.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    super::{KeyValue, Revision, StoreError, codec},
    EventKind, Protobuf, ResourceSpec,
    scan::{Outline, scan},
};

/// The labels of an object, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Arc<[(Box<str>, Box<str>)]>);

impl Labels {
    /// Labels from pairs in any order.
    pub fn new(pairs: impl IntoIterator<Item = (Box<str>, Box<str>)>) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort();
        Self(pairs.into())
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(name, _)| (**name).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    /// All labels in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

/// Selectable fields as an object keeps them.
type FieldIndex = Arc<[(Cow<'static, str>, Box<str>)]>;

/// One object of a cache.
#[derive(Debug)]
pub struct CachedObject {
    key: Arc<str>,
    namespace_at: u32,
    name_at: u32,
    revision: Revision,
    create_revision: Revision,
    /// Of the bytes in the store.
    digest: u64,
    /// `{"type":...,"object":<bytes>}\n`.
    frame: Bytes,
    kind: EventKind,
    bytes: Bytes,
    /// Where the number of the resourceVersion is in `bytes`.
    version_at: u32,
    labels: Labels,
    fields: FieldIndex,
    protobuf: OnceLock<Protobuf>,
}

impl CachedObject {
    /// Takes in what the store holds. `kind` is the event that the frame will be asked for most.
    pub(super) fn ingest(kv: &KeyValue, spec: &ResourceSpec, kind: EventKind) -> Result<Self, StoreError> {
        let corrupt = |reason: String| StoreError::Corrupt { path: kv.key.to_string(), reason };
        let json = match &spec.codec {
            Some(codec) => codec.json(&kv.value),
            None => codec::to_json(&kv.value),
        };
        let json = json.map_err(|error| corrupt(error.to_string()))?;
        let none = Outline::default();
        // The fields of custom resources may be anywhere.
        let outline = spec.fields.as_ref().filter(|_| spec.codec.is_some()).map_or(&none, |fields| &fields.outline);
        let found = scan(&json, outline).map_err(|error| corrupt(error.to_string()))?;
        let head = spec.codec.as_ref().map_or(&b""[..], |codec| codec.head());
        let metadata_at = if found.versioned { Ok(None) } else { inside_metadata(&json, head) };
        let cleaned;
        let (value, insert_at) = match metadata_at.map_err(|error| corrupt(error.to_string()))? {
            Some(at) => (&json[..], at),
            None => {
                cleaned = without_version(&json).map_err(|error| corrupt(error.to_string()))?;
                let at = inside_metadata(&cleaned, head).map_err(|error| corrupt(error.to_string()))?;
                (&cleaned[..], at.ok_or_else(|| corrupt("it has no metadata".into()))?)
            }
        };
        let (before, after) = value.split_at(insert_at);
        let comma = if after.trim_ascii_start().starts_with(b"}") { "" } else { "," };
        let member = format!("\"resourceVersion\":\"{}\"{comma}", kv.mod_revision);
        let (frame, bytes) = frame(kind, &[before, member.as_bytes(), after]);
        let fields = match &spec.fields {
            None => FieldIndex::default(),
            Some(fields) => {
                let tree = match found.outline {
                    Some(tree) => tree,
                    None => serde_json::from_slice(value).map_err(|error| corrupt(error.to_string()))?,
                };
                (fields.extract)(&tree).into_iter().map(|(name, value)| (name, value.into_boxed_str())).collect()
            }
        };
        let name_at = kv.key.rfind('/').map_or(0, |slash| slash + 1);
        Ok(Self {
            key: kv.key.clone(),
            namespace_at: if spec.namespaced { spec.prefix.len().min(name_at) } else { name_at } as u32,
            name_at: name_at as u32,
            revision: kv.mod_revision,
            create_revision: kv.create_revision,
            digest: codec::digest(&kv.value),
            frame,
            kind,
            bytes,
            version_at: (insert_at + "\"resourceVersion\":\"".len()) as u32,
            labels: found.labels,
            fields,
            protobuf: OnceLock::new(),
        })
    }

    /// The same object with another resourceVersion: how a deletion shows the last state.
    pub(super) fn at_revision(&self, revision: Revision, kind: EventKind) -> Self {
        let (before, rest) = self.bytes.split_at(self.version_at as usize);
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (frame, bytes) = frame(kind, &[before, revision.to_string().as_bytes(), &rest[digits..]]);
        Self {
            key: self.key.clone(),
            namespace_at: self.namespace_at,
            name_at: self.name_at,
            revision,
            create_revision: self.create_revision,
            digest: self.digest,
            frame,
            kind,
            bytes,
            version_at: self.version_at,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            protobuf: OnceLock::new(),
        }
    }

    /// The full key in the store.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// The namespace; empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        let end = (self.name_at as usize).saturating_sub(1);
        self.key.get(self.namespace_at as usize..end).unwrap_or_default()
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.key.get(self.name_at as usize..).unwrap_or_default()
    }

    /// The revision of the last change: the object's resourceVersion, and what a compare-and-swap expects.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision that created it.
    pub fn create_revision(&self) -> Revision {
        self.create_revision
    }

    /// [`codec::digest`] of the bytes in the store.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The encoded object with `metadata.resourceVersion` in place.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its labels.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// A selectable field.
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| &**value),
        }
    }

    /// The watch frame `{"type":...,"object":...}\n`; free when `kind` is what the object came with.
    pub fn frame(&self, kind: EventKind) -> Bytes {
        if kind == self.kind { self.frame.clone() } else { frame(kind, &[&self.bytes]).0 }
    }

    /// The protobuf forms, encoded with the first call.
    ///
    /// # Errors
    /// The object does not fit its kind.
    pub fn protobuf(&self, codec: &codec::Codec) -> Result<&Protobuf, common::wire::WireError> {
        if let Some(protobuf) = self.protobuf.get() {
            return Ok(protobuf);
        }
        // Two clients may encode at once; the first one's result stays.
        let made = Protobuf::new(codec, &self.bytes, self.kind)?;
        Ok(self.protobuf.get_or_init(|| made))
    }

    /// About how many bytes of memory it takes.
    pub(super) fn weight(&self) -> usize {
        256 + self.key.len() + self.frame.len()
    }
}

/// The frame around an object given in parts, and the object as a slice of it.
fn frame(kind: EventKind, object: &[&[u8]]) -> (Bytes, Bytes) {
    let head = [b"{\"type\":\"", kind.as_str().as_bytes(), b"\",\"object\":"].concat();
    let length: usize = object.iter().map(|part| part.len()).sum();
    let mut buffer = Vec::with_capacity(head.len() + length + 2);
    buffer.extend_from_slice(&head);
    for part in object {
        buffer.extend_from_slice(part);
    }
    buffer.extend_from_slice(b"}\n");
    let frame = Bytes::from(buffer);
    let bytes = frame.slice(head.len()..head.len() + length);
    (frame, bytes)
}

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// The place just inside the metadata, which the form in which we write objects tells without a look at the rest of it:
/// after `head` (kind and version). `None` when there is no such object.
fn inside_metadata(value: &[u8], head: &[u8]) -> Result<Option<usize>, serde_json::Error> {
    const METADATA: &[u8] = b"\"metadata\":{";
    if !head.is_empty() && value.strip_prefix(head).is_some_and(|rest| rest.starts_with(METADATA)) {
        return Ok(Some(head.len() + METADATA.len()));
    }
    let outer: Outer<'_> = serde_json::from_slice(value)?;
    let Some(raw) = outer.metadata.map(RawValue::get).filter(|raw| raw.starts_with('{')) else { return Ok(None) };
    Ok((raw.as_ptr() as usize).checked_sub(value.as_ptr() as usize).map(|start| start + 1))
}

/// The rare object that was stored with a resourceVersion, or without metadata.
fn without_version(value: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut tree: serde_json::Value = serde_json::from_slice(value)?;
    if let Some(object) = tree.as_object_mut() {
        let metadata = object.entry("metadata").or_insert_with(|| serde_json::json!({}));
        match metadata.as_object_mut() {
            Some(metadata) => drop(metadata.remove("resourceVersion")),
            None => *metadata = serde_json::json!({}),
        }
    }
    serde_json::to_vec(&tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(namespaced: bool) -> ResourceSpec {
        ResourceSpec {
            resource: "pods".into(),
            prefix: "/registry/pods/".into(),
            namespaced,
            fields: None,
            codec: None,
        }
    }

    fn ingest(json: &str) -> CachedObject {
        let kv = KeyValue {
            key: "/registry/pods/default/web".into(),
            value: Bytes::copy_from_slice(json.as_bytes()),
            create_revision: 3,
            mod_revision: 42,
            version: 1,
        };
        CachedObject::ingest(&kv, &spec(true), EventKind::Added).unwrap()
    }

    #[test]
    fn the_version_is_spliced_in() {
        for (stored, served) in [
            (r#"{"metadata":{"name":"web"}}"#, r#"{"metadata":{"resourceVersion":"42","name":"web"}}"#),
            (r#"{"metadata":{ }}"#, r#"{"metadata":{"resourceVersion":"42" }}"#),
            (r#"{"metadata":{"resourceVersion":"9"}}"#, r#"{"metadata":{"resourceVersion":"42"}}"#),
            (
                r#"{"a":{"metadata":{}},"metadata":{"n":1}}"#,
                r#"{"a":{"metadata":{}},"metadata":{"resourceVersion":"42","n":1}}"#,
            ),
            (r#"{"metadata":null}"#, r#"{"metadata":{"resourceVersion":"42"}}"#),
            (r#"{}"#, r#"{"metadata":{"resourceVersion":"42"}}"#),
        ] {
            let object = ingest(stored);
            assert_eq!(std::str::from_utf8(object.bytes()).unwrap(), served);
            let deleted = object.at_revision(1234, EventKind::Deleted);
            let expected = served.replace("\"42\"", "\"1234\"");
            assert_eq!(std::str::from_utf8(deleted.bytes()).unwrap(), expected);
            let frame = deleted.frame(EventKind::Deleted);
            assert_eq!(
                std::str::from_utf8(&frame).unwrap(),
                format!("{{\"type\":\"DELETED\",\"object\":{expected}}}\n")
            );
        }
    }

    #[test]
    fn names_and_labels() {
        let object = ingest(r#"{"metadata":{"labels":{"b":"\u0041","a":"x"}}}"#);
        assert_eq!((object.namespace(), object.name()), ("default", "web"));
        assert_eq!(object.labels().iter().collect::<Vec<_>>(), [("a", "x"), ("b", "A")]);
        assert_eq!(object.labels().get("a"), Some("x"));
        assert_eq!(object.field("metadata.namespace"), Some("default"));
    }
}
