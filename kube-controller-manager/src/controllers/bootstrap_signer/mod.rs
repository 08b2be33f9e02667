//! `bootstrap-signer-controller`: signs `kube-public/cluster-info` with every bootstrap token, so that a joining node, who knows a
//! token and nothing else, can trust it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::informer::{Informer, WorkQueue, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::PostParams;
use kube::{Api, Client};
use ring::hmac;

use crate::context::{Context, Task};
use crate::shared::{apierr, bootstrap_token};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("bootstrap-signer");
    let tokens = bootstrap_token::informer(&ctx.factory);
    let maps = ctx.factory.informer_with_field_selector::<ConfigMap>(&format!("metadata.name={NAME}"));
    let queue = WorkQueue::new("bootstrap_signer_queue");
    let q = queue.clone();
    tokens.on_event(move |_| q.add(()));
    let q = queue.clone();
    maps.on_event(move |_| q.add(()));
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        run_workers("bootstrap_signer", queue, 1, shutdown, move |()| {
            let (client, tokens, maps) = (client.clone(), tokens.clone(), maps.clone());
            async move { sync(&client, &tokens, &maps).await }
        })
        .await;
    }))
}

/// The map's data with the right signatures, if it has not got them.
fn signed(data: &BTreeMap<String, String>, tokens: &[Arc<Secret>], now: Timestamp) -> Option<BTreeMap<String, String>> {
    let content = data.get(CONTENT)?;
    let mut wanted = data.clone();
    wanted.retain(|key, _| !key.starts_with(SIGNATURE));
    for (id, key) in tokens.iter().filter_map(|token| bootstrap_token::signing_token(token, now)) {
        wanted.insert(format!("{SIGNATURE}{id}"), detached_signature(content, id, key));
    }
    (wanted != *data).then_some(wanted)
}

/// A JWS (HS256) without its payload: RFC 7515, appendix F.
fn detached_signature(content: &str, id: &str, key: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes())))
}

async fn sync(client: &Client, tokens: &Informer<Secret>, maps: &Informer<ConfigMap>) -> Result<(), kube::Error> {
    let Some(map) = maps.get(NAMESPACE, NAME) else { return Ok(()) };
    let data = map.data.clone().unwrap_or_default();
    let Some(wanted) = signed(&data, &tokens.list(), Timestamp::now()) else { return Ok(()) };
    let wanted = ConfigMap { data: Some(wanted), ..(*map).clone() };
    match Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE).replace(NAME, &PostParams::default(), &wanted).await {
        // The change that we have not seen brings us back.
        Err(error) if apierr::is_conflict(&error) => Ok(()),
        result => apierr::ignore_not_found(result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::bootstrap_token::tests::token;

    fn map(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn signatures_follow_the_tokens() {
        let now = Timestamp::UNIX_EPOCH;
        let data = [("token-id", "abcdef"), ("token-secret", "s"), ("usage-bootstrap-signing", "true")];
        let tokens = [Arc::new(token("bootstrap-token-abcdef", &data))];
        let first = signed(&map(&[("kubeconfig", "x"), ("other", "y")]), &tokens, now).unwrap();
        let keys: Vec<&str> = first.keys().map(String::as_str).collect();
        assert_eq!(keys, ["jws-kubeconfig-abcdef", "kubeconfig", "other"]);
        assert_eq!(signed(&first, &tokens, now), None);
        assert_eq!(signed(&first, &[], now).unwrap(), map(&[("kubeconfig", "x"), ("other", "y")]));
        let mut changed = first.clone();
        changed.insert("kubeconfig".into(), "z".into());
        assert_ne!(signed(&changed, &tokens, now).unwrap()["jws-kubeconfig-abcdef"], first["jws-kubeconfig-abcdef"]);
        assert_eq!(signed(&map(&[("other", "y")]), &tokens, now), None);
    }

    #[test]
    fn the_signature_verifies() {
        let signature = detached_signature("content", "abcdef", "secret");
        let (header, mac) = signature.split_once("..").unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(header).unwrap(), br#"{"alg":"HS256","kid":"abcdef"}"#);
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode("content"));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        hmac::verify(&key, message.as_bytes(), &URL_SAFE_NO_PAD.decode(mac).unwrap()).unwrap();
    }
}
