//! Free-form JSON inside protobuf: whatever a deserializer yields becomes compact JSON text, members in their order.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{WireError, text};

/// Appends JSON text without spaces.
///
/// # Errors
/// It is no JSON.
pub(super) fn put_compact(out: &mut Vec<u8>, json: &[u8]) -> Result<(), WireError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let copied = Copy { out, limit: usize::MAX }.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    copied.map_err(|error| WireError::Json(error.to_string()))
}

/// Writes one value.
pub(super) struct Copy<'o> {
    pub out: &'o mut Vec<u8>,
    /// More bytes than these are refused.
    pub limit: usize,
}

impl<'de> DeserializeSeed<'de> for Copy<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Copy<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        text::put_int(self.out, value);
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.out.extend_from_slice(value.to_string().as_bytes());
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        if !value.is_finite() {
            return Err(E::custom("NaN and infinities have no JSON form"));
        }
        serde_json::to_writer(self.out, &value).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        if self.out.len().saturating_add(value.len()) > self.limit {
            return Err(E::custom("the document is too large"));
        }
        text::put_str(self.out, value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.out.push(b'[');
        let mut length = self.out.len();
        while seq.next_element_seed(Copy { out: self.out, limit: self.limit })?.is_some() {
            // The comma goes in once there is a next element.
            length = self.out.len();
            self.out.push(b',');
        }
        self.out.truncate(length);
        self.out.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.out.push(b'{');
        let mut length = self.out.len();
        while let Some(key) = map.next_key::<String>()? {
            Copy { out: self.out, limit: self.limit }.visit_str(&key)?;
            self.out.push(b':');
            map.next_value_seed(Copy { out: self.out, limit: self.limit })?;
            length = self.out.len();
            self.out.push(b',');
        }
        self.out.truncate(length);
        self.out.push(b'}');
        Ok(())
    }
}
