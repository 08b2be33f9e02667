//! Service-account tokens: issues them (TokenRequest) and authenticates their bearers.
//!
//! A token is only as alive as what it is bound to: the account, and the pod, secret or node named in it, must still
//! exist under the same uid.

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    TokenOutcome, User,
    keys::{PublicKey, SigningKey},
    usage::TokenUse,
};

/// Clock skew that is forgiven, in seconds.
const LEEWAY: i64 = 60;

/// A named object with its identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    /// Name.
    pub name: String,
    /// UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The `kubernetes.io` claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesClaims {
    /// Namespace of the account.
    pub namespace: String,
    /// The node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    /// The bound pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    /// The bound secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    /// The account.
    pub serviceaccount: Ref,
    /// When clients should have refreshed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// All claims of a token.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub aud: Vec<String>,
    /// Expiry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// Issued at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// Issuer.
    #[serde(default)]
    pub iss: String,
    /// Identity of the token.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// The bound objects.
    #[serde(rename = "kubernetes.io", default)]
    pub kubernetes: KubernetesClaims,
    /// Not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Subject.
    #[serde(default)]
    pub sub: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// What token validation needs to look up; answered from the watch caches.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// A core/v1 object; `None` when it does not exist or cannot be read.
    async fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value>;

    /// Is told of every token that is used.
    async fn used(&self, _token: TokenUse<'_>) {}
}

/// Issues service-account tokens.
pub struct Issuer {
    /// `iss` of new tokens.
    pub issuer: String,
    /// The key that signs.
    pub key: SigningKey,
}

impl Issuer {
    /// Encodes and signs.
    ///
    /// # Errors
    /// The text of a failed serialization or signature.
    pub fn sign(&self, claims: &Claims) -> Result<String, String> {
        let header = serde_json::json!({"alg": self.key.public.algorithm.name(), "kid": self.key.public.id});
        let payload = serde_json::to_vec(claims).map_err(|e| e.to_string())?;
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.key.sign(token.as_bytes()).map_err(|e| e.to_string())?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }
}

/// Authenticates service-account tokens.
pub struct TokenVerifier {
    /// Accepted `iss`.
    pub issuers: Vec<String>,
    /// Accepted keys.
    pub keys: Vec<PublicKey>,
    /// The audiences of this server.
    pub audiences: Vec<String>,
}

impl TokenVerifier {
    /// `None`: not one of our tokens; others may know it.
    pub async fn authenticate(&self, token: &str, audiences: &[String], lookup: &dyn Lookup) -> Option<TokenOutcome> {
        let claims = match self.verify(token) {
            Some(Ok(claims)) => claims,
            Some(Err(error)) => return Some(Err(error)),
            None => return super::legacy_token::authenticate(self, token, audiences, lookup).await,
        };
        Some(self.admit(claims, audiences, lookup).await)
    }

    /// Checks issuer and signature.
    fn verify(&self, token: &str) -> Option<Result<Claims, String>> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        if !self.issuers.contains(&claims.iss) {
            return None;
        }
        Some(self.check_signature(header, signed, signature)?.map(|()| claims))
    }

    /// Whether one of the keys signed this; `None` when it is no signature at all.
    pub(super) fn check_signature(&self, header: &str, signed: &str, signature: &str) -> Option<Result<(), String>> {
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let mut known = self.keys.iter().filter(|k| header.kid.is_empty() || k.id == header.kid).peekable();
        if known.peek().is_none() {
            return Some(Err("invalid signature, no keys found".to_owned()));
        }
        let valid = known.any(|k| k.algorithm.name() == header.alg && k.verify(signed.as_bytes(), &signature));
        Some(if valid { Ok(()) } else { Err("invalid signature".to_owned()) })
    }

    /// The audiences that a token is good for, of those that are asked for; a token that names none is for this server.
    pub(super) fn check_audiences(&self, granted: &[String], requested: &[String]) -> Result<Vec<String>, String> {
        let requested = if requested.is_empty() { &self.audiences } else { requested };
        let granted = if granted.is_empty() { &self.audiences } else { granted };
        let audiences: Vec<String> = granted.iter().filter(|a| requested.contains(a)).cloned().collect();
        if audiences.is_empty() && !self.audiences.is_empty() {
            return Err(format!("token audiences {granted:?} is invalid for the target audiences {requested:?}"));
        }
        Ok(audiences)
    }

    async fn admit(&self, claims: Claims, audiences: &[String], lookup: &dyn Lookup) -> TokenOutcome {
        if claims.aud.is_empty() {
            lookup.used(TokenUse::Legacy { subject: &claims.sub }).await;
        }
        let audiences = self.check_audiences(&claims.aud, audiences)?;
        check_times(&claims, jiff::Timestamp::now().as_second())?;
        check_bound(&claims.kubernetes, lookup).await?;
        let now = jiff::Timestamp::now().as_second();
        if let Some(threshold) = claims.kubernetes.warnafter.filter(|threshold| *threshold != 0) {
            let (subject, seconds) = (claims.sub.as_str(), now - threshold);
            lookup.used(if seconds > 0 { TokenUse::Stale { subject, seconds } } else { TokenUse::Fresh }).await;
        }
        Ok((user_of(&claims), audiences))
    }
}

