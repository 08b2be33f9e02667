//! Certificate signing requests: the PKCS#10 content, what has been decided about them, and the two kinds that kubelets send. Pure.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use ring::signature as verify;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

/// Signs client certificates that the apiserver trusts.
pub(crate) const APISERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs the kubelets' client certificates.
pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs the kubelets' serving certificates.
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Of v1beta1; no longer accepted by the v1 API.
pub(crate) const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// The content of `spec.request`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) emails: Vec<String>,
    /// 4 or 16 bytes each.
    pub(crate) ips: Vec<Vec<u8>>,
    pub(crate) uris: Vec<String>,
    /// The subject as DER.
    pub(crate) subject: Vec<u8>,
    /// The SubjectPublicKeyInfo as DER.
    pub(crate) public_key: Vec<u8>,
    /// The requester holds the private key: the request is signed with it.
    pub(crate) proven: bool,
}

/// Parses a PEM request.
pub(crate) fn parse(text: &[u8]) -> Result<Request, String> {
    let wrong = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
    let (_, pem) = x509_parser::pem::parse_x509_pem(text).map_err(|_| wrong())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err(wrong());
    }
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
    let info = &parsed.certification_request_info;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let mut request = Request {
        common_name: info.subject.iter_common_name().filter_map(text).last().unwrap_or_default(),
        organizations: info.subject.iter_organization().filter_map(text).collect(),
        subject: info.subject.as_raw().to_vec(),
        public_key: info.subject_pki.raw.to_vec(),
        proven: is_proven(&parsed),
        ..Request::default()
    };
    for extension in parsed.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => request.dns.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => request.emails.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => request.ips.push(bytes.to_vec()),
                GeneralName::URI(uri) => request.uris.push((*uri).to_owned()),
                _ => {}
            }
        }
    }
    Ok(request)
}

fn is_proven(request: &X509CertificationRequest<'_>) -> bool {
    let info = &request.certification_request_info;
    let algorithm: &dyn verify::VerificationAlgorithm =
        match request.signature_algorithm.algorithm.to_id_string().as_str() {
            "1.2.840.113549.1.1.11" => &verify::RSA_PKCS1_2048_8192_SHA256,
            "1.2.840.113549.1.1.12" => &verify::RSA_PKCS1_2048_8192_SHA384,
            "1.2.840.113549.1.1.13" => &verify::RSA_PKCS1_2048_8192_SHA512,
            "1.2.840.10045.4.3.2" => &verify::ECDSA_P256_SHA256_ASN1,
            "1.2.840.10045.4.3.3" => &verify::ECDSA_P384_SHA384_ASN1,
            "1.3.101.112" => &verify::ED25519,
            _ => return false,
        };
    let key = verify::UnparsedPublicKey::new(algorithm, &info.subject_pki.subject_public_key.data);
    key.verify(info.raw, &request.signature_value.data).is_ok()
}

/// Why a request is no proper one of a kubelet for a client certificate.
pub(crate) fn check_kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    check_node_organization(request)?;
    refuse(&request.dns, "DNS subjectAltNames are not allowed")?;
    refuse(&request.emails, "Email subjectAltNames are not allowed")?;
    refuse(&request.ips, "IP subjectAltNames are not allowed")?;
    refuse(&request.uris, "URI subjectAltNames are not allowed")?;
    check_node_name(request)?;
    check_usages(usages, ["client auth", "digital signature", "key encipherment"])
}

/// Why a request is no proper one of a kubelet for a serving certificate.
pub(crate) fn check_kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    check_node_organization(request)?;
    if request.dns.is_empty() && request.ips.is_empty() {
        return Err("DNS or IP subjectAltName is required".into());
    }
    refuse(&request.emails, "Email subjectAltNames are not allowed")?;
    refuse(&request.uris, "URI subjectAltNames are not allowed")?;
    check_usages(usages, ["digital signature", "key encipherment", "server auth"])?;
    check_node_name(request)
}

fn refuse<T>(names: &[T], why: &str) -> Result<(), String> {
    if names.is_empty() { Ok(()) } else { Err(why.to_owned()) }
}

fn check_node_organization(request: &Request) -> Result<(), String> {
    match request.organizations.as_slice() {
        [one] if one == "system:nodes" => Ok(()),
        _ => Err("subject organization is not system:nodes".into()),
    }
}

