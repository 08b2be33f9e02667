//! Continue tokens: upstream's base64 of `{"v":"meta.k8s.io/v1","rv":N,"start":"key after the prefix"}`.

use base64::{
    DecodeError, Engine as _,
    alphabet::URL_SAFE,
    engine::{
        GeneralPurpose, GeneralPurposeConfig,
        general_purpose::{NO_PAD, URL_SAFE_NO_PAD},
    },
};
use common::schema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{super::Revision, CacheError};

const VERSION: &str = "meta.k8s.io/v1";

/// As Go's, which does not look at the last character's spare bits.
const TOKENS: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, GeneralPurposeConfig::with_decode_allow_trailing_bits(NO_PAD, true));

#[derive(Deserialize, Serialize, Default)]
struct Token {
    #[serde(default)]
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

/// Where a list goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Continue {
    /// The first key of the page.
    pub start: String,
    /// The revision of the first page; `None` goes on at the newest state.
    pub revision: Option<Revision>,
}

/// The token for a page that starts at `start`, which begins with `prefix`.
pub(super) fn encode(start: &str, prefix: &str, revision: Option<Revision>) -> Option<String> {
    let start = start.strip_prefix(prefix)?.to_owned();
    let rv = revision.map_or(-1, |revision| i64::try_from(revision).unwrap_or(i64::MAX));
    let json = serde_json::to_vec(&Token { v: VERSION.to_owned(), rv, start }).ok()?;
    Some(URL_SAFE_NO_PAD.encode(json))
}

fn parse(json: &[u8]) -> Result<Token, String> {
    schema::check_syntax(json)?;
    let token: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let go_type = match token {
        Value::Null => return Ok(Token::default()),
        Value::Object(_) => return serde_json::from_value(token).map_err(|error| error.to_string()),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
    };
    Err(format!("json: cannot unmarshal {go_type} into Go value of type storage.continueToken"))
}

fn go_base64_error(error: &DecodeError) -> String {
    let at = match error {
        DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => *at,
        // A single character is left over.
        DecodeError::InvalidLength(length) => length.saturating_sub(1),
        DecodeError::InvalidPadding => 0,
    };
    format!("illegal base64 data at input byte {at}")
}

pub(super) fn decode(token: &str, prefix: &str) -> Result<Continue, CacheError> {
    let invalid = |reason: String| CacheError::BadRequest(format!("invalid continue token: {reason}"));
    let generic = |reason: String| invalid(format!("continue key is not valid: {reason}"));
    let json = TOKENS.decode(token).map_err(|error| generic(go_base64_error(&error)))?;
    let token = parse(&json).map_err(generic)?;
    if token.v != VERSION {
        let reason = format!("continue key is not valid: server does not recognize this encoded version {}", token.v);
        return Err(invalid(reason));
    }
    if token.rv == 0 {
        return Err(generic(format!("incorrect encoded start resourceVersion (version {VERSION})")));
    }
    if token.start.is_empty() {
        return Err(generic(format!("encoded start key empty (version {VERSION})")));
    }
    // A start key must not climb out of the prefix.
    let relative = token.start.strip_prefix('/').unwrap_or(&token.start);
    if relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(generic(token.start));
    }
    Ok(Continue { start: format!("{prefix}{relative}"), revision: u64::try_from(token.rv).ok() })
}

/// For [`crate::fuzz`]: what is accepted stays below the prefix and survives being encoded again.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(text: &str) {
    const PREFIX: &str = "/registry/pods/";
    let Ok(found) = decode(text, PREFIX) else { return };
    assert!(found.start.starts_with(PREFIX) && !found.start.contains("/../"));
    let again = encode(&found.start, PREFIX, found.revision).and_then(|token| decode(&token, PREFIX).ok());
    assert_eq!(again, Some(found));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let token = encode("/registry/pods/default/web\0", "/registry/pods/", Some(7)).unwrap();
        let expected = r#"{"v":"meta.k8s.io/v1","rv":7,"start":"default/web\u0000"}"#;
        assert_eq!(URL_SAFE_NO_PAD.decode(&token).unwrap(), expected.as_bytes());
        let decoded = decode(&token, "/registry/pods/").unwrap();
        assert_eq!(decoded, Continue { start: "/registry/pods/default/web\0".into(), revision: Some(7) });
        let newest = encode("/p/a", "/p/", None).unwrap();
        assert_eq!(decode(&newest, "/p/").unwrap().revision, None);
    }

    #[test]
    fn bad_tokens() {
        for (json, message) in [
            ("{", "invalid continue token: continue key is not valid: "),
            (r#"{"v":"v2","rv":1,"start":"a"}"#, "server does not recognize this encoded version v2"),
            (r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#, "incorrect encoded start resourceVersion"),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#, "encoded start key empty"),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets/a"}"#, "continue key is not valid: ../secrets/a"),
        ] {
            let error = decode(&URL_SAFE_NO_PAD.encode(json), "/registry/pods/").unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
        for (token, message) in [
            ("x", "continue key is not valid: illegal base64 data at input byte 0"),
            ("ab%", "illegal base64 data at input byte 2"),
            ("W10", "json: cannot unmarshal array into Go value of type storage.continueToken"),
            ("bnVsbA", "server does not recognize this encoded version "),
            ("zzzz", "invalid character 'Ï' looking for beginning of value"),
        ] {
            let error = decode(token, "/p/").unwrap_err().to_string();
            assert!(error.ends_with(message), "{error}");
        }
    }
}
