//! A certificate authority and the certificates it makes: the requester decides on subject, names and key, we on everything else.

use common::keys::{Algorithm, SigningKey};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use x509_parser::extensions::ParsedExtension;
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, Tag, construct_der};

use crate::shared::csr::Request;

/// Certificates start before now, for clocks that are late.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Below this lifetime the end is not moved along with the start.
const SHORT: SignedDuration = SignedDuration::from_hours(8);

/// Who signs.
pub(super) struct Authority {
    key: SigningKey,
    /// The issuer's name as DER.
    subject: Vec<u8>,
    /// Its subject key identifier, if any.
    key_id: Option<Vec<u8>>,
    not_after: Timestamp,
}

impl Authority {
    /// From the contents of the certificate and the key file.
    pub(super) fn new(certificate: &[u8], key: &[u8]) -> Result<Self, String> {
        let blocks: Vec<_> = x509_parser::pem::Pem::iter_from_buffer(certificate)
            .filter_map(Result::ok)
            .filter(|pem| pem.label == "CERTIFICATE")
            .collect();
        let [pem] = blocks.as_slice() else {
            return Err(format!("expected 1 certificate, found {}", blocks.len()));
        };
        let parsed = pem.parse_x509().map_err(|error| error.to_string())?;
        let key = SigningKey::from_pem(key)?;
        if key.public_spki() != parsed.public_key().raw {
            return Err("tls: private key does not match public key".into());
        }
        let key_id = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        Ok(Self {
            key,
            subject: parsed.subject().as_raw().to_vec(),
            key_id,
            not_after: Timestamp::from_second(parsed.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX),
        })
    }

    /// A certificate (PEM) for a request.
    pub(super) fn sign(
        &self,
        request: &Request,
        usages: &[String],
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<String, String> {
        if !request.proven {
            return Err("unable to verify certificate request signature".into());
        }
        let usages = Usages::of(usages)?;
        let validity = self.validity(ttl, now)?;
        let serial: [u8; 16] = rand::random();
        let body = construct_der(|w| self.write_body(w, request, &usages, validity, &serial));
        let signature = self.key.sign_x509(&body).map_err(|_| "failed to sign certificate".to_owned())?;
        let der = construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_der(&body);
                self.write_algorithm(w.next());
                w.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(pem(&der))
    }

    /// Start and end of a certificate.
    fn validity(&self, ttl: SignedDuration, now: Timestamp) -> Result<(Timestamp, Timestamp), String> {
        let start = now - BACKDATE;
        let end = if ttl < SHORT { now + ttl } else { now + ttl - BACKDATE };
        if start >= self.not_after {
            return Err(format!("the signer has expired: NotAfter={}", self.not_after));
        }
        if now >= self.not_after {
            return Err(format!(
                "refusing to sign a certificate that expired in the past: NotAfter={}",
                self.not_after
            ));
        }
        Ok((start, end.min(self.not_after)))
    }

    fn write_algorithm(&self, w: DERWriter<'_>) {
        w.write_sequence(|w| {
            let oid: &[u64] = match self.key.public.algorithm {
                Algorithm::Rs256 => &[1, 2, 840, 113_549, 1, 1, 11],
                Algorithm::Es256 => &[1, 2, 840, 10045, 4, 3, 2],
                Algorithm::Es384 => &[1, 2, 840, 10045, 4, 3, 3],
            };
            w.next().write_oid(&ObjectIdentifier::from_slice(oid));
            if self.key.public.algorithm == Algorithm::Rs256 {
                w.next().write_null();
            }
        });
    }

    /// TBSCertificate (RFC 5280, 4.1).
    fn write_body(
        &self,
        w: DERWriter<'_>,
        request: &Request,
        usages: &Usages,
        (start, end): (Timestamp, Timestamp),
        serial: &[u8],
    ) {
        w.write_sequence(|w| {
            w.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
            w.next().write_bigint_bytes(serial, true);
            self.write_algorithm(w.next());
            w.next().write_der(&self.subject);
            w.next().write_sequence(|w| {
                write_time(w.next(), start);
                write_time(w.next(), end);
            });
            w.next().write_der(&request.subject);
            w.next().write_der(&request.public_key);
            w.next().write_tagged(Tag::context(3), |w| {
                w.write_sequence(|w| {
                    for (oid, critical, value) in self.extensions(request, usages) {
                        w.next().write_sequence(|w| {
                            w.next().write_oid(&ObjectIdentifier::from_slice(oid));
                            if critical {
                                w.next().write_bool(true);
                            }
                            w.next().write_bytes(&value);
                        });
                    }
                });
            });
        });
    }

    /// OID, critical, value.
    fn extensions(&self, request: &Request, usages: &Usages) -> Vec<(&'static [u64], bool, Vec<u8>)> {
        let mut all: Vec<(&'static [u64], bool, Vec<u8>)> = Vec::new();
        if usages.key != 0 {
            all.push((&[2, 5, 29, 15], true, usages.key_usage()));
        }
        if !usages.extended.is_empty() {
            let write = |w: &mut yasna::DERWriterSeq<'_>| {
                for (_, oid) in &usages.extended {
                    w.next().write_oid(&ObjectIdentifier::from_slice(oid));
                }
            };
            all.push((&[2, 5, 29, 37], false, construct_der(|w| w.write_sequence(write))));
        }
        all.push((&[2, 5, 29, 19], true, construct_der(|w| w.write_sequence(|_| {}))));
        if let Some(id) = &self.key_id {
            let tagged = |w: DERWriter<'_>| w.write_tagged_implicit(Tag::context(0), |w| w.write_bytes(id));
            all.push((&[2, 5, 29, 35], false, construct_der(|w| w.write_sequence(|w| tagged(w.next())))));
        }
        if let Some(names) = alternative_names(request) {
            // An empty subject is an empty SEQUENCE: two bytes.
            all.push((&[2, 5, 29, 17], request.subject.len() <= 2, names));
        }
        all
    }
}

fn alternative_names(request: &Request) -> Option<Vec<u8>> {
    let text = |tag: u64, list: &[String]| -> Vec<(u64, Vec<u8>)> {
        list.iter().map(|name| (tag, name.as_bytes().to_vec())).collect()
    };
    let mut names = text(2, &request.dns);
    names.extend(text(1, &request.emails));
    names.extend(request.ips.iter().map(|ip| (7, ip.clone())));
    names.extend(text(6, &request.uris));
    let write = |w: DERWriter<'_>| {
        w.write_sequence(|w| {
            for (tag, bytes) in &names {
                w.next().write_tagged_implicit(Tag::context(*tag), |w| w.write_bytes(bytes));
            }
        });
    };
    (!names.is_empty()).then(|| construct_der(write))
}

