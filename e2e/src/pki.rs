//! The cluster's certificates: authorities, serving certificates and one client certificate per identity, as kubeadm lays
//! them out.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use crate::layout::Layout;

/// One certificate authority of a cluster.
pub struct Authority<'a> {
    layout: &'a Layout,
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// The key pair that signs the tokens of service accounts: `sa.key`, `sa.pub`.
pub fn service_account_keys(layout: &Layout) -> Result<()> {
    let key = KeyPair::generate()?;
    write_private(&layout.pki("sa.key"), &key.serialize_pem())?;
    write_private(&layout.pki("sa.pub"), &key.public_key_pem())
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

impl<'a> Authority<'a> {
    /// Makes `<file>.crt` and `<file>.key`, e.g. `ca` or `etcd/ca`.
    pub fn create(layout: &'a Layout, file: &str, name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key)?.pem();
        write_private(&layout.pki(&format!("{file}.crt")), &certificate)?;
        write_private(&layout.pki(&format!("{file}.key")), &key.serialize_pem())?;
        Ok(Self { layout, issuer: Issuer::new(params, key), certificate })
    }

    fn sign(&self, mut params: CertificateParams, name: &str, organization: Option<&str>) -> Result<(String, String)> {
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok((certificate, key.serialize_pem()))
    }

    /// A serving certificate `<file>.crt`, `<file>.key` for these DNS names and addresses.
    pub fn serving(&self, file: &str, name: &str, organization: Option<&str>, hosts: &[&str]) -> Result<()> {
        self.certificate(file, name, organization, hosts, &[ExtendedKeyUsagePurpose::ServerAuth]).map(drop)
    }

    /// A certificate `<file>.crt`, `<file>.key` for a member of a group of servers that also call each other.
    pub fn peer(&self, file: &str, name: &str, hosts: &[&str]) -> Result<()> {
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.certificate(file, name, None, hosts, &usages).map(drop)
    }

    /// A client certificate `<file>.crt`, `<file>.key`; returns both texts.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<(String, String)> {
        self.certificate(file, user, group, &[], &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn certificate(
        &self,
        file: &str,
        name: &str,
        organization: Option<&str>,
        hosts: &[&str],
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<(String, String)> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = usages.to_vec();
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*host).try_into()?),
            });
        }
        let (certificate, key) = self.sign(params, name, organization)?;
        write_private(&self.layout.pki(&format!("{file}.crt")), &certificate)?;
        write_private(&self.layout.pki(&format!("{file}.key")), &key)?;
        Ok((certificate, key))
    }

    /// A kubeconfig with an embedded client certificate.
    pub fn kubeconfig(&self, identity: &str, user: &str, group: Option<&str>, server: &str) -> Result<()> {
        let (certificate, key) = self.client(identity, user, group)?;
        let [ca, certificate, key] = [&self.certificate, &certificate, &key].map(|pem| STANDARD.encode(pem));
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: corten\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    \
             client-key-data: {key}\ncontexts:\n- name: corten\n  context:\n    cluster: corten\n    user: {user}\n\
             current-context: corten\n"
        );
        write_private(&self.layout.kubeconfig(identity), &text)
    }
}
