//! The Kubernetes DNS specification 1.1 as a function from a question to records: Services, headless Services and their
//! endpoints, ExternalNames, ports, pods by address, and the reverse of all those.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT},
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

/// The specification's version, served as `dns-version.<zone>`.
const SCHEMA_VERSION: &str = "1.1.0";

/// What a zone is made of. Implemented by informers, and by vectors in tests.
pub(crate) trait View: Send + Sync {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    fn namespace_exists(&self, namespace: &str) -> bool;
    /// Services with this cluster IP.
    fn services_by_ip(&self, ip: &str) -> Vec<Arc<Service>>;
    /// Slices that list this address.
    fn slices_by_ip(&self, ip: &str) -> Vec<Arc<EndpointSlice>>;
}

/// The answer to one question.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// The name exists; there may be no record of the type.
    Records(Vec<Record>),
    /// No such name in our zone.
    NoSuchName,
    /// Not our zone.
    Elsewhere,
}

/// The cluster's domain.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    /// Lower case, without the trailing dot.
    domain: String,
    origin: Name,
    ttl: u32,
}

/// One way to reach a service: an address and the name that it has below the service.
struct Target {
    ip: IpAddr,
    /// Label of the endpoint; empty for a cluster IP.
    label: String,
}

impl Zone {
    pub(crate) fn new(domain: &str, ttl: u32) -> Result<Self, hickory_proto::ProtoError> {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        let origin = Name::from_ascii(format!("{domain}."))?;
        Ok(Self { domain, origin, ttl })
    }

    /// The record that tells how long a negative answer may be kept.
    pub(crate) fn soa(&self) -> Option<Record> {
        let mname = Name::from_ascii(format!("ns.dns.{}.", self.domain)).ok()?;
        let rname = Name::from_ascii(format!("hostmaster.{}.", self.domain)).ok()?;
        let soa = SOA::new(mname, rname, 1, 7200, 1800, 86400, self.ttl);
        Some(Record::from_rdata(self.origin.clone(), self.ttl, RData::SOA(soa)))
    }

    /// Answers a question from the view.
    pub(crate) fn answer(&self, view: &dyn View, name: &Name, kind: RecordType) -> Answer {
        let text = name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        if let Some(ip) = reverse(&text) {
            return self.reverse(view, name, kind, ip);
        }
        let Some(rest) = text.strip_suffix(&self.domain) else { return Answer::Elsewhere };
        let Some(rest) = rest.strip_suffix('.').or(rest.is_empty().then_some("")) else { return Answer::Elsewhere };
        let labels: Vec<&str> = rest.split('.').filter(|label| !label.is_empty()).rev().collect();
        match labels.as_slice() {
            [] => Answer::Records(if kind == RecordType::SOA { self.soa().into_iter().collect() } else { Vec::new() }),
            ["svc" | "pod"] => Answer::Records(Vec::new()),
            ["dns-version"] => self.records(name, kind, vec![RData::TXT(TXT::new(vec![SCHEMA_VERSION.into()]))]),
            ["svc" | "pod", namespace] if view.namespace_exists(namespace) => Answer::Records(Vec::new()),
            ["pod", namespace, ip] if view.namespace_exists(namespace) => match dashed(ip) {
                Some(ip) => self.records(name, kind, vec![address(ip)]),
                None => Answer::NoSuchName,
            },
            ["svc", namespace, service, rest @ ..] => match view.service(namespace, service) {
                Some(service) => self.service(view, name, kind, &service, rest),
                None => Answer::NoSuchName,
            },
            _ => Answer::NoSuchName,
        }
    }

    /// The records of the type asked for; a CNAME answers every type.
    fn records(&self, name: &Name, kind: RecordType, data: Vec<RData>) -> Answer {
        let fits = |data: &RData| {
            kind == RecordType::ANY || data.record_type() == kind || data.record_type() == RecordType::CNAME
        };
        Answer::Records(
            data.into_iter().filter(fits).map(|data| Record::from_rdata(name.clone(), self.ttl, data)).collect(),
        )
    }

