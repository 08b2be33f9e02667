//! CBOR (RFC 8949) as Kubernetes uses it: JSON's data model, strings as byte strings, bytes under tag 22, the whole
//! behind the tag that says it is CBOR. Upstream serves it behind the feature gate `CBORServingAndStorage`.

use std::collections::HashSet;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::Value;

use super::{WireError, text};

/// The tag that marks CBOR (55799); every document begins with it.
pub const SELF_DESCRIBED: &[u8; 3] = &[0xd9, 0xd9, 0xf7];
/// Deeper nesting is refused; `serde_json` reads no deeper either.
const MAX_DEPTH: usize = 120;

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const BREAK: u8 = 0xff;

/// Appends the CBOR of a tree, deterministically: keys in the order of their encodings, numbers as short as they go.
pub fn tree_to_cbor(tree: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(SELF_DESCRIBED);
    put(tree, out);
}

fn put(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Bool(value) => out.push(if *value { 0xf5 } else { 0xf4 }),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) if value < 0 => put_head(NEGATIVE, value.unsigned_abs() - 1, out),
            (_, Some(value)) => put_head(UNSIGNED, value, out),
            _ => put_float(number.as_f64().unwrap_or_default(), out),
        },
        Value::String(text) => put_string(text, out),
        Value::Array(items) => {
            put_head(ARRAY, items.len() as u64, out);
            items.iter().for_each(|item| put(item, out));
        }
        Value::Object(members) => {
            put_head(MAP, members.len() as u64, out);
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|a, b| (a.0.len(), a.0).cmp(&(b.0.len(), b.0)));
            for (key, value) in sorted {
                put_string(key, out);
                put(value, out);
            }
        }
    }
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    put_head(BYTES, text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn put_head(major: u8, value: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    match value {
        0..24 => out.push(major | value as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, value as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// The shortest of half, single and double precision that keeps the value.
fn put_float(value: f64, out: &mut Vec<u8>) {
    let single = value as f32;
    if f64::from(single) != value {
        out.push(0xfb);
        out.extend_from_slice(&value.to_be_bytes());
    } else if let Some(half) = to_half(single) {
        out.push(0xf9);
        out.extend_from_slice(&half.to_be_bytes());
    } else {
        out.push(0xfa);
        out.extend_from_slice(&single.to_be_bytes());
    }
}

/// Half precision, for normal numbers that fit it exactly.
fn to_half(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    if value == 0.0 {
        return Some(sign);
    }
    let exponent = ((bits >> 23) & 0xff) as i32 - 127 + 15;
    let fits = (1..31).contains(&exponent) && bits & 0x1fff == 0;
    fits.then_some(sign | (exponent as u16) << 10 | (bits >> 13) as u16 & 0x3ff)
}

fn from_half(half: u16) -> f64 {
    let (sign, exponent, fraction) = (half >> 15, i32::from(half >> 10 & 31), f64::from(half & 0x3ff));
    let value = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if sign == 1 { -value } else { value }
}

/// Appends the JSON text of a document.
///
/// # Errors
/// It is no CBOR, or has no form in JSON.
pub fn cbor_to_json(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
    // The mark is no level of the document: what decodes must decode again when it is marked.
    let rest = bytes.strip_prefix(SELF_DESCRIBED).unwrap_or(bytes);
    let mut decoder = Decoder { rest, out };
    decoder.value(0, None)?;
    if decoder.rest.is_empty() { Ok(()) } else { Err(refuse("extraneous data")) }
}

fn refuse(text: &str) -> WireError {
    WireError::Cbor(text.to_owned())
}

/// How the bytes of a string become text, as the tags 21 to 23 around it say.
#[derive(Clone, Copy)]
enum Later {
    Base64Url,
    Base64,
    Base16,
}

struct Decoder<'b, 'o> {
    rest: &'b [u8],
    out: &'o mut Vec<u8>,
}

/// The first bytes of an item: its major type and its value; no value for indefinite lengths.
struct Head {
    major: u8,
    low: u8,
    value: Option<u64>,
}

impl<'b> Decoder<'b, '_> {
    fn take(&mut self, length: u64) -> Result<&'b [u8], WireError> {
        let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn head(&mut self) -> Result<Head, WireError> {
        let first = self.take(1)?[0];
        let (major, low) = (first >> 5, first & 31);
        let value = match low {
            0..24 => Some(u64::from(low)),
            24..28 => Some(self.take(1 << (low - 24))?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))),
            31 if matches!(major, BYTES..=MAP) => None,
            _ => return Err(refuse("invalid additional information")),
        };
        Ok(Head { major, low, value })
    }

    fn value(&mut self, depth: usize, later: Option<Later>) -> Result<(), WireError> {
        if depth > MAX_DEPTH {
            return Err(WireError::TooDeep);
        }
        let head = self.head()?;
        match (head.major, head.value) {
            (UNSIGNED, Some(value)) => self.integer(value, false),
            (NEGATIVE, Some(value)) => self.integer(value, true),
            (BYTES | TEXT, _) => {
                let text = self.string(&head, later)?;
                text::put_str(self.out, &text);
                Ok(())
            }
            (ARRAY, length) => self.array(length, depth, later),
            (MAP, length) => self.map(length, depth, later),
            (TAG, Some(tag)) => match tag {
                2 | 3 => Err(refuse("bignum tags are not allowed")),
                21 => self.value(depth + 1, Some(Later::Base64Url)),
                22 => self.value(depth + 1, Some(Later::Base64)),
                23 => self.value(depth + 1, Some(Later::Base16)),
                _ => self.value(depth + 1, later),
            },
            (_, Some(value)) => self.simple(head.low, value),
            _ => Err(refuse("invalid length")),
        }
    }

    fn integer(&mut self, value: u64, negative: bool) -> Result<(), WireError> {
        let value = i64::try_from(value).map_err(|_| refuse("integer overflows int64"))?;
        text::put_int(self.out, if negative { -1 - value } else { value });
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), WireError> {
        self.out.extend_from_slice(word.as_bytes());
        Ok(())
    }

    fn simple(&mut self, low: u8, value: u64) -> Result<(), WireError> {
        let float = match low {
            20 => return self.word("false"),
            21 => return self.word("true"),
            22 => return self.word("null"),
            25 => from_half(value as u16),
            26 => f64::from(f32::from_bits(value as u32)),
            27 => f64::from_bits(value),
            _ => return Err(refuse("simple value is not allowed")),
        };
        if !float.is_finite() {
            return Err(refuse("NaN and infinities are not allowed"));
        }
        serde_json::to_writer(&mut *self.out, &float).map_err(|error| WireError::Cbor(error.to_string()))
    }

    fn string(&mut self, head: &Head, later: Option<Later>) -> Result<String, WireError> {
        let bytes = match head.value {
            Some(length) => self.take(length)?.to_vec(),
            None => {
                let mut joined = Vec::new();
                while !self.at_break() {
                    let chunk = self.head()?;
                    match chunk.value.filter(|_| chunk.major == head.major) {
                        Some(length) => joined.extend_from_slice(self.take(length)?),
                        None => return Err(refuse("wrong chunk of a string")),
                    }
                }
                joined
            }
        };
        match later.filter(|_| head.major == BYTES) {
            None => String::from_utf8(bytes).map_err(|_| refuse("invalid UTF-8 string")),
            Some(Later::Base64) => Ok(STANDARD.encode(bytes)),
            Some(Later::Base64Url) => Ok(URL_SAFE_NO_PAD.encode(bytes)),
            Some(Later::Base16) => Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }

    /// Whether an item of indefinite length ends here; steps over the mark.
    fn at_break(&mut self) -> bool {
        match self.rest.split_first() {
            Some((&BREAK, rest)) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Whether a container has another element.
    fn more(&mut self, length: Option<u64>, seen: u64) -> bool {
        length.map_or_else(|| !self.at_break(), |length| seen < length)
    }

    fn array(&mut self, length: Option<u64>, depth: usize, later: Option<Later>) -> Result<(), WireError> {
        self.out.push(b'[');
        let mut seen = 0;
        while self.more(length, seen) {
            if seen > 0 {
                self.out.push(b',');
            }
            self.value(depth + 1, later)?;
            seen += 1;
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, length: Option<u64>, depth: usize, later: Option<Later>) -> Result<(), WireError> {
        self.out.push(b'{');
        let mut keys = HashSet::new();
        let mut seen = 0;
        while self.more(length, seen) {
            if seen > 0 {
                self.out.push(b',');
            }
            let head = self.head()?;
            if !matches!(head.major, BYTES | TEXT) {
                return Err(refuse("keys of maps must be strings"));
            }
            let key = self.string(&head, None)?;
            text::put_str(self.out, &key);
            if !keys.insert(key) {
                return Err(refuse("found duplicate map key"));
            }
            self.out.push(b':');
            self.value(depth + 1, later)?;
            seen += 1;
        }
        self.out.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn decoded(bytes: &[u8]) -> Result<Value, WireError> {
        let mut out = Vec::new();
        cbor_to_json(bytes, &mut out)?;
        Ok(serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn trees_are_what_they_were() {
        let tree = json!({"kind": "Pod", "b": [1, -1, 0, 24, 256, 65536, i64::MAX, i64::MIN, 1.5, 1e300, 0.1, null, true],
            "aa": {}, "": [], "nested": {"x": "\u{1F600}\n"}});
        let mut bytes = Vec::new();
        tree_to_cbor(&tree, &mut bytes);
        assert!(bytes.starts_with(SELF_DESCRIBED));
        assert_eq!(decoded(&bytes).unwrap(), tree);
        let mut small = Vec::new();
        tree_to_cbor(&json!({"b": 1.5, "aa": -500}), &mut small);
        assert_eq!(small[3..], [0xa2, 0x41, b'b', 0xf9, 0x3e, 0x00, 0x42, b'a', b'a', 0x39, 0x01, 0xf3]);
    }

    #[test]
    fn other_encoders_are_understood() {
        // Text strings, indefinite lengths, bytes for base64, a time tag, half precision.
        assert_eq!(decoded(&[0xbf, 0x61, b'a', 0x9f, 1, 0xff, 0xff]).unwrap(), json!({"a": [1]}));
        assert_eq!(decoded(&[0x7f, 0x61, b'a', 0x61, b'b', 0xff]).unwrap(), json!("ab"));
        assert_eq!(decoded(&[0xd6, 0x43, 0, 1, 2]).unwrap(), json!("AAEC"));
        assert_eq!(decoded(&[0xc0, 0x61, b't']).unwrap(), json!("t"));
        assert_eq!(decoded(&[0xf9, 0x3c, 0x00]).unwrap(), json!(1.0));
    }

    #[test]
    fn the_deepest_document_survives_being_marked() {
        let deepest = [vec![0x81; MAX_DEPTH], vec![0xf6]].concat();
        let (mut json, mut again, mut marked) = (Vec::new(), Vec::new(), Vec::new());
        cbor_to_json(&deepest, &mut json).unwrap();
        tree_to_cbor(&serde_json::from_slice(&json).unwrap(), &mut marked);
        cbor_to_json(&marked, &mut again).unwrap();
        assert_eq!(again, json);
        assert!(matches!(cbor_to_json(&[vec![0x81], deepest].concat(), &mut again), Err(WireError::TooDeep)));
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        for (bytes, why) in [
            (&[][..], "EOF"),
            (&[0x5b, 255, 255, 255, 255, 255, 255, 255, 255], "EOF"),
            (&[0x9b, 255, 255, 255, 255, 255, 255, 255, 255], "EOF"),
            (&[0x1b, 255, 255, 255, 255, 255, 255, 255, 255], "int64"),
            (&[0xc2, 0x41, 1], "bignum"),
            (&[0xf9, 0x7e, 0x00], "NaN"),
            (&[0xf7], "simple"),
            (&[0xf8, 0x20], "simple"),
            (&[0x41, 0xff], "UTF-8"),
            (&[0xa1, 1, 1], "strings"),
            (&[0xa2, 0x61, b'a', 1, 0x41, b'a', 2], "duplicate"),
            (&[1, 1], "extraneous"),
            (&[0xff], "additional"),
            (&[0x5f, 0x61, b'a', 0xff], "chunk"),
        ] {
            let error = decoded(bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{bytes:?}: {error}");
        }
        assert_eq!(decoded(&[0x81; 100_000]), Err(WireError::TooDeep));
        assert_eq!(decoded(&[0xd6; 100_000]), Err(WireError::TooDeep));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            if cbor_to_json(&bytes, &mut out).is_ok() {
                prop_assert!(serde_json::from_slice::<Value>(&out).is_ok());
            }
        }

        #[test]
        fn numbers_are_what_they_were(float in any::<f64>().prop_filter("finite", |f| f.is_finite()), integer: i64) {
            let mut bytes = Vec::new();
            tree_to_cbor(&json!([float, integer]), &mut bytes);
            let mut out = Vec::new();
            cbor_to_json(&bytes, &mut out).unwrap();
            // The text is compared: serde_json reads the last digit of doubles only nearly right.
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!("[{},{integer}]", json!(float)));
        }
    }
}
