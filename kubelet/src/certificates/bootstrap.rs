//! The kubeconfig of a node that joins: whether the one that it has still holds, and a new one made from the bootstrap kubeconfig.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kube::config::{AuthInfo, Kubeconfig};
use serde_json::json;

use super::store;

/// The user of the current context.
fn user(kubeconfig: &Kubeconfig) -> Option<&AuthInfo> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|named| named.name == *current)?.context.as_ref()?;
    let name = context.user.as_ref()?;
    kubeconfig.auth_infos.iter().find(|named| named.name == *name)?.auth_info.as_ref()
}

/// The file that the kubeconfig's certificate and key are both in, if it names one.
pub(super) fn certificate_file(kubeconfig: &Path) -> Option<PathBuf> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).ok()?;
    user(&kubeconfig)?.client_certificate.as_ref().map(PathBuf::from)
}

fn certificates(kubeconfig: &Path) -> anyhow::Result<Vec<u8>> {
    use base64::Engine;
    let read = Kubeconfig::read_from(kubeconfig)?;
    let user = user(&read).context("the current context names no user")?;
    if let Some(data) = &user.client_certificate_data {
        return Ok(base64::prelude::BASE64_STANDARD.decode(data)?);
    }
    let file = user.client_certificate.as_ref().context("no client certificate")?;
    std::fs::read(file).with_context(|| format!("reading {file}"))
}

/// Whether the node's kubeconfig is there and none of its client certificates has expired.
pub(super) fn still_valid(kubeconfig: &Path) -> bool {
    if !kubeconfig.exists() {
        return false;
    }
    let now = jiff::Timestamp::now();
    let found = certificates(kubeconfig).and_then(|pem| store::ends(&pem));
    let path = kubeconfig.display();
    match found {
        Ok(ends) if ends.is_empty() => tracing::error!(%path, "no client certificate in the existing kubeconfig"),
        Ok(ends) => match ends.iter().find(|end| now > **end) {
            None => return true,
            Some(end) => {
                tracing::error!(%path, %end, "part of the existing bootstrap client certificate is expired");
            }
        },
        Err(error) => tracing::error!(%path, %error, "unable to read existing bootstrap client config"),
    }
    false
}

/// Writes the node's kubeconfig: the cluster of the bootstrap kubeconfig, and the certificate that `pair` will hold.
pub(super) fn write_kubeconfig(bootstrap: &Path, kubeconfig: &Path, pair: &Path) -> anyhow::Result<()> {
    let failed = || format!("unable to load bootstrap kubeconfig: {}", bootstrap.display());
    let from = Kubeconfig::read_from(bootstrap).with_context(failed)?;
    let current = from.current_context.as_ref().and_then(|name| from.contexts.iter().find(|c| c.name == *name));
    let cluster = current.and_then(|context| context.context.as_ref()).map(|context| context.cluster.as_str());
    let cluster = from.clusters.iter().find(|named| Some(named.name.as_str()) == cluster);
    let cluster = cluster.and_then(|named| named.cluster.clone()).context("its current context names no cluster");
    let cluster = cluster.with_context(failed)?;
    let text = serde_json::to_string_pretty(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster}],
        "users": [{"name": "default-auth", "user": {"client-certificate": pair, "client-key": pair}}],
        "contexts": [{"name": "default-context",
            "context": {"cluster": "default-cluster", "user": "default-auth", "namespace": "default"}}],
        "current-context": "default-context",
    }))?;
    let write = || {
        if let Some(directory) = kubeconfig.parent() {
            std::fs::create_dir_all(directory)?;
        }
        store::replace_private(kubeconfig, text.as_bytes())
    };
    write().with_context(|| format!("writing the kubeconfig {}", kubeconfig.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_joins_with_what_the_bootstrap_kubeconfig_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let tree = json!({
            "clusters": [{"name": "a", "cluster": {"server": "https://wrong"}},
                {"name": "b", "cluster": {"server": "https://right", "certificate-authority": "ca.crt"}}],
            "users": [{"name": "u", "user": {"token": "abcdef.0123456789abcdef"}}],
            "contexts": [{"name": "x", "context": {"cluster": "b", "user": "u"}}],
            "current-context": "x",
        });
        std::fs::write(path("bootstrap"), tree.to_string()).unwrap();
        let (kubeconfig, pair) = (path("etc/kubelet.conf"), path("pki/kubelet-client-current.pem"));
        assert!(!still_valid(&kubeconfig));
        write_kubeconfig(&path("bootstrap"), &kubeconfig, &pair).unwrap();
        let made = Kubeconfig::read_from(&kubeconfig).unwrap();
        let cluster = made.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://right"));
        assert_eq!(cluster.certificate_authority.as_deref(), path("ca.crt").to_str());
        assert_eq!(certificate_file(&kubeconfig), Some(pair.clone()));
        assert!(!still_valid(&kubeconfig), "there is no certificate yet");
        let issue = |years: i32| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(years, 1, 1);
            std::fs::create_dir_all(path("pki")).unwrap();
            std::fs::write(&pair, params.self_signed(&key).unwrap().pem()).unwrap();
        };
        issue(2001);
        assert!(!still_valid(&kubeconfig));
        issue(2999);
        assert!(still_valid(&kubeconfig));
        let error = write_kubeconfig(&path("none"), &kubeconfig, &pair).unwrap_err();
        assert!(error.to_string().contains("unable to load bootstrap kubeconfig"), "{error}");
    }
}
