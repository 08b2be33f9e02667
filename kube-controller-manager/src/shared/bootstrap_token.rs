//! Bootstrap tokens as they lie in Secrets of `kube-system`. Pure.

use std::sync::Arc;

use common::informer::{Factory, Informer};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;

use super::meta::MetaExt;

const SELECTOR: &str = "type=bootstrap.kubernetes.io/token,metadata.namespace=kube-system";

/// The informer over bootstrap tokens; other Secrets are neither watched nor kept.
pub(crate) fn informer(factory: &Factory) -> Arc<Informer<Secret>> {
    factory.informer_with_field_selector(SELECTOR)
}

/// A text of the Secret; absent is empty.
fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default()
}

/// How long the token still lives; zero when it has expired or nobody can tell; None when it never does.
pub(crate) fn time_left(secret: &Secret, now: Timestamp) -> Option<SignedDuration> {
    let expiration = text(secret, "expiration");
    if expiration.is_empty() {
        return None;
    }
    let end = expiration.parse::<Timestamp>().ok();
    Some(end.map_or(SignedDuration::ZERO, |end| end.duration_since(now)).max(SignedDuration::ZERO))
}

/// Id and secret of a token that may sign.
pub(crate) fn signing_token(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let id = secret.name_str().strip_prefix("bootstrap-token-")?;
    let well_formed = id.len() == 6 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let key = text(secret, "token-secret");
    let usable = well_formed && text(secret, "token-id") == id && !key.is_empty();
    let alive = time_left(secret, now).is_none_or(|left| left > SignedDuration::ZERO);
    (usable && alive && text(secret, "usage-bootstrap-signing") == "true").then_some((id, key))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn token(name: &str, data: &[(&str, &str)]) -> Secret {
        let mut secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "kube-system"}})).unwrap();
        let bytes = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
        secret.data = Some(data.iter().map(|(k, v)| ((*k).to_owned(), bytes(v))).collect());
        secret
    }

    #[test]
    fn which_tokens_sign() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let full = [("token-id", "abcdef"), ("token-secret", "s"), ("usage-bootstrap-signing", "true")];
        let with =
            |key, value| full.iter().copied().filter(|(k, _)| *k != key).chain([(key, value)]).collect::<Vec<_>>();
        let name = "bootstrap-token-abcdef";
        let table = [
            (token(name, &full), true),
            (token("bootstrap-token-abcde", &full), false),
            (token("abcdef", &full), false),
            (token("bootstrap-token-ABCDEF", &with("token-id", "ABCDEF")), false),
            (token(name, &with("token-id", "ghijkl")), false),
            (token(name, &with("token-secret", "")), false),
            (token(name, &with("usage-bootstrap-signing", "false")), false),
            (token(name, &with("expiration", "2025-01-01T00:00:00Z")), false),
            (token(name, &with("expiration", "garbage")), false),
            (token(name, &with("expiration", "2027-01-01T00:00:00+01:00")), true),
        ];
        for (secret, signs) in table {
            assert_eq!(signing_token(&secret, now).is_some(), signs, "{secret:?}");
        }
        assert_eq!(time_left(&token(name, &full), now), None);
        let left = time_left(&token(name, &[("expiration", "2026-01-01T00:00:10Z")]), now);
        assert_eq!(left, Some(SignedDuration::from_secs(10)));
    }
}
