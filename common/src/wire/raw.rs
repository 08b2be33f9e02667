//! Free-form JSON inside protobuf: whatever a deserializer yields becomes compact JSON text, members in their order.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{WireError, text};

/// Appends JSON text without spaces.
///
/// # Errors
/// It is no JSON.
pub(super) fn put_compact(out: &mut Vec<u8>, json: &[u8]) -> Result<(), WireError> {
    // Field sets, of which every object has some, are written like this by everybody.
    if is_plain(json) && serde_json::from_slice::<IgnoredAny>(json).is_ok() {
        out.extend_from_slice(json);
        return Ok(());
    }
    slowly(out, json)
}

/// Whether JSON, if it is any, has only one way to be written: no spaces, no numbers, nothing in strings that might be
/// escaped otherwise.
fn is_plain(json: &[u8]) -> bool {
    let (mut inside, mut escaped) = (false, false);
    json.iter().all(|byte| {
        if !inside {
            inside = *byte == b'"';
            return matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b':' | b',' | b'a'..=b'z');
        }
        if std::mem::take(&mut escaped) {
            return matches!(byte, b'"' | b'\\');
        }
        escaped = *byte == b'\\';
        inside = *byte != b'"';
        matches!(byte, b' '..=b'~') && !matches!(byte, b'<' | b'>' | b'&')
    })
}

fn slowly(out: &mut Vec<u8>, json: &[u8]) -> Result<(), WireError> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_copied_as_it_is_would_be_written_so() {
        let fields = r#"{"f:metadata":{"f:labels":{".":{}}},"k:{\"name\":\"a\\\\b\"}":{"v:true":[true,false,null]}}"#;
        assert!(is_plain(fields.as_bytes()));
        let mut out = Vec::new();
        slowly(&mut out, fields.as_bytes()).unwrap();
        assert_eq!(out, fields.as_bytes());
        for other in [r#"{"a": 1}"#, "[1.0]", r#""a<b""#, r#""\u0041""#, r#""é""#, "\"\u{7f}\"", r#""\/""#] {
            assert!(!is_plain(other.as_bytes()), "{other}");
        }
        for wrong in ["{", r#"{"a"}"#, "nul", r#""a"#, "{}{}", ""] {
            assert!(put_compact(&mut Vec::new(), wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn both_ways_agree(text in r#"[\[\]{}:,"\\ a-z<0-9é]{0,40}"#, key in r#"[ -~]{0,12}"#, value in any::<String>()) {
            let object = serde_json::json!({ key: [value, true, null] }).to_string();
            for json in [text, object] {
                let (mut fast, mut slow) = (Vec::new(), Vec::new());
                let (one, other) = (put_compact(&mut fast, json.as_bytes()), slowly(&mut slow, json.as_bytes()));
                prop_assert_eq!(one.is_ok(), other.is_ok());
                if one.is_ok() {
                    prop_assert_eq!(fast, slow);
                }
            }
        }
    }
}
