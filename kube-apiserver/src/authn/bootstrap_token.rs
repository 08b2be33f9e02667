//! Bootstrap tokens: `<id>.<secret>` that match a Secret of type `bootstrap.kubernetes.io/token` in kube-system.

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::digest;
use serde_json::Value;

use super::{User, service_account::Lookup};

/// The user of a valid token; `None` when the token is none of ours or not valid.
pub async fn authenticate(token: &str, lookup: &dyn Lookup) -> Option<User> {
    let (id, secret) = split(token)?;
    let object = lookup.object("secrets", "kube-system", &format!("bootstrap-token-{id}")).await?;
    user_of(&object, id, secret, jiff::Timestamp::now())
}

fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let fits =
        |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (fits(id, 6) && fits(secret, 16)).then_some((id, secret))
}

fn user_of(object: &Value, id: &str, secret: &str, now: jiff::Timestamp) -> Option<User> {
    let data = |key: &str| -> String {
        let encoded = object["data"][key].as_str().unwrap_or_default();
        STANDARD.decode(encoded).ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
    };
    let same = |a: &str, b: &str| {
        digest::digest(&digest::SHA256, a.as_bytes()).as_ref() == digest::digest(&digest::SHA256, b.as_bytes()).as_ref()
    };
    if !object["metadata"]["deletionTimestamp"].is_null()
        || object["type"] != "bootstrap.kubernetes.io/token"
        || !same(&data("token-secret"), secret)
        || data("token-id") != id
        || data("usage-bootstrap-authentication") != "true"
    {
        return None;
    }
    let expiration = data("expiration");
    if !expiration.is_empty() && expiration.parse::<jiff::Timestamp>().ok().is_none_or(|t| t < now) {
        return None;
    }
    let mut groups = vec!["system:bootstrappers".to_owned()];
    for group in data("auth-extra-groups").split(',').map(str::trim).filter(|g| !g.is_empty()) {
        if !group.starts_with("system:bootstrappers:") {
            return None;
        }
        groups.push(group.to_owned());
    }
    Some(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_tokens_authenticate() {
        let b64 = |s: &str| STANDARD.encode(s);
        let object = serde_json::json!({"metadata": {}, "type": "bootstrap.kubernetes.io/token", "data": {
            "token-id": b64("abcdef"), "token-secret": b64("0123456789abcdef"),
            "usage-bootstrap-authentication": b64("true"), "expiration": b64("2030-01-01T00:00:00Z"),
            "auth-extra-groups": b64("system:bootstrappers:kubeadm:default-node-token")}});
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let user = user_of(&object, "abcdef", "0123456789abcdef", now).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups[1], "system:bootstrappers:kubeadm:default-node-token");
        assert!(user_of(&object, "abcdef", "0123456789abcdee", now).is_none());
        assert!(user_of(&object, "abcdef", "0123456789abcdef", "2031-01-01T00:00:00Z".parse().unwrap()).is_none());
        assert!(split("abcdef.0123456789abcdef").is_some());
        assert!(split("abc.0123456789abcdef").is_none());
    }
}
