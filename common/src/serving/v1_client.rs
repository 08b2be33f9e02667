//! Client certificates of X.509 version 1: what `openssl x509 -req` makes without an extensions file. Upstream (Go) accepts them,
//! webpki refuses to read them. Certificates of every other version go to webpki and never come here.
//!
//! A version 1 certificate can't be restricted: no key usage, no names, no constraints. It is a user's when a CA of the pool itself
//! signed it (intermediates are not followed), both are within their validity, and the handshake is signed with its key.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use x509_parser::{
    asn1_rs::{Any, FromDer},
    prelude::{X509Certificate, X509Version},
};

/// webpki's verifier, and beside it the rules for version 1.
#[derive(Debug)]
pub(super) struct Verifier {
    inner: Arc<dyn ClientCertVerifier>,
    roots: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// `inner` knows the same roots.
    pub(super) fn new(
        inner: Arc<dyn ClientCertVerifier>,
        roots: Vec<CertificateDer<'static>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self { inner, roots, algorithms }
    }

    fn verify_v1(&self, leaf: &X509Certificate<'_>, now: UnixTime) -> Result<(), CertificateError> {
        if !leaf.extensions().is_empty() || leaf.signature_algorithm != leaf.tbs_certificate.signature {
            return Err(CertificateError::BadEncoding);
        }
        check_validity(leaf, now)?;
        let roots = self.roots.iter().filter_map(|der| parse(der));
        let mut verdict = CertificateError::UnknownIssuer;
        for root in roots.filter(|root| root.subject().as_raw() == leaf.issuer().as_raw()) {
            match self.verify_issued(leaf, &root, now) {
                Ok(()) => return Ok(()),
                Err(error) => verdict = error,
            }
        }
        Err(verdict)
    }

    fn verify_issued(
        &self,
        leaf: &X509Certificate<'_>,
        root: &X509Certificate<'_>,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        if !may_sign(root) {
            return Err(CertificateError::UnknownIssuer);
        }
        let signature_id = signature_algorithm(leaf).ok_or(CertificateError::BadEncoding)?;
        let (key_id, key) = public_key(root).ok_or(CertificateError::BadEncoding)?;
        let fits = |a: &&&dyn SignatureVerificationAlgorithm| {
            a.signature_alg_id().as_ref() == signature_id && a.public_key_alg_id().as_ref() == key_id
        };
        let (message, signature) = (leaf.tbs_certificate.as_ref(), leaf.signature_value.data.as_ref());
        let valid =
            self.algorithms.all.iter().filter(fits).any(|a| a.verify_signature(key, message, signature).is_ok());
        if !valid {
            return Err(CertificateError::BadSignature);
        }
        check_validity(root, now)
    }
}

/// As upstream: a CA of version 3 says that it is one and that its key may sign certificates. A CA whose names are constrained is
/// none for certificates that carry no names to check.
fn may_sign(root: &X509Certificate<'_>) -> bool {
    if root.version() != X509Version::V3 {
        return true;
    }
    let (Ok(basic), Ok(usage), Ok(names)) = (root.basic_constraints(), root.key_usage(), root.name_constraints())
    else {
        return false;
    };
    basic.is_some_and(|basic| basic.value.ca)
        && usage.is_none_or(|usage| usage.value.key_cert_sign())
        && names.is_none()
}

fn check_validity(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    match certificate.validity() {
        validity if now < validity.not_before.timestamp() => Err(CertificateError::NotValidYet),
        validity if now > validity.not_after.timestamp() => Err(CertificateError::Expired),
        _ => Ok(()),
    }
}

/// The whole of `der`, or nothing.
fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    rest.is_empty().then_some(certificate)
}

fn parse_v1(der: &[u8]) -> Option<X509Certificate<'_>> {
    parse(der).filter(|certificate| certificate.version() == X509Version::V1)
}

/// The contents of a DER value, and what follows it.
fn open(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, any) = Any::from_der(der).ok()?;
    Some((any.data, rest))
}

/// The contents of `signatureAlgorithm`, which stands behind the signed part.
fn signature_algorithm<'a>(certificate: &X509Certificate<'a>) -> Option<&'a [u8]> {
    let (content, _) = open(certificate.as_raw())?;
    let (algorithm, _) = open(content.get(certificate.tbs_certificate.as_ref().len()..)?)?;
    Some(algorithm)
}

/// The contents of the key's `AlgorithmIdentifier`, and the key.
fn public_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<(&'a [u8], &'a [u8])> {
    let info = certificate.public_key();
    let (content, _) = open(info.raw)?;
    let (algorithm, _) = open(content)?;
    (info.subject_public_key.unused_bits == 0).then_some((algorithm, info.subject_public_key.data.as_ref()))
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match parse_v1(end_entity) {
            Some(leaf) => self.verify_v1(&leaf, now).map(|()| ClientCertVerified::assertion()).map_err(Error::from),
            None => self.inner.verify_client_cert(end_entity, intermediates, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(leaf) = parse_v1(certificate) else {
            return self.inner.verify_tls12_signature(message, certificate, signed);
        };
        let of_scheme = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let (_, algorithms) = of_scheme.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let (id, key) = public_key(&leaf).ok_or(CertificateError::BadEncoding)?;
        let mut algorithms = algorithms.iter().filter(|algorithm| algorithm.public_key_alg_id().as_ref() == id);
        match algorithms.any(|algorithm| algorithm.verify_signature(key, message, signed.signature()).is_ok()) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match parse_v1(certificate) {
            Some(leaf) => {
                let key = SubjectPublicKeyInfoDer::from(leaf.public_key().raw);
                verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
            }
            None => self.inner.verify_tls13_signature(message, certificate, signed),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
#[path = "v1_client_tests.rs"]
mod tests;
