//! The token in a Secret: a JWT without an end, that holds as long as the Secret exists with it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::keys::SigningKey;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::json;

use crate::shared::meta::MetaExt;

/// Signs a token of `account` for the Secret of this name.
pub(super) fn sign(key: &SigningKey, account: &ServiceAccount, secret: &str) -> anyhow::Result<String> {
    let (namespace, name) = (account.ns_str(), account.name_str());
    let header = json!({"alg": key.public.algorithm.name(), "kid": key.public.id});
    let claims = json!({
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.uid_str(),
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    });
    let mut token =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key.sign(token.as_bytes()).map_err(|_| anyhow::anyhow!("cannot sign a token"))?;
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(signature));
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_signature() {
        let key = SigningKey::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
        let account = serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "a", "uid": "u"}})).unwrap();
        let token = sign(&key, &account, "s").unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        assert!(key.public.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()));
        let payload = URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:n:a");
        assert_eq!(claims["kubernetes.io/serviceaccount/secret.name"], "s");
        assert_eq!(claims["iss"], "kubernetes/serviceaccount");
    }
}
