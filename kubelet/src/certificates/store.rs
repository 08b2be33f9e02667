//! Certificates on disk: `<name>-<time>.pem` holds a certificate and its key, `<name>-current.pem` points to the one in use.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use x509_parser::prelude::{FromDer, GeneralName, Pem, X509Certificate};

/// What is worth knowing about the certificate in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    pub(super) common_name: String,
    pub(super) dns_names: Vec<String>,
    pub(super) ips: Vec<IpAddr>,
}

fn time(seconds: i64) -> anyhow::Result<Timestamp> {
    Ok(Timestamp::from_second(seconds)?)
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    let blocks: Vec<Pem> = Pem::iter_from_buffer(pem).collect::<Result<_, _>>()?;
    Ok(blocks.into_iter().filter(|block| block.label == "CERTIFICATE").map(|block| block.contents).collect())
}

/// When each certificate of a PEM text ends.
pub(super) fn ends(pem: &[u8]) -> anyhow::Result<Vec<Timestamp>> {
    let of = |der: Vec<u8>| time(X509Certificate::from_der(&der)?.1.validity().not_after.timestamp());
    certificates(pem)?.into_iter().map(of).collect()
}

/// The leaf of a PEM text.
pub(super) fn parse(pem: &[u8]) -> anyhow::Result<Held> {
    let leaf = certificates(pem)?.into_iter().next().context("no certificate")?;
    let (_, certificate) = X509Certificate::from_der(&leaf)?;
    let names = certificate.subject_alternative_name()?;
    let names = || names.iter().flat_map(|names| &names.value.general_names);
    let dns = names().filter_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None });
    let ips = names().filter_map(|name| match name {
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
        },
        _ => None,
    });
    let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok(Held {
        not_before: time(certificate.validity().not_before.timestamp())?,
        not_after: time(certificate.validity().not_after.timestamp())?,
        common_name: common_name.unwrap_or_default().to_owned(),
        dns_names: dns.map(str::to_owned).collect(),
        ips: ips.collect(),
    })
}

/// Whether the leaf of a PEM text is for this key (SubjectPublicKeyInfo in DER).
pub(super) fn is_for_key(pem: &[u8], public_key: &[u8]) -> anyhow::Result<bool> {
    let leaf = certificates(pem)?.into_iter().next().context("no certificate")?;
    let (_, certificate) = X509Certificate::from_der(&leaf)?;
    Ok(certificate.public_key().raw == public_key)
}

/// Replaces a file that only its owner may read.
pub(super) fn replace_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}

/// The certificates of one purpose.
#[derive(Clone, Debug)]
pub(super) struct Store {
    directory: PathBuf,
    name: &'static str,
    /// Where a certificate may be that somebody else made.
    fallback: Option<PathBuf>,
}

impl Store {
    pub(super) fn new(directory: &Path, name: &'static str) -> Self {
        Self { directory: directory.to_owned(), name, fallback: None }
    }

    /// Counts this file as the current one as long as there is none.
    pub(super) fn or_else_in(self, fallback: Option<PathBuf>) -> Self {
        Self { fallback, ..self }
    }

    /// `<directory>/<name>-current.pem`.
    pub(super) fn current_path(&self) -> PathBuf {
        self.directory.join(format!("{}-current.pem", self.name))
    }

    /// The certificate in use.
    pub(super) fn current(&self) -> Option<Held> {
        let of = |path: &Path| {
            let pem = std::fs::read(path).ok()?;
            parse(&pem).inspect_err(|error| tracing::warn!(path = %path.display(), %error, "unusable certificate")).ok()
        };
        of(&self.current_path()).or_else(|| of(self.fallback.as_ref()?))
    }

    /// An expired certificate is none: the kubeconfig's own credentials may be better.
    pub(super) fn drop_expired(&self, now: Timestamp) {
        let path = self.current_path();
        let expired =
            std::fs::read(&path).ok().and_then(|pem| parse(&pem).ok()).is_some_and(|held| held.not_after < now);
        if expired && std::fs::read_link(&path).is_ok() {
            tracing::warn!(path = %path.display(), "the current certificate has expired");
            let _ = std::fs::remove_file(&path);
        }
    }

    /// Keeps a certificate and its key, and makes them the current ones.
    pub(super) fn update(&self, certificate: &[u8], key: &str, now: Timestamp) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let stamp = now.strftime("%Y-%m-%d-%H-%M-%S");
        let path = self.directory.join(format!("{}-{stamp}.pem", self.name));
        let mut pem = certificate.to_vec();
        if !pem.ends_with(b"\n") {
            pem.push(b'\n');
        }
        pem.extend_from_slice(key.as_bytes());
        replace_private(&path, &pem)?;
        let updated = self.directory.join(format!("{}-updated.pem", self.name));
        let _ = std::fs::remove_file(&updated);
        symlink(&path, &updated)?;
        std::fs::rename(updated, self.current_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(names: &[&str], end: i32) -> (String, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params =
            rcgen::CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n1");
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key)
    }

    #[test]
    fn the_newest_certificate_is_the_current_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path(), "kubelet-client");
        assert_eq!(store.current(), None);
        let now: Timestamp = "2026-11-21T18:33:10Z".parse().unwrap();
        let (first, key) = issue(&["n1", "10.0.0.1", "fd00::1"], 2100);
        store.update(first.as_bytes(), &key.serialize_pem(), now).unwrap();
        let held = store.current().unwrap();
        assert_eq!((held.common_name.as_str(), held.dns_names), ("system:node:n1", vec!["n1".to_owned()]));
        assert_eq!(held.ips, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert!(is_for_key(first.as_bytes(), &rcgen::PublicKeyData::subject_public_key_info(&key)).unwrap());
        let (second, other) = issue(&["n2"], 2001);
        assert!(!is_for_key(second.as_bytes(), &rcgen::PublicKeyData::subject_public_key_info(&key)).unwrap());
        store.update(second.as_bytes(), &other.serialize_pem(), "2026-11-21T18:33:11Z".parse().unwrap()).unwrap();
        assert_eq!(store.current().unwrap().dns_names, ["n2"]);
        assert!(directory.path().join("kubelet-client-2026-11-21-18-33-10.pem").exists());
        store.drop_expired(now);
        assert_eq!(store.current(), None);
        let fallback = directory.path().join("kubelet-client-2026-11-21-18-33-10.pem");
        assert!(store.or_else_in(Some(fallback)).current().is_some());
    }
}