fn check_node_name(request: &Request) -> Result<(), String> {
    match request.common_name.starts_with("system:node:") {
        true => Ok(()),
        false => Err("subject common name does not begin with system:node:".into()),
    }
}

/// Keys other than RSA have no use for "key encipherment".
fn check_usages(usages: &[String], wanted: [&str; 3]) -> Result<(), String> {
    let mut given: Vec<&str> = usages.iter().map(String::as_str).collect();
    given.sort_unstable();
    given.dedup();
    let without: Vec<&str> = wanted.into_iter().filter(|usage| *usage != "key encipherment").collect();
    match given == wanted || given == without {
        true => Ok(()),
        false => Err(format!("usages did not match [{}]", wanted.join(" "))),
    }
}

/// Whether the request has a condition of this type, whatever its status.
pub(crate) fn has(csr: &CertificateSigningRequest, kind: &str) -> bool {
    csr.status.iter().flat_map(|status| status.conditions.iter().flatten()).any(|condition| condition.type_ == kind)
}

/// Whether a condition of this type is true; an empty status counts.
pub(crate) fn is_true(csr: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = csr.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|c| c.type_ == kind).any(|c| c.status.is_empty() || c.status == "True")
}

/// Whether the certificate has been issued.
pub(crate) fn is_issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|cert| !cert.0.is_empty())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    /// A request as kubelets send them, with these alternative names.
    pub(crate) fn pem(common_name: &str, organization: &str, dns: &[&str], ip: Option<[u8; 4]>) -> String {
        let mut params = CertificateParams::new(dns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names.extend(ip.map(|ip| SanType::IpAddress(ip.into())));
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|usage| (*usage).to_owned()).collect()
    }

    #[test]
    fn content_is_read() {
        let request = parse(pem("system:node:a", "system:nodes", &["a"], Some([10, 0, 0, 1])).as_bytes()).unwrap();
        assert_eq!((request.common_name.as_str(), request.dns.as_slice()), ("system:node:a", &["a".to_owned()][..]));
        assert_eq!((request.ips, request.organizations), (vec![vec![10, 0, 0, 1]], vec!["system:nodes".to_owned()]));
        assert!(request.proven);
        let error = "PEM block type must be CERTIFICATE REQUEST";
        assert_eq!(parse(b"nothing").unwrap_err(), error);
        assert_eq!(parse(b"-----BEGIN X-----\nAAAA\n-----END X-----\n").unwrap_err(), error);
        assert!(parse(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n").is_err());
    }

    #[test]
    fn what_kubelets_may_ask_for() {
        let node = Request {
            common_name: "system:node:a".into(),
            organizations: vec!["system:nodes".into()],
            ..Request::default()
        };
        let client = usages(&["key encipherment", "digital signature", "client auth"]);
        let serving = usages(&["digital signature", "server auth"]);
        let named = |dns: &str| Request { dns: vec![dns.into()], ..node.clone() };
        check_kubelet_client(&node, &client).unwrap();
        check_kubelet_client(&node, &usages(&["digital signature", "client auth"])).unwrap();
        check_kubelet_serving(&named("a"), &serving).unwrap();
        let table = [
            (
                check_kubelet_client(&Request { organizations: vec![], ..node.clone() }, &client),
                "subject organization is not system:nodes",
            ),
            (check_kubelet_client(&named("a"), &client), "DNS subjectAltNames are not allowed"),
            (
                check_kubelet_client(&Request { common_name: "a".into(), ..node.clone() }, &client),
                "subject common name does not begin with system:node:",
            ),
            (
                check_kubelet_client(&node, &serving),
                "usages did not match [client auth digital signature key encipherment]",
            ),
            (check_kubelet_serving(&node, &serving), "DNS or IP subjectAltName is required"),
            (
                check_kubelet_serving(&Request { uris: vec!["x:y".into()], ..named("a") }, &serving),
                "URI subjectAltNames are not allowed",
            ),
            (
                check_kubelet_serving(&named("a"), &client),
                "usages did not match [digital signature key encipherment server auth]",
            ),
        ];
        for (result, want) in table {
            assert_eq!(result.unwrap_err(), want);
        }
    }
}