/// RFC 5280, 4.1.2.5: two digits of the year until 2049, four from then on.
fn write_time(w: DERWriter<'_>, time: Timestamp) {
    let zoned = time.to_zoned(TimeZone::UTC);
    let (tag, format) = if zoned.year() < 2050 { (23, "%y%m%d%H%M%SZ") } else { (24, "%Y%m%d%H%M%SZ") };
    let text = zoned.strftime(format).to_string();
    let class = Tag { tag_class: yasna::TagClass::Universal, tag_number: tag };
    w.write_tagged_implicit(class, |w| w.write_bytes(text.as_bytes()));
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// What a certificate may be used for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Usages {
    /// Bit n is bit n of the KeyUsage extension.
    key: u16,
    /// In a fixed order, whatever the order of the request.
    extended: Vec<(usize, &'static [u64])>,
}

/// The names of bits of KeyUsage (RFC 5280, 4.2.1.3).
const KEY_USAGES: [(&str, u16); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// The names of extended usages, in the order in which they are written.
const EXTENDED_USAGES: [(&str, &[u64]); 13] = [
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

impl Usages {
    fn of(names: &[String]) -> Result<Self, String> {
        let (mut usages, mut unknown) = (Self::default(), Vec::new());
        for name in names {
            if let Some((_, bit)) = KEY_USAGES.iter().find(|(known, _)| known == name) {
                usages.key |= 1 << bit;
            } else if let Some(at) = EXTENDED_USAGES.iter().position(|(known, _)| known == name) {
                usages.extended.push((at, EXTENDED_USAGES[at].1));
            } else {
                unknown.push(format!("{name:?}"));
            }
        }
        usages.extended.sort_unstable();
        usages.extended.dedup_by_key(|(_, oid)| *oid);
        match unknown.is_empty() {
            true => Ok(usages),
            false => Err(format!("unrecognized usage values: [{}]", unknown.join(" "))),
        }
    }

    /// The named bits as DER: the first is the highest of the first byte, trailing zeros are left out.
    fn key_usage(&self) -> Vec<u8> {
        let bits = 16 - self.key.leading_zeros() as usize;
        let bytes: Vec<u8> = self.key.to_le_bytes().iter().map(|byte| byte.reverse_bits()).collect();
        construct_der(|w| w.write_bitvec_bytes(&bytes[..bits.div_ceil(8)], bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::csr;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn authority() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(2060, 1, 1);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority::new(ca.pem().as_bytes(), ca.key().serialize_pem().as_bytes()).unwrap()
    }

    #[test]
    fn the_certificate_is_what_was_asked_for() {
        let authority = authority();
        let text = csr::tests::pem("system:node:a", "system:nodes", &["a.example"], Some([10, 0, 0, 1]));
        let request = csr::parse(text.as_bytes()).unwrap();
        let usages = strings(&["server auth", "digital signature", "key encipherment"]);
        let now = at("2026-01-01T00:00:00Z");
        let signed = authority.sign(&request, &usages, SignedDuration::from_hours(24 * 365 * 30), now).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).unwrap();
        let cert = pem.parse_x509().unwrap();
        assert_eq!(cert.subject().as_raw(), request.subject);
        assert_eq!(cert.issuer().as_raw(), authority.subject);
        assert_eq!(cert.public_key().raw, request.public_key);
        assert_eq!(cert.validity().not_before.timestamp(), at("2025-12-31T23:55:00Z").as_second());
        // Beyond 2050, and written with four digits.
        assert_eq!(cert.validity().not_after.timestamp(), at("2055-12-24T23:55:00Z").as_second());
        let usage = cert.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
        let extended = cert.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && !extended.client_auth);
        assert!(!cert.is_ca());
        let names = &cert.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.len(), 2);
        // The signature holds under the authority's key.
        assert!(cert.signature_algorithm.algorithm.to_id_string() == "1.2.840.10045.4.3.2");
        let key = ring::signature::UnparsedPublicKey::new(
            &ring::signature::ECDSA_P256_SHA256_ASN1,
            authority.key.public_spki()[26..].to_vec(),
        );
        key.verify(cert.tbs_certificate.as_ref(), &cert.signature_value.data).unwrap();
    }

    #[test]
    fn lifetimes() {
        let authority = authority();
        let now = at("2026-01-01T00:00:00Z");
        let end = |hours: i64, now| authority.validity(SignedDuration::from_hours(hours), now).map(|(_, end)| end);
        assert_eq!(end(1, now).unwrap(), at("2026-01-01T01:00:00Z"));
        assert_eq!(end(24, now).unwrap(), at("2026-01-01T23:55:00Z"));
        assert_eq!(end(24 * 366 * 50, now).unwrap(), at("2060-01-01T00:00:00Z"));
        assert!(end(1, at("2060-01-01T00:01:00Z")).unwrap_err().starts_with("refusing to sign a certificate"));
        assert!(end(1, at("2060-01-02T00:00:00Z")).unwrap_err().starts_with("the signer has expired"));
    }

    #[test]
    fn usages() {
        let table: [(&[&str], u16, &[usize]); 4] = [
            (&["signing"], 1, &[]),
            (&["client auth", "client auth"], 0, &[2]),
            (&["cert sign", "encipher only"], 1 << 5 | 1 << 7, &[]),
            (&["ocsp signing", "crl sign", "s/mime", "content commitment"], 1 << 6 | 1 << 1, &[5, 10]),
        ];
        for (names, key, extended) in table {
            let usages = Usages::of(&strings(names)).unwrap();
            let order: Vec<usize> = usages.extended.iter().map(|(at, _)| *at).collect();
            assert_eq!((usages.key, order.as_slice()), (key, extended), "{names:?}");
        }
        assert_eq!(Usages::of(&strings(&["x", "y"])).unwrap_err(), "unrecognized usage values: [\"x\" \"y\"]");
        // RFC 5280's bit 8 needs a second byte.
        assert_eq!(Usages::of(&strings(&["decipher only"])).unwrap().key_usage(), [3, 3, 7, 0, 0x80]);
        assert_eq!(Usages::of(&strings(&["signing", "key encipherment"])).unwrap().key_usage(), [3, 2, 5, 0xa0]);
    }

    #[test]
    fn files_that_are_no_authority() {
        let error = |cert: &[u8], key: &[u8]| Authority::new(cert, key).err().unwrap();
        assert_eq!(error(b"", b""), "expected 1 certificate, found 0");
        let make = || {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            (ca.pem(), ca.key().serialize_pem())
        };
        let (one, other) = (make(), make());
        assert_eq!(error(format!("{}{}", one.0, other.0).as_bytes(), b""), "expected 1 certificate, found 2");
        assert!(error(one.0.as_bytes(), other.1.as_bytes()).contains("does not match"));
        assert!(error(one.0.as_bytes(), b"").contains("private key"));
    }
}
