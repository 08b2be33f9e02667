//! `serviceaccount-token-controller`: fills Secrets of type `kubernetes.io/service-account-token` with a token that never expires,
//! and removes them when their account is gone.

mod token;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use common::informer::{Event, Informer, WorkQueue, run_workers};
use common::keys::SigningKey;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::context::{Context, Task};
use crate::options::Options;
use crate::shared::apierr;
use crate::shared::meta::MetaExt;
use crate::shared::pod_control::uid_precondition;
use crate::shared::token_secret::{ACCOUNT_NAME, ACCOUNT_UID, account_of, informer, is_listed, is_of};

/// Why the controller has nothing to do under these flags.
pub(crate) fn idle(options: &Options) -> Option<&'static str> {
    options.service_account_private_key_file.is_none().then_some("there is no private key")
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let path = ctx.options.service_account_private_key_file.clone().unwrap_or_default();
    let controller = Arc::new(Controller {
        // Always the daemon's own client: the other identities need tokens.
        client: ctx.factory.client().clone(),
        accounts: ctx.factory.informer(),
        secrets: informer(&ctx.factory),
        key: SigningKey::load(&path).context("--service-account-private-key-file")?,
        root_ca: root_ca(&ctx.options)?,
    });
    let queue = WorkQueue::new("serviceaccount_tokens_secret");
    let q = queue.clone();
    controller.secrets.on_event(move |event: &Event<Secret>| {
        if let Some(key) = key_of(event.object()) {
            q.add(key);
        }
    });
    let (q, secrets) = (queue.clone(), controller.secrets.clone());
    controller.accounts.on_event(move |event: &Event<ServiceAccount>| {
        let went = match event {
            Event::Added(_) => return,
            // A new account of the name hides that the old one went.
            Event::Updated { old, new } if old.uid_str() == new.uid_str() => return,
            Event::Updated { old, .. } => old,
            Event::Deleted(account) => account,
        };
        let orphans = secrets.list_namespace(went.ns_str());
        orphans
            .iter()
            .filter(|secret| is_of(secret, went))
            .filter_map(|secret| key_of(secret))
            .for_each(|key| q.add(key));
    });
    let workers = ctx.options.concurrent_serviceaccount_token_syncs;
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        run_workers("serviceaccount-token", queue, workers, shutdown, move |key: Key| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        })
        .await;
    }))
}

/// The CA that goes into the Secrets.
fn root_ca(options: &Options) -> anyhow::Result<Vec<u8>> {
    match &options.root_ca_file {
        Some(path) => std::fs::read(path).with_context(|| format!("error reading root-ca-file at {}", path.display())),
        None => Ok(Vec::new()),
    }
}

/// A Secret and its account; kept in the queue since both matter when the Secret is gone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    name: String,
    uid: String,
    account: String,
    account_uid: Option<String>,
}

fn key_of(secret: &Secret) -> Option<Key> {
    let (account, account_uid) = account_of(secret)?;
    Some(Key {
        namespace: secret.ns_str().to_owned(),
        name: secret.name_str().to_owned(),
        uid: secret.uid_str().to_owned(),
        account: account.to_owned(),
        account_uid: account_uid.map(str::to_owned),
    })
}

struct Controller {
    client: Client,
    accounts: Arc<Informer<ServiceAccount>>,
    secrets: Arc<Informer<Secret>>,
    key: SigningKey,
    root_ca: Vec<u8>,
}

