//! Whether a certificate and a private key belong together; the complaints are those of Go's TLS.

use rustls::{InconsistentKeys, crypto::ring::sign::any_supported_type, pki_types::PrivateKeyDer, sign::CertifiedKey};
use x509_parser::pem::Pem;

const CERTIFICATE: &str = "CERTIFICATE";
const KEY: &str = "PRIVATE KEY";

/// What is wrong with a pair in PEM.
pub(super) fn complaint(certificate: &[u8], key: &[u8]) -> Option<String> {
    check(certificate, key).err()
}

fn blocks(pem: &[u8]) -> Vec<Pem> {
    Pem::iter_from_buffer(pem).map_while(Result::ok).collect()
}

fn labels(blocks: &[Pem]) -> String {
    let labels: Vec<&str> = blocks.iter().map(|block| block.label.as_str()).collect();
    format!("[{}]", labels.join(" "))
}

fn check(certificate: &[u8], key: &[u8]) -> Result<(), String> {
    let (certificates, keys) = (blocks(certificate), blocks(key));
    let Some(leaf) = certificates.iter().find(|block| block.label == CERTIFICATE) else {
        return Err(match certificates.as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".to_owned(),
            [one] if one.label.ends_with(KEY) => {
                "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".to_owned()
            }
            more => format!(
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: {}",
                labels(more)
            ),
        });
    };
    let Some(key) = keys.into_iter().find(|block| block.label.ends_with(KEY)) else {
        let keys = blocks(key);
        return Err(match keys.as_slice() {
            [] => "tls: failed to find any PEM data in key input".to_owned(),
            [one] if one.label == CERTIFICATE => {
                "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
            }
            more => format!(
                "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: {}",
                labels(more)
            ),
        });
    };
    leaf.parse_x509().map_err(|_| "x509: malformed certificate".to_owned())?;
    let unreadable = || "tls: failed to parse private key".to_owned();
    let key = PrivateKeyDer::try_from(key.contents).map_err(|_| unreadable())?;
    let key = any_supported_type(&key).map_err(|_| unreadable())?;
    match CertifiedKey::new(vec![leaf.contents.clone().into()], key).keys_match() {
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err("tls: private key does not match public key".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn pairs_belong_together() {
        let ((certificate, key), (_, other)) = (pair(), pair());
        let told = |certificate: &str, key: &str| complaint(certificate.as_bytes(), key.as_bytes()).unwrap_or_default();
        assert_eq!(told(&certificate, &key), "");
        assert_eq!(told(&certificate, &other), "tls: private key does not match public key");
        assert_eq!(told("", &key), "tls: failed to find any PEM data in certificate input");
        assert_eq!(told(&certificate, ""), "tls: failed to find any PEM data in key input");
        assert!(told(&key, &certificate).ends_with("PEM inputs may have been switched"));
        assert!(told(&certificate, &certificate).starts_with("tls: found a certificate rather than a key"));
    }
}