    fn service(&self, view: &dyn View, name: &Name, kind: RecordType, service: &Service, rest: &[&str]) -> Answer {
        let spec = service.spec.clone().unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec
                .external_name
                .and_then(|target| Name::from_ascii(format!("{}.", target.trim_end_matches('.'))).ok());
            return match (rest, target) {
                ([], Some(target)) => self.records(name, kind, vec![RData::CNAME(CNAME(target))]),
                _ => Answer::NoSuchName,
            };
        }
        let targets = targets(view, service);
        match rest {
            [] if targets.is_empty() && is_headless(service) => Answer::NoSuchName,
            [] => self.records(name, kind, targets.iter().map(|target| address(target.ip)).collect()),
            [protocol, port] if protocol.starts_with('_') && port.starts_with('_') => {
                let records = self.ports(view, service, &port[1..], &protocol[1..], &targets);
                if records.is_empty() { Answer::NoSuchName } else { self.records(name, kind, records) }
            }
            [label] => {
                let own: Vec<RData> =
                    targets.iter().filter(|target| target.label == *label).map(|target| address(target.ip)).collect();
                if own.is_empty() { Answer::NoSuchName } else { self.records(name, kind, own) }
            }
            _ => Answer::NoSuchName,
        }
    }

    /// SRV records of a named port.
    fn ports(&self, view: &dyn View, service: &Service, port: &str, protocol: &str, targets: &[Target]) -> Vec<RData> {
        let base = format!("{}.{}.svc.{}.", name_of(service), namespace_of(service), self.domain);
        let srv = |port: u16, label: &str| {
            let target = if label.is_empty() { base.clone() } else { format!("{label}.{base}") };
            Some(RData::SRV(SRV::new(0, 100, port, Name::from_ascii(target).ok()?)))
        };
        let matches = |name: Option<&str>, own: Option<&str>| {
            name == Some(port) && own.unwrap_or("TCP").eq_ignore_ascii_case(protocol)
        };
        if !is_headless(service) {
            let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            let numbers = ports.filter(|own| matches(own.name.as_deref(), own.protocol.as_deref()));
            return numbers.filter_map(|own| srv(u16::try_from(own.port).ok()?, "")).collect();
        }
        let mut records = Vec::new();
        for slice in view.slices(namespace_of(service), name_of(service)) {
            let ports =
                slice.ports.iter().flatten().filter(|own| matches(own.name.as_deref(), own.protocol.as_deref()));
            for number in ports.filter_map(|own| u16::try_from(own.port?).ok()) {
                let here = |target: &&Target| {
                    slice.endpoints.iter().flatten().any(|e| e.addresses.contains(&target.ip.to_string()))
                };
                records.extend(targets.iter().filter(here).filter_map(|target| srv(number, &target.label)));
            }
        }
        records
    }

    fn reverse(&self, view: &dyn View, name: &Name, kind: RecordType, ip: IpAddr) -> Answer {
        let text = ip.to_string();
        let mut names = Vec::new();
        for service in view.services_by_ip(&text) {
            names.push(format!("{}.{}.svc.{}.", name_of(&service), namespace_of(&service), self.domain));
        }
        for slice in view.slices_by_ip(&text) {
            let Some(service) =
                slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"))
            else {
                continue;
            };
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            if !view.service(namespace, service).is_some_and(|service| is_headless(&service)) {
                continue;
            }
            let own = slice.endpoints.iter().flatten().filter(|endpoint| endpoint.addresses.contains(&text));
            names.extend(
                own.filter_map(|e| e.hostname.as_ref())
                    .map(|host| format!("{host}.{service}.{namespace}.svc.{}.", self.domain)),
            );
        }
        if names.is_empty() {
            return Answer::Elsewhere;
        }
        let names = names.into_iter().filter_map(|name| Name::from_ascii(name).ok());
        self.records(name, kind, names.map(|name| RData::PTR(PTR(name))).collect())
    }
}

fn name_of(service: &Service) -> &str {
    service.metadata.name.as_deref().unwrap_or_default()
}

