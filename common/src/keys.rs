//! Private and public keys of service accounts and certificate authorities: reads PEM files, derives key ids, signs and
//! verifies JWS signatures, signs certificates.
//!
//! RS256 for RSA, ES256/ES384 for elliptic curves, as upstream's token generator chooses.

use std::path::Path;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{digest, rand::SystemRandom, rsa, signature};
use rustls_pki_types::{PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer, pem::SectionKind};
use thiserror::Error;

/// A key file that cannot be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("unable to load key file {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds no usable key.
    #[error("error parsing key file {path}: {reason}")]
    Parse {
        /// Which file.
        path: String,
        /// Why.
        reason: String,
    },
}

/// Signature algorithms of service-account tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA PKCS#1 with SHA-256.
    Rs256,
    /// P-256 with SHA-256.
    Es256,
    /// P-384 with SHA-384.
    Es384,
}

impl Algorithm {
    /// The JWS name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
        }
    }
}

/// A public key that verifies tokens.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// How the key signs.
    pub algorithm: Algorithm,
    /// `kid`: the hash of the key's SubjectPublicKeyInfo.
    pub id: String,
    /// PKCS#1 RSAPublicKey, or the uncompressed point.
    raw: Vec<u8>,
}

/// A private key that signs tokens.
pub struct SigningKey {
    /// The public half.
    pub public: PublicKey,
    pair: Pair,
    rng: SystemRandom,
}

enum Pair {
    Rsa(Box<rsa::KeyPair>),
    Ec(Box<signature::EcdsaKeyPair>),
}

impl PublicKey {
    fn new(algorithm: Algorithm, raw: Vec<u8>) -> Self {
        let hash = digest::digest(&digest::SHA256, &spki(algorithm, &raw));
        Self { algorithm, id: URL_SAFE_NO_PAD.encode(hash), raw }
    }

    /// Checks the signature of `message`.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature_bytes: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match self.algorithm {
            Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
        };
        signature::UnparsedPublicKey::new(algorithm, &self.raw).verify(message, signature_bytes).is_ok()
    }

    /// The key as a JSON Web Key.
    #[must_use]
    pub fn jwk(&self) -> serde_json::Value {
        let base = serde_json::json!({"use": "sig", "kid": self.id, "alg": self.algorithm.name()});
        let mut jwk = base;
        match self.algorithm {
            Algorithm::Rs256 => {
                if let Some((n, e)) = rsa_parts(&self.raw) {
                    jwk["kty"] = "RSA".into();
                    jwk["n"] = URL_SAFE_NO_PAD.encode(n).into();
                    jwk["e"] = URL_SAFE_NO_PAD.encode(e).into();
                }
            }
            Algorithm::Es256 | Algorithm::Es384 => {
                let point = &self.raw[1..];
                let (x, y) = point.split_at(point.len() / 2);
                jwk["kty"] = "EC".into();
                jwk["crv"] = if self.algorithm == Algorithm::Es256 { "P-256" } else { "P-384" }.into();
                jwk["x"] = URL_SAFE_NO_PAD.encode(x).into();
                jwk["y"] = URL_SAFE_NO_PAD.encode(y).into();
            }
        }
        jwk
    }
}

