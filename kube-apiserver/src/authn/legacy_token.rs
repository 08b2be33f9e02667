//! Tokens in Secrets of type `kubernetes.io/service-account-token`: without an end, alive as long as the Secret holds them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;

use super::TokenOutcome;
use super::service_account::{Lookup, TokenVerifier, split_user_name, user};
use super::usage::{Origin, TokenUse};

/// The issuer that these tokens name.
const ISSUER: &str = "kubernetes/serviceaccount";
/// On Secrets on which it is noted when they were used.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// On Secrets that nobody has used for long.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

#[derive(Debug, Default, Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace", default)]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name", default)]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name", default)]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid", default)]
    uid: String,
}

/// `None`: no such token.
pub(super) async fn authenticate(
    verifier: &TokenVerifier,
    token: &str,
    audiences: &[String],
    lookup: &dyn Lookup,
) -> Option<TokenOutcome> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    if claims.iss != ISSUER {
        return None;
    }
    if let Err(error) = verifier.check_signature(header, signed, signature)? {
        return Some(Err(error));
    }
    Some(admit(verifier, &claims, token, audiences, lookup).await)
}

async fn admit(
    verifier: &TokenVerifier,
    claims: &Claims,
    token: &str,
    audiences: &[String],
    lookup: &dyn Lookup,
) -> TokenOutcome {
    lookup.used(TokenUse::Legacy { subject: &claims.sub }).await;
    let audiences = verifier.check_audiences(&[], audiences)?;
    let Claims { sub, namespace, secret, account, uid, .. } = claims;
    for (name, value) in [
        ("sub", sub),
        ("namespace", namespace),
        ("secretName", secret),
        ("serviceAccountName", account),
        ("serviceAccountUID", uid),
    ] {
        if value.is_empty() {
            return Err(format!("{name} claim is missing"));
        }
    }
    if split_user_name(sub) != Some((namespace, account)) {
        return Err("sub claim is invalid".to_owned());
    }
    let deleting = |object: &Value| !object["metadata"]["deletionTimestamp"].is_null();
    let found = lookup.object("secrets", namespace, secret).await.filter(|found| !deleting(found));
    let Some(found) = found else { return Err("Token has been invalidated".to_owned()) };
    let held = found["data"]["token"].as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    if !same(&held, token.as_bytes()) {
        return Err("Token does not match server's copy".to_owned());
    }
    let Some(owner) = lookup.object("serviceaccounts", namespace, account).await else {
        return Err(format!("serviceaccounts {account:?} not found"));
    };
    if deleting(&owner) {
        return Err(format!("ServiceAccount {namespace}/{account} has been deleted"));
    }
    let current = owner["metadata"]["uid"].as_str().unwrap_or_default();
    if current != uid {
        return Err(format!("ServiceAccount UID ({current}) does not match claim ({uid})"));
    }
    let label = |name: &str| found["metadata"]["labels"][name].as_str().unwrap_or_default();
    let mut listed = owner["secrets"].as_array().into_iter().flatten();
    let origin = match label(INVALID_SINCE) {
        "" if listed.any(|reference| reference["name"] == secret.as_str()) => Origin::Automatic,
        "" => Origin::Manual,
        _ => Origin::Invalidated,
    };
    lookup.used(TokenUse::Kept { namespace, secret, origin, last_used: label(LAST_USED) }).await;
    if origin == Origin::Invalidated {
        return Err(format!(
            "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
        ));
    }
    Ok((user(namespace, account, uid), audiences))
}

/// Compares in a time that does not depend on where the difference is.
fn same(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    one.len() == other.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use async_trait::async_trait;
    use serde_json::json;

    use super::*;
    use crate::authn::keys::SigningKey;

    struct Objects(HashMap<String, Value>);

    #[async_trait]
    impl Lookup for Objects {
        async fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
            self.0.get(&format!("{resource}/{namespace}/{name}")).cloned()
        }
    }

    fn token(key: &SigningKey, claims: &Value) -> String {
        let header = json!({"alg": key.public.algorithm.name(), "kid": key.public.id}).to_string();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{signature}")
    }

    #[tokio::test]
    async fn tokens_hold_as_long_as_their_secret() {
        let key = SigningKey::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
        let verifier = TokenVerifier {
            issuers: vec!["https://me".into()],
            keys: vec![key.public.clone()],
            audiences: vec!["api".into()],
        };
        let claims = json!({"iss": ISSUER, "sub": "system:serviceaccount:n:a",
            "kubernetes.io/serviceaccount/namespace": "n", "kubernetes.io/serviceaccount/secret.name": "s",
            "kubernetes.io/serviceaccount/service-account.name": "a", "kubernetes.io/serviceaccount/service-account.uid": "u"});
        let good = token(&key, &claims);
        let secret = |metadata: Value| json!({"metadata": metadata, "data": {"token": STANDARD.encode(&good)}});
        let account = |uid: &str| json!({"metadata": {"uid": uid}});
        let world = |secret: Option<Value>, account: Value| {
            let mut map = HashMap::from([("serviceaccounts/n/a".to_owned(), account)]);
            secret.into_iter().for_each(|secret| drop(map.insert("secrets/n/s".into(), secret)));
            Objects(map)
        };
        let check = async |token: &str, world: Objects| authenticate(&verifier, token, &[], &world).await;
        let (user, audiences) = check(&good, world(Some(secret(json!({}))), account("u"))).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), audiences), ("system:serviceaccount:n:a", vec!["api".to_owned()]));
        let table = [
            (world(None, account("u")), "Token has been invalidated"),
            (
                world(Some(secret(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}))), account("u")),
                "Token has been invalidated",
            ),
            (
                world(Some(json!({"metadata": {}, "data": {"token": ""}})), account("u")),
                "Token does not match server's copy",
            ),
            (world(Some(secret(json!({}))), account("x")), "ServiceAccount UID (x) does not match claim (u)"),
            (
                world(Some(secret(json!({"labels": {INVALID_SINCE: "2026-01-01"}}))), account("u")),
                "the token in secret n/s",
            ),
        ];
        for (world, want) in table {
            let error = check(&good, world).await.unwrap().unwrap_err();
            assert!(error.starts_with(want), "{error}");
        }
        // Signed by somebody else, or of another issuer.
        let other = SigningKey::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
        let all = || world(Some(secret(json!({}))), account("u"));
        assert!(check(&token(&other, &claims), all()).await.unwrap().is_err());
        let mut foreign = claims.clone();
        foreign["iss"] = json!("https://you");
        assert!(check(&token(&key, &foreign), all()).await.is_none());
        let mut wrong = claims.clone();
        wrong["sub"] = json!("system:serviceaccount:n:b");
        assert_eq!(check(&token(&key, &wrong), all()).await.unwrap().unwrap_err(), "sub claim is invalid");
    }
}
