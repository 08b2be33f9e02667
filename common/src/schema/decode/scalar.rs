//! Scalars with rules of their own: times, quantities, base64. Go's decoder checks them, and writes them back in one
//! canonical form.

use serde_json::Value;

use super::super::table::Scalar;

const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
const RFC3339_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// The canonical form of a string for a scalar type that takes strings, or what is wrong with it.
pub(super) fn from_text(scalar: Scalar, text: &str) -> Result<Value, String> {
    match scalar {
        Scalar::Bytes => base64(text),
        Scalar::Time => time(text, RFC3339, 0),
        Scalar::MicroTime => time(text, RFC3339_MICRO, 6),
        Scalar::Quantity => quantity(text),
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// The canonical form of a quantity.
pub(super) fn quantity(text: &str) -> Result<Value, String> {
    match text.parse::<crate::meta::quantity::Quantity>() {
        Ok(quantity) => Ok(Value::String(quantity.to_string())),
        Err(error) => Err(error.to_string()),
    }
}

fn time(text: &str, layout: &str, decimals: i16) -> Result<Value, String> {
    let shaped = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let bytes = text.as_bytes();
    let well_shaped = bytes.len() >= 20 && shaped.iter().all(|(at, byte)| bytes[*at] == *byte);
    match text.parse::<jiff::Timestamp>() {
        Ok(time) if well_shaped => Ok(Value::String(match decimals {
            0 => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            _ => time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
        })),
        _ => Err(time_error(text, layout)),
    }
}

/// Go names the part of the text and of the layout at which it gave up.
fn time_error(text: &str, layout: &str) -> String {
    let parts = [(0, "2006"), (4, "-"), (5, "01"), (7, "-"), (8, "02"), (10, "T")];
    for (from, part) in parts {
        let digits = part.starts_with(|c: char| c.is_ascii_digit());
        let found = text.get(from..from + part.len());
        let fits = found
            .is_some_and(|found| found.chars().all(|c| if digits { c.is_ascii_digit() } else { part.starts_with(c) }));
        if !fits {
            let rest = text.get(from..).unwrap_or("");
            return format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {part:?}");
        }
    }
    let rest = text.get(11..).unwrap_or("");
    format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as \"15\"")
}

fn base64(text: &str) -> Result<Value, String> {
    use base64::{
        Engine,
        alphabet::STANDARD,
        engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose::PAD},
    };
    // As Go, which does not look at the last character's spare bits.
    const LENIENT: GeneralPurpose =
        GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::with_decode_allow_trailing_bits(PAD, true));
    // Go ignores line breaks inside base64.
    let packed: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match LENIENT.decode(&packed) {
        Ok(bytes) => Ok(Value::String(LENIENT.encode(bytes))),
        Err(_) => Err(format!("illegal base64 data at input byte {}", base64_error(text.as_bytes()))),
    }
}

/// Where Go's decoder gives up.
fn base64_error(text: &[u8]) -> usize {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let mut rest = text.iter().copied().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n')).peekable();
    loop {
        for place in 0..4 {
            let Some((at, byte)) = rest.next() else { return text.len() - place };
            if plain(byte) {
                continue;
            }
            if byte != b'=' || place < 2 {
                return at;
            }
            if place == 2 {
                match rest.next() {
                    None => return text.len(),
                    Some((_, b'=')) => {}
                    Some((next, _)) => return next - 1,
                }
            }
            return rest.next().map_or(text.len(), |(next, _)| next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_go_reads_it() {
        assert_eq!(base64("YR=="), Ok("YQ==".into()));
        assert_eq!(base64("YWJj\nYQ=\n="), Ok("YWJjYQ==".into()));
        for (text, at) in [("@@@", 0), ("YQ", 0), ("YQ==x", 4), ("Y=Q=", 1), ("YWJjYQ=", 7), ("YWJj YQ==", 4)] {
            assert_eq!(base64(text), Err(format!("illegal base64 data at input byte {at}")), "{text}");
        }
    }
}