impl SigningKey {
    /// Reads the first private key of a PEM file.
    ///
    /// # Errors
    /// The file cannot be read or holds no private key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        Self::from_pem(&read(path)?).map_err(|reason| KeyError::Parse { path: path.display().to_string(), reason })
    }

    /// The first private key of a PEM text.
    ///
    /// # Errors
    /// There is none, or it is of an unsupported kind.
    pub fn from_pem(text: &[u8]) -> Result<Self, String> {
        let keys = sections(text)?;
        let first = keys.iter().find_map(|(kind, der)| Self::from_der(*kind, der));
        first.unwrap_or_else(|| Err("data does not contain a valid RSA or ECDSA private key".to_owned()))
    }

    fn from_der(kind: SectionKind, der: &[u8]) -> Option<Result<Self, String>> {
        let rng = SystemRandom::new();
        let rejected = |e: ring::error::KeyRejected| e.to_string();
        match kind {
            SectionKind::RsaPrivateKey => Some(
                rsa::KeyPair::from_der(PrivatePkcs1KeyDer::from(der).secret_pkcs1_der())
                    .map(Self::rsa)
                    .map_err(rejected),
            ),
            SectionKind::PrivateKey => {
                let der = PrivatePkcs8KeyDer::from(der);
                let der = der.secret_pkcs8_der();
                if let Ok(pair) = rsa::KeyPair::from_pkcs8(der) {
                    return Some(Ok(Self::rsa(pair)));
                }
                Some(Self::ec(der, rng))
            }
            SectionKind::EcPrivateKey => {
                Some(Self::ec(&sec1_to_pkcs8(PrivateSec1KeyDer::from(der).secret_sec1_der()), rng))
            }
            _ => None,
        }
    }

    fn rsa(pair: rsa::KeyPair) -> Self {
        let public = PublicKey::new(Algorithm::Rs256, pair.public().as_ref().to_vec());
        Self { public, pair: Pair::Rsa(Box::new(pair)), rng: SystemRandom::new() }
    }

    fn ec(pkcs8: &[u8], rng: SystemRandom) -> Result<Self, String> {
        use signature::KeyPair;
        for (algorithm, signing) in [
            (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        ] {
            if let Ok(pair) = signature::EcdsaKeyPair::from_pkcs8(signing, pkcs8, &rng) {
                let public = PublicKey::new(algorithm, pair.public_key().as_ref().to_vec());
                return Ok(Self { public, pair: Pair::Ec(Box::new(pair)), rng });
            }
        }
        Err("unsupported private key: need RSA (2048 bits or more), P-256 or P-384".to_owned())
    }

    /// Signs `message`.
    ///
    /// # Errors
    /// The random source or the key failed.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ring::error::Unspecified> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &self.rng, message, &mut out)?;
                Ok(out)
            }
            Pair::Ec(pair) => Ok(pair.sign(&self.rng, message)?.as_ref().to_vec()),
        }
    }

    /// Signs `message` as X.509 wants it: of elliptic curves a sequence of two integers (RFC 3279, 2.2.3).
    ///
    /// # Errors
    /// The random source or the key failed.
    pub fn sign_x509(&self, message: &[u8]) -> Result<Vec<u8>, ring::error::Unspecified> {
        let signature = self.sign(message)?;
        Ok(match &self.pair {
            Pair::Rsa(_) => signature,
            Pair::Ec(_) => {
                let (r, s) = signature.split_at(signature.len() / 2);
                tlv(0x30, &[&integer(r), &integer(s)])
            }
        })
    }

    /// The SubjectPublicKeyInfo of the public half.
    #[must_use]
    pub fn public_spki(&self) -> Vec<u8> {
        spki(self.public.algorithm, &self.public.raw)
    }
}

/// Reads every public key of a PEM file: public keys, certificates and the public halves of private keys.
///
/// # Errors
/// The file cannot be read or holds no key.
pub fn load_public(path: &Path) -> Result<Vec<PublicKey>, KeyError> {
    let text = read(path)?;
    let parse = |reason: String| KeyError::Parse { path: path.display().to_string(), reason };
    let mut keys = Vec::new();
    for (kind, der) in sections(&text).map_err(&parse)? {
        match kind {
            SectionKind::PublicKey => keys.extend(from_spki(&der)),
            SectionKind::Certificate => {
                if let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) {
                    keys.extend(from_spki(certificate.public_key().raw));
                }
            }
            kind => {
                if let Some(key) = SigningKey::from_der(kind, &der) {
                    keys.push(key.map_err(&parse)?.public);
                }
            }
        }
    }
    if keys.is_empty() {
        return Err(parse("data does not contain any valid RSA or ECDSA public keys".to_owned()));
    }
    Ok(keys)
}

fn read(path: &Path) -> Result<Vec<u8>, KeyError> {
    std::fs::read(path).map_err(|source| KeyError::Read { path: path.display().to_string(), source })
}

fn sections(text: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, String> {
    use rustls_pki_types::pem::PemObject;
    <(SectionKind, Vec<u8>)>::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|e| format!("{e:?}"))
}

