//! A pod's resolver configuration from its DNS policy, the cluster's settings and the node's resolv.conf. Pure.

use k8s_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::PodSpec;

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// Cluster DNS settings of the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct DnsSettings {
    pub(crate) cluster_dns: Vec<String>,
    pub(crate) cluster_domain: String,
}

/// Reads resolv.conf; what it does not know it leaves.
pub(crate) fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                config.searches = words
                    .map(|word| match word {
                        "." => word.to_owned(),
                        _ => word.trim_end_matches('.').to_owned(),
                    })
                    .collect();
            }
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

/// The pod's resolver configuration.
pub(crate) fn config(spec: &PodSpec, namespace: &str, settings: &DnsSettings, host: &DnsConfig) -> DnsConfig {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => spec.host_network != Some(true),
        _ => false,
    };
    let mut config = match policy {
        "None" => DnsConfig::default(),
        _ if cluster && !settings.cluster_dns.is_empty() => cluster_first(namespace, settings, host),
        // Without cluster DNS the pod gets what the node has.
        _ => host.clone(),
    };
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            config.options.retain(|have| have.split(':').next() != Some(&name));
            match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => config.options.push(format!("{name}:{value}")),
                None => config.options.push(name),
            }
        }
    }
    dedup(&mut config.servers);
    dedup(&mut config.searches);
    config.servers.truncate(MAX_SERVERS);
    config.searches.truncate(MAX_SEARCHES);
    while config.searches.join(" ").len() > MAX_SEARCH_CHARS {
        config.searches.pop();
    }
    config
}

fn cluster_first(namespace: &str, settings: &DnsSettings, host: &DnsConfig) -> DnsConfig {
    let mut searches = Vec::new();
    let domain = settings.cluster_domain.trim_end_matches('.');
    if !domain.is_empty() {
        searches.extend([format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()]);
    }
    searches.extend(host.searches.iter().cloned());
    DnsConfig { servers: settings.cluster_dns.clone(), searches, options: vec!["ndots:5".into()] }
}

fn dedup(items: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    items.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let settings = DnsSettings { cluster_dns: vec!["10.96.0.10".into()], cluster_domain: "cluster.local".into() };
        let host = parse_resolv_conf("nameserver 1.1.1.1\nsearch corp.example.\noptions timeout:1\n");
        let of = |policy: &str, host_network: bool| {
            let spec =
                PodSpec { dns_policy: Some(policy.into()), host_network: Some(host_network), ..PodSpec::default() };
            config(&spec, "ns", &settings, &host)
        };
        let cluster = of("ClusterFirst", false);
        assert_eq!(cluster.servers, ["10.96.0.10"]);
        assert_eq!(cluster.searches, ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]);
        assert_eq!(cluster.options, ["ndots:5"]);
        assert_eq!(of("ClusterFirst", true).servers, ["1.1.1.1"]);
        assert_eq!(of("ClusterFirstWithHostNet", true).servers, ["10.96.0.10"]);
        assert_eq!(of("Default", false).options, ["timeout:1"]);
        assert!(of("None", false).servers.is_empty());
    }
}