fn check_times(claims: &Claims, now: i64) -> Result<(), String> {
    if claims.exp.is_some_and(|exp| now - LEEWAY > exp) {
        return Err("service account token has expired".to_owned());
    }
    if claims.nbf.is_some_and(|nbf| now + LEEWAY < nbf) {
        return Err("service account token is not valid yet".to_owned());
    }
    if claims.iat.is_some_and(|iat| now + LEEWAY < iat) {
        return Err("service account token is issued in the future".to_owned());
    }
    Ok(())
}

async fn check_bound(claims: &KubernetesClaims, lookup: &dyn Lookup) -> Result<(), String> {
    let namespace = claims.namespace.as_str();
    let account = &claims.serviceaccount;
    let Some(found) = lookup.object("serviceaccounts", namespace, &account.name).await else {
        return Err(format!("serviceaccounts \"{}\" not found", account.name));
    };
    let uid = uid_of(&found);
    if uid != account.uid {
        return Err(format!("service account UID ({uid}) does not match claim ({})", account.uid));
    }
    if is_gone(&found) {
        return Err(format!("service account {namespace}/{} has been deleted", account.name));
    }
    let node = claims.node.as_ref().filter(|_| claims.pod.is_none());
    for (bound, resource, kind, namespace) in [
        (claims.secret.as_ref(), "secrets", "secret", namespace),
        (claims.pod.as_ref(), "pods", "pod", namespace),
        (node, "nodes", "node", ""),
    ] {
        let Some(bound) = bound else { continue };
        let Some(found) = lookup.object(resource, namespace, &bound.name).await else {
            return Err("service account token has been invalidated".to_owned());
        };
        let uid = uid_of(&found);
        if uid != bound.uid {
            let title = if kind == "pod" { "pod" } else { kind };
            return Err(format!("{title} UID ({uid}) does not match service account {kind} ref claim ({})", bound.uid));
        }
        if is_gone(&found) {
            return Err("service account token has been invalidated".to_owned());
        }
    }
    Ok(())
}

fn uid_of(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// Deleted for longer than the leeway.
fn is_gone(object: &Value) -> bool {
    let deleted = object["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    deleted.is_some_and(|t| t.as_second() < jiff::Timestamp::now().as_second() - LEEWAY)
}

fn user_of(claims: &Claims) -> User {
    let k = &claims.kubernetes;
    let mut user = user(&k.namespace, &k.serviceaccount.name, &k.serviceaccount.uid);
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if !claims.jti.is_empty() {
        extra("credential-id", &format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &k.pod {
        extra("pod-name", &pod.name);
        extra("pod-uid", &pod.uid);
    }
    if let Some(node) = &k.node {
        extra("node-name", &node.name);
        extra("node-uid", &node.uid);
    }
    user
}

/// The user that a service account is.
#[must_use]
pub fn user(namespace: &str, name: &str, uid: &str) -> User {
    User {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        uid: uid.to_owned(),
        groups: vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
        ..User::default()
    }
}

/// Namespace and name of a service account's user name.
#[must_use]
pub fn split_user_name(user_name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user_name.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    struct Objects(HashMap<&'static str, Value>);

    #[async_trait]
    impl Lookup for Objects {
        async fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
            self.0.get(format!("{resource}/{namespace}/{name}").as_str()).cloned()
        }
    }

    fn issuer() -> Issuer {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        std::fs::write(&path, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        Issuer { issuer: "https://me".into(), key: SigningKey::load(&path).unwrap() }
    }

    fn claims(pod: Option<&str>) -> Claims {
        let now = jiff::Timestamp::now().as_second();
        Claims {
            aud: vec!["api".into()],
            exp: Some(now + 600),
            iat: Some(now),
            nbf: Some(now),
            iss: "https://me".into(),
            sub: "system:serviceaccount:ns:sa".into(),
            kubernetes: KubernetesClaims {
                namespace: "ns".into(),
                serviceaccount: Ref { name: "sa".into(), uid: "u1".into() },
                pod: pod.map(|uid| Ref { name: "p".into(), uid: uid.into() }),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn tokens_live_as_long_as_what_they_are_bound_to() {
        let issuer = issuer();
        let verifier = TokenVerifier {
            issuers: vec!["https://me".into()],
            keys: vec![issuer.key.public.clone()],
            audiences: vec!["api".into()],
        };
        let object = |uid: &str| serde_json::json!({"metadata": {"uid": uid}});
        let objects = Objects(HashMap::from([("serviceaccounts/ns/sa", object("u1")), ("pods/ns/p", object("p1"))]));
        let authenticate = async |claims: &Claims, audiences: &[String]| {
            verifier.authenticate(&issuer.sign(claims).unwrap(), audiences, &objects).await
        };
        let (user, audiences) = authenticate(&claims(Some("p1")), &[]).await.unwrap().unwrap();
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(audiences, ["api"]);
        assert!(authenticate(&claims(Some("other")), &[]).await.unwrap().is_err());
        assert!(authenticate(&claims(None), &["vault".to_owned()]).await.unwrap().is_err());
        let mut stale = claims(None);
        stale.exp = Some(1);
        assert_eq!(authenticate(&stale, &[]).await.unwrap().unwrap_err(), "service account token has expired");
        let mut foreign = claims(None);
        foreign.iss = "https://you".into();
        assert!(authenticate(&foreign, &[]).await.is_none());
        let token = issuer.sign(&claims(None)).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let first = if signature.starts_with('A') { "B" } else { "A" };
        let forged = format!("{signed}.{first}{}", &signature[1..]);
        assert!(matches!(verifier.authenticate(&forged, &[], &objects).await, Some(Err(_)) | None));
    }
}