fn from_spki(der: &[u8]) -> Option<PublicKey> {
    use x509_parser::{prelude::FromDer, x509::SubjectPublicKeyInfo};
    let (_, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
    let raw = info.subject_public_key.data.to_vec();
    let algorithm = match info.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => Algorithm::Rs256,
        "1.2.840.10045.2.1" if raw.len() == 65 => Algorithm::Es256,
        "1.2.840.10045.2.1" if raw.len() == 97 => Algorithm::Es384,
        _ => return None,
    };
    Some(PublicKey::new(algorithm, raw))
}

// --- the little DER that ring does not offer ---

const OID_RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

fn tlv(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let length: usize = content.iter().map(|c| c.len()).sum();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    content.iter().for_each(|c| out.extend_from_slice(c));
    out
}

/// An unsigned big-endian number.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let digits = strip_zeros(bytes);
    // The first bit of a positive number is 0.
    let sign: &[u8] = if digits.first().is_none_or(|first| first & 0x80 != 0) { &[0] } else { &[] };
    tlv(0x02, &[sign, digits])
}

fn spki(algorithm: Algorithm, raw: &[u8]) -> Vec<u8> {
    let id = match algorithm {
        Algorithm::Rs256 => tlv(0x30, &[OID_RSA, &[0x05, 0x00]]),
        Algorithm::Es256 => tlv(0x30, &[OID_EC, OID_P256]),
        Algorithm::Es384 => tlv(0x30, &[OID_EC, OID_P384]),
    };
    tlv(0x30, &[&id, &tlv(0x03, &[&[0], raw])])
}

fn sec1_to_pkcs8(sec1: &[u8]) -> Vec<u8> {
    let curve = if sec1.windows(OID_P384.len()).any(|w| w == OID_P384) { OID_P384 } else { OID_P256 };
    // RFC 5915 allows the curve inside; ring wants it outside only.
    let mut inner = sec1.to_vec();
    let tagged = tlv(0xa0, &[curve]);
    if let Some(at) = inner.windows(tagged.len()).position(|w| w == tagged) {
        inner.drain(at..at + tagged.len());
        let body = if inner[1] & 0x80 == 0 { 2 } else { 2 + usize::from(inner[1] & 0x7f) };
        inner = tlv(0x30, &[&inner[body..]]);
    }
    tlv(0x30, &[&[0x02, 0x01, 0x00], &tlv(0x30, &[OID_EC, curve]), &tlv(0x04, &[&inner])])
}

/// Modulus and exponent of a PKCS#1 public key, without leading zeros.
fn rsa_parts(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, body) = read_tlv(der)?;
    let (rest, n) = read_tlv(body)?;
    let (_, e) = read_tlv(rest)?;
    Some((strip_zeros(n), strip_zeros(e)))
}

fn strip_zeros(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    &bytes[start..]
}

/// (what follows, content) of the first element.
fn read_tlv(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = usize::from(*der.get(1)?);
    let (length, start) = if first < 0x80 {
        (first, 2)
    } else {
        let count = first & 0x7f;
        let bytes = der.get(2..2 + count)?;
        (bytes.iter().fold(0, |n, b| (n << 8) | usize::from(*b)), 2 + count)
    };
    Some((der.get(start + length..)?, der.get(start..start + length)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ec_keys_sign_and_verify() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sa.key");
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&path, key.serialize_pem()).unwrap();
        let signing = SigningKey::load(&path).unwrap();
        let signature = signing.sign(b"hello").unwrap();
        let public = load_public(&path).unwrap().remove(0);
        assert_eq!(public.id, signing.public.id);
        assert!(public.verify(b"hello", &signature));
        assert!(!public.verify(b"hullo", &signature));
        std::fs::write(&path, key.public_key_pem()).unwrap();
        assert_eq!(load_public(&path).unwrap()[0].id, public.id);
        assert_eq!(public.jwk()["crv"], "P-256");
    }

    #[test]
    fn files_without_keys_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pem");
        let error = load_public(&path).unwrap_err().to_string();
        assert!(error.contains("x.pem"), "{error}");
        std::fs::write(&path, "nothing").unwrap();
        assert!(SigningKey::load(&path).is_err());
    }
}