fn namespace_of(service: &Service) -> &str {
    service.metadata.namespace.as_deref().unwrap_or_default()
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

pub(crate) fn cluster_ips(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let listed = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
    let mut all: Vec<String> = listed.filter(|ip| !ip.is_empty() && *ip != "None").cloned().collect();
    all.sort();
    all.dedup();
    all
}

fn targets(view: &dyn View, service: &Service) -> Vec<Target> {
    if !is_headless(service) {
        return cluster_ips(service)
            .iter()
            .filter_map(|ip| Some(Target { ip: ip.parse().ok()?, label: String::new() }))
            .collect();
    }
    let mut all: Vec<Target> = Vec::new();
    for slice in view.slices(namespace_of(service), name_of(service)) {
        for endpoint in slice.endpoints.iter().flatten() {
            // Absent means ready; the controller says ready for unready pods that want to be published.
            if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(false) {
                continue;
            }
            for ip in endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
                let label = endpoint.hostname.clone().unwrap_or_else(|| ip.to_string().replace(['.', ':'], "-"));
                if !all.iter().any(|known| known.ip == ip && known.label == label) {
                    all.push(Target { ip, label });
                }
            }
        }
    }
    all
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// `10-244-0-5`, or an IPv6 address with dashes for colons.
fn dashed(label: &str) -> Option<IpAddr> {
    label
        .replace('-', ".")
        .parse::<Ipv4Addr>()
        .map(IpAddr::V4)
        .or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}

/// The address of a name below in-addr.arpa or ip6.arpa.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<&str> = rest.split('.').rev().collect();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let digits: Vec<&str> = rest.split('.').rev().collect();
    if digits.len() != 32 || digits.iter().any(|digit| digit.len() != 1) {
        return None;
    }
    let groups: Vec<String> = digits.chunks(4).map(|group| group.concat()).collect();
    groups.join(":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[derive(Default)]
    struct Fake {
        services: Vec<Arc<Service>>,
        slices: Vec<Arc<EndpointSlice>>,
    }

    impl View for Fake {
        fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
            self.services.iter().find(|service| namespace_of(service) == namespace && name_of(service) == name).cloned()
        }
        fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
            let of = |slice: &&Arc<EndpointSlice>| {
                slice.metadata.namespace.as_deref() == Some(namespace)
                    && slice
                        .metadata
                        .labels
                        .as_ref()
                        .and_then(|labels| labels.get("kubernetes.io/service-name"))
                        .is_some_and(|own| own == service)
            };
            self.slices.iter().filter(of).cloned().collect()
        }
        fn namespace_exists(&self, namespace: &str) -> bool {
            namespace == "shop"
        }
        fn services_by_ip(&self, ip: &str) -> Vec<Arc<Service>> {
            self.services.iter().filter(|service| cluster_ips(service).iter().any(|own| own == ip)).cloned().collect()
        }
        fn slices_by_ip(&self, ip: &str) -> Vec<Arc<EndpointSlice>> {
            let has = |slice: &&Arc<EndpointSlice>| {
                slice.endpoints.iter().flatten().any(|e| e.addresses.iter().any(|a| a == ip))
            };
            self.slices.iter().filter(has).cloned().collect()
        }
    }

    fn service(name: &str, spec: Value) -> Arc<Service> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec})).unwrap(),
        )
    }

    fn view() -> Fake {
        let port = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        let slice = json!({"metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.244.0.5"], "hostname": "db-0"}, {"addresses": ["10.244.0.6"]},
                {"addresses": ["10.244.0.7"], "conditions": {"ready": false}}]});
        Fake {
            services: vec![
                service(
                    "web",
                    json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"], "ports": port}),
                ),
                service("db", json!({"clusterIP": "None", "ports": port})),
                service("out", json!({"type": "ExternalName", "externalName": "example.com"})),
                service("empty", json!({"clusterIP": "None"})),
            ],
            slices: vec![Arc::new(serde_json::from_value(slice).unwrap())],
        }
    }

    fn ask(name: &str, kind: RecordType) -> String {
        let zone = Zone::new("cluster.local.", 5).unwrap();
        match zone.answer(&view(), &Name::from_ascii(name).unwrap(), kind) {
            Answer::Records(records) => {
                records.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(" | ")
            }
            Answer::NoSuchName => "NXDOMAIN".into(),
            Answer::Elsewhere => "elsewhere".into(),
        }
    }

    #[test]
    fn the_specification_holds() {
        use RecordType::{A, AAAA, CNAME, PTR, SRV, TXT};
        for (name, kind, want) in [
            ("web.shop.svc.cluster.local.", A, "10.96.0.9"),
            ("WEB.shop.svc.Cluster.local.", A, "10.96.0.9"),
            ("web.shop.svc.cluster.local.", AAAA, "fd00::9"),
            ("web.shop.svc.cluster.local.", TXT, ""),
            ("_http._tcp.web.shop.svc.cluster.local.", SRV, "0 100 80 web.shop.svc.cluster.local."),
            ("_smtp._tcp.web.shop.svc.cluster.local.", SRV, "NXDOMAIN"),
            ("db.shop.svc.cluster.local.", A, "10.244.0.5 | 10.244.0.6"),
            ("db-0.db.shop.svc.cluster.local.", A, "10.244.0.5"),
            ("10-244-0-6.db.shop.svc.cluster.local.", A, "10.244.0.6"),
            (
                "_http._tcp.db.shop.svc.cluster.local.",
                SRV,
                "0 100 8080 db-0.db.shop.svc.cluster.local. | 0 100 8080 10-244-0-6.db.shop.svc.cluster.local.",
            ),
            ("empty.shop.svc.cluster.local.", A, "NXDOMAIN"),
            ("out.shop.svc.cluster.local.", A, "example.com."),
            ("out.shop.svc.cluster.local.", CNAME, "example.com."),
            ("none.shop.svc.cluster.local.", A, "NXDOMAIN"),
            ("shop.svc.cluster.local.", A, ""),
            ("nowhere.svc.cluster.local.", A, "NXDOMAIN"),
            ("svc.cluster.local.", A, ""),
            ("10-244-0-6.shop.pod.cluster.local.", A, "10.244.0.6"),
            ("x.shop.pod.cluster.local.", A, "NXDOMAIN"),
            ("dns-version.cluster.local.", TXT, "1.1.0"),
            ("9.0.96.10.in-addr.arpa.", PTR, "web.shop.svc.cluster.local."),
            ("5.0.244.10.in-addr.arpa.", PTR, "db-0.db.shop.svc.cluster.local."),
            ("1.1.1.1.in-addr.arpa.", PTR, "elsewhere"),
            ("example.com.", A, "elsewhere"),
            ("notcluster.local.", A, "elsewhere"),
        ] {
            assert_eq!(ask(name, kind), want, "{name} {kind}");
        }
    }
}
