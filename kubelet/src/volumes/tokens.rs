//! Service account tokens bound to pods: requested once, kept until 80% of their life (or a day) is over.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;
use parking_lot::Mutex;

use crate::pods::spec;

const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
/// More tokens than pods of a full node can have; a bound, not a target.
const MAX_CACHED: usize = 4096;

/// What a token is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenRequestKey {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) audience: String,
    pub(crate) seconds: i64,
    pub(crate) pod_name: String,
    pub(crate) pod_uid: String,
}

impl TokenRequestKey {
    /// For the pod's service account.
    pub(crate) fn of(pod: &Pod, audience: &str, seconds: i64) -> Self {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        Self {
            namespace: spec::namespace(pod).to_owned(),
            service_account: account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into()),
            audience: audience.to_owned(),
            seconds,
            pod_name: spec::name(pod).to_owned(),
            pod_uid: spec::uid(pod).to_owned(),
        }
    }
}

/// A token.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) token: String,
    pub(crate) expires: Timestamp,
}

struct Held {
    token: Token,
    issued: Timestamp,
}

/// Tokens in use.
pub(crate) struct Tokens {
    client: Option<kube::Client>,
    held: Mutex<HashMap<TokenRequestKey, Held>>,
}

/// Time for a new one.
fn due(held: &Held, now: Timestamp) -> bool {
    let life = held.token.expires.duration_since(held.issued);
    let age = now.duration_since(held.issued);
    age > life * 8 / 10 || age > MAX_AGE
}

impl Tokens {
    pub(crate) fn new(client: Option<kube::Client>) -> Self {
        Self { client, held: Mutex::default() }
    }

    /// A token that is good for a while.
    pub(crate) async fn get(&self, key: &TokenRequestKey) -> Result<Token, String> {
        let now = Timestamp::now();
        let have = self.held.lock().get(key).map(|held| (held.token.clone(), due(held, now), held.token.expires > now));
        if let Some((token, false, _)) = have {
            return Ok(token);
        }
        match self.request(key, now).await {
            Ok(token) => Ok(token),
            // An old token is better than none while it is still good.
            Err(error) => match have {
                Some((token, _, true)) => {
                    tracing::warn!(%error, "couldn't refresh a service account token, will retry");
                    Ok(token)
                }
                _ => Err(error),
            },
        }
    }

    async fn request(&self, key: &TokenRequestKey, now: Timestamp) -> Result<Token, String> {
        let client = self.client.clone().ok_or("cannot use a service account token without an apiserver")?;
        let api: kube::Api<ServiceAccount> = kube::Api::namespaced(client, &key.namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!key.audience.is_empty()).then(|| vec![key.audience.clone()]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(key.pod_name.clone()),
                    uid: Some(key.pod_uid.clone()),
                }),
                expiration_seconds: Some(key.seconds),
            }),
            ..TokenRequest::default()
        };
        let answer = api
            .create_token_request(&key.service_account, &PostParams::default(), &request)
            .await
            .map_err(|error| format!("failed to fetch token: {error}"))?;
        let status = answer.status.ok_or("failed to fetch token: the answer has no status")?;
        let mut held = self.held.lock();
        if held.len() >= MAX_CACHED {
            held.retain(|_, held| held.token.expires > now);
        }
        let token = status.token.ok_or("failed to fetch token: the answer has no token")?;
        let expires = status.expiration_timestamp.map_or(now, |expires| expires.0);
        let token = Token { token, expires };
        held.insert(key.clone(), Held { token: token.clone(), issued: now });
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_before_they_expire() {
        let at = |second: i64| Timestamp::from_second(second).expect("time");
        let held = |expires: i64| {
            let token = Token { token: String::new(), expires: at(expires) };
            Held { token, issued: at(0) }
        };
        let long = held(31_536_000);
        let held = held(3600);
        assert!(!due(&held, at(2879)) && due(&held, at(2881)));
        assert!(!due(&long, at(86_400)) && due(&long, at(86_401)));
    }
}