impl Controller {
    async fn sync(&self, key: &Key) -> anyhow::Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let secret = self.secrets.get(&key.namespace, &key.name).filter(|secret| secret.uid_str() == key.uid);
        let Some(secret) = secret else { return Ok(self.unlist(key).await?) };
        let Some(account) = self.account(key).await? else {
            let params = uid_precondition(DeleteParams::default(), &key.uid);
            return match secrets.delete(&key.name, &params).await {
                Err(error) if apierr::is_conflict(&error) => Ok(()),
                result => Ok(apierr::ignore_not_found(result)?),
            };
        };
        let Some(filled) = self.filled(&secret, &account)? else { return Ok(()) };
        // A conflict means that an event is on its way which brings us back.
        match secrets.replace(&key.name, &PostParams::default(), &filled).await {
            Err(error) if apierr::is_conflict(&error) => Ok(()),
            result => Ok(apierr::ignore_not_found(result)?),
        }
    }

    /// The account, asked for at the server before its tokens are given up.
    async fn account(&self, key: &Key) -> Result<Option<ServiceAccount>, kube::Error> {
        let same = |account: &ServiceAccount| key.account_uid.as_deref().is_none_or(|uid| uid == account.uid_str());
        if let Some(cached) = self.accounts.get(&key.namespace, &key.account).filter(|account| same(account)) {
            return Ok(Some((*cached).clone()));
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
        Ok(api.get_opt(&key.account).await?.filter(same))
    }

    /// The Secret with what it lacks, if it lacks anything.
    fn filled(&self, secret: &Secret, account: &ServiceAccount) -> anyhow::Result<Option<Secret>> {
        let mut data: BTreeMap<String, ByteString> = secret.data.clone().unwrap_or_default();
        let lacks =
            |data: &BTreeMap<String, ByteString>, key: &str| data.get(key).is_none_or(|value| value.0.is_empty());
        if !self.root_ca.is_empty() {
            data.insert("ca.crt".into(), ByteString(self.root_ca.clone()));
        }
        if lacks(&data, "namespace") {
            data.insert("namespace".into(), ByteString(secret.ns_str().as_bytes().to_vec()));
        }
        if lacks(&data, "token") {
            let token = token::sign(&self.key, account, secret.name_str())?;
            data.insert("token".into(), ByteString(token.into_bytes()));
        }
        if secret.data.as_ref() == Some(&data) {
            return Ok(None);
        }
        let mut filled = Secret { data: Some(data), ..secret.clone() };
        let annotations = filled.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT_NAME.into(), account.name_str().to_owned());
        annotations.insert(ACCOUNT_UID.into(), account.uid_str().to_owned());
        Ok(Some(filled))
    }

    /// The Secret is gone: its account does not list it any longer.
    async fn unlist(&self, key: &Key) -> Result<(), kube::Error> {
        let Some(cached) = self.accounts.get(&key.namespace, &key.account) else { return Ok(()) };
        let same = key.account_uid.as_deref().is_none_or(|uid| uid == cached.uid_str());
        if !same || !is_listed(&key.name, &cached) {
            return Ok(());
        }
        let mut account = (*cached).clone();
        account.secrets.get_or_insert_default().retain(|reference| reference.name.as_deref() != Some(&key.name));
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
        apierr::ignore_not_found(api.replace(&key.account, &PostParams::default(), &account).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::informer::InformerOptions;
    use serde_json::json;

    fn controller(root_ca: &str) -> Controller {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("no server"))
        });
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        Controller {
            client: Client::new(service, "default"),
            accounts: Informer::new(InformerOptions::default()),
            secrets: Informer::new(InformerOptions::default()),
            key: SigningKey::from_pem(key.as_bytes()).unwrap(),
            root_ca: root_ca.as_bytes().to_vec(),
        }
    }

    #[tokio::test]
    async fn secrets_get_what_they_lack_and_keep_the_rest() {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "a", "uid": "u"}})).unwrap();
        let empty: Secret = serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "s", "uid": "1",
            "annotations": {ACCOUNT_NAME: "a"}}}))
        .unwrap();
        let controller = controller("CA");
        let filled = controller.filled(&empty, &account).unwrap().unwrap();
        assert_eq!(filled.annotation(ACCOUNT_UID), Some("u"));
        let data = filled.data.clone().unwrap();
        assert_eq!((data["ca.crt"].0.as_slice(), data["namespace"].0.as_slice()), (&b"CA"[..], &b"n"[..]));
        assert_eq!(controller.filled(&filled, &account).unwrap(), None);
        let mut old = filled.clone();
        old.data.as_mut().unwrap().insert("ca.crt".into(), ByteString(b"OLD".to_vec()));
        let again = controller.filled(&old, &account).unwrap().unwrap();
        assert_eq!(again.data.unwrap(), data, "the token stays");
    }

    #[test]
    fn keys_name_the_account() {
        let secret = |annotations| -> Secret {
            serde_json::from_value(json!({"metadata": {"name": "s", "annotations": annotations}})).unwrap()
        };
        assert_eq!(key_of(&secret(json!({}))), None);
        assert_eq!(key_of(&secret(json!({ACCOUNT_NAME: "a"}))).unwrap().account_uid, None);
        let full = key_of(&secret(json!({ACCOUNT_NAME: "a", ACCOUNT_UID: "u"}))).unwrap();
        assert_eq!((full.account.as_str(), full.account_uid.as_deref()), ("a", Some("u")));
    }
}
