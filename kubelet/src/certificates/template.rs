//! What a certificate shall say, and when the one in use must be replaced. Pure.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeAddress;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use super::store::Held;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The kubelet shows it to the API server.
    Client,
    /// The kubelet's server shows it.
    Serving,
}

impl Kind {
    /// How its files begin.
    pub(super) fn file_name(self) -> &'static str {
        match self {
            Self::Client => "kubelet-client",
            Self::Serving => "kubelet-server",
        }
    }

    pub(super) fn signer(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    /// Keys are elliptic: no key encipherment.
    pub(super) fn usages(self) -> [&'static str; 2] {
        match self {
            Self::Client => ["digital signature", "client auth"],
            Self::Serving => ["digital signature", "server auth"],
        }
    }
}

/// What a certificate shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) common_name: String,
    pub(super) dns_names: Vec<String>,
    pub(super) ips: Vec<IpAddr>,
}

impl Template {
    /// The node's, with its addresses when it is for serving; a server without any address gets no certificate.
    pub(super) fn of(kind: Kind, node: &str, addresses: &[NodeAddress]) -> Option<Self> {
        let mut template = Self { common_name: format!("system:node:{node}"), dns_names: Vec::new(), ips: Vec::new() };
        if kind == Kind::Client {
            return Some(template);
        }
        for NodeAddress { type_, address } in addresses {
            match (type_.as_str(), address.parse()) {
                ("Hostname", Ok(ip)) | ("InternalIP" | "ExternalIP", Ok(ip)) => template.ips.push(ip),
                ("Hostname" | "InternalDNS" | "ExternalDNS", Err(_)) => template.dns_names.push(address.clone()),
                _ => {}
            }
        }
        template.dns_names.sort();
        template.dns_names.dedup();
        template.ips.sort();
        template.ips.dedup();
        (!template.dns_names.is_empty() || !template.ips.is_empty()).then_some(template)
    }

    /// Whether a certificate says all of it.
    pub(super) fn is_met_by(&self, held: &Held) -> bool {
        held.common_name == self.common_name
            && self.dns_names.iter().all(|name| held.dns_names.contains(name))
            && self.ips.iter().all(|ip| held.ips.contains(ip))
    }

    /// The request, in PEM.
    pub(super) fn request(&self, key: &KeyPair) -> Result<String, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, self.common_name.clone());
        for name in &self.dns_names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(self.ips.iter().copied().map(SanType::IpAddress));
        params.serialize_request(key)?.pem()
    }
}

/// When to renew: somewhere between 70 and 90 % of the lifetime; `luck` is between 0 and 1.
pub(super) fn renewal(held: &Held, luck: f64) -> Timestamp {
    let lifetime = Duration::try_from(held.not_after.duration_since(held.not_before)).unwrap_or_default();
    held.not_before.checked_add(lifetime.mul_f64(0.7 + 0.2 * luck)).unwrap_or(held.not_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(type_: &str, address: &str) -> NodeAddress {
        NodeAddress { type_: type_.into(), address: address.into() }
    }

    #[test]
    fn servers_are_known_by_the_nodes_addresses() {
        let addresses = [
            address("InternalIP", "10.0.0.1"),
            address("Hostname", "n1"),
            address("InternalDNS", "n1"),
            address("ExternalIP", "fd00::1"),
            address("InternalIP", "10.0.0.1"),
            address("Other", "x"),
        ];
        let template = Template::of(Kind::Serving, "n1", &addresses).unwrap();
        assert_eq!(template.dns_names, ["n1"]);
        assert_eq!(template.ips, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!(Template::of(Kind::Serving, "n1", &[]), None);
        let client = Template::of(Kind::Client, "n1", &addresses).unwrap();
        assert!(client.dns_names.is_empty() && client.ips.is_empty());
        let mut held = Held {
            not_before: Timestamp::UNIX_EPOCH,
            not_after: Timestamp::UNIX_EPOCH,
            common_name: "system:node:n1".into(),
            dns_names: vec!["n1".into(), "more".into()],
            ips: template.ips.clone(),
        };
        assert!(template.is_met_by(&held));
        held.ips.pop();
        assert!(!template.is_met_by(&held));
        assert!(!Template::of(Kind::Client, "n2", &[]).unwrap().is_met_by(&held));
    }

    #[test]
    fn renewals_are_spread_over_the_last_third() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let held = Held {
            not_before: at(1000),
            not_after: at(2000),
            common_name: String::new(),
            dns_names: Vec::new(),
            ips: Vec::new(),
        };
        for (luck, want) in [(0.0, 1700), (0.5, 1800), (1.0, 1900)] {
            assert_eq!(renewal(&held, luck).as_second(), want);
        }
    }

    #[test]
    fn requests_carry_subject_and_names() {
        use x509_parser::prelude::{FromDer, X509CertificationRequest};
        let addresses = [address("InternalIP", "10.0.0.1"), address("Hostname", "n1")];
        let template = Template::of(Kind::Serving, "n1", &addresses).unwrap();
        let pem = template.request(&KeyPair::generate().unwrap()).unwrap();
        let block = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1;
        let (_, request) = X509CertificationRequest::from_der(&block.contents).unwrap();
        let subject = request.certification_request_info.subject.to_string();
        assert_eq!(subject, "O=system:nodes, CN=system:node:n1");
        let names: Vec<_> = request.requested_extensions().unwrap().map(|e| format!("{e:?}")).collect();
        assert!(names.iter().any(|names| names.contains("n1")), "{names:?}");
    }
}
