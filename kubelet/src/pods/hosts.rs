//! The managed /etc/hosts, and the pod's host name. Pure.

use std::fmt::Write;

use k8s_openapi::api::core::v1::{HostAlias, PodSpec};

const MAX_HOSTNAME: usize = 63;

/// Host name and domain of a pod.
pub(crate) fn hostname_and_domain(
    spec: &PodSpec,
    pod_name: &str,
    namespace: &str,
    cluster_domain: &str,
) -> (String, String) {
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return (name.to_owned(), String::new());
    }
    let hostname = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(pod_name);
    let hostname: String = hostname.chars().take(MAX_HOSTNAME).collect();
    let hostname = hostname.trim_end_matches(['-', '.']).to_owned();
    let domain = match spec.subdomain.as_deref().filter(|name| !name.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{namespace}.svc.{cluster_domain}"),
        None => String::new(),
    };
    (hostname, domain)
}

/// What the sandbox's host name is: the name, or the full name when the pod asks for it.
pub(crate) fn sandbox_hostname(spec: &PodSpec, hostname: &str, domain: &str) -> String {
    if spec.set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        format!("{hostname}.{domain}")
    } else {
        hostname.to_owned()
    }
}

/// Content of the file.
pub(crate) fn file(spec: &PodSpec, ips: &[String], hostname: &str, domain: &str, of_host: &str) -> String {
    let mut text = String::new();
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if spec.host_network == Some(true) {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(of_host);
    } else {
        text.push_str(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        );
        text.push_str(
            "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        for ip in ips {
            if domain.is_empty() {
                let _ = writeln!(text, "{ip}\t{hostname}");
            } else {
                let _ = writeln!(text, "{ip}\t{hostname}.{domain}\t{hostname}");
            }
        }
    }
    append_aliases(&mut text, aliases);
    text
}

fn append_aliases(text: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    text.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let spec = PodSpec { subdomain: Some("db".into()), ..PodSpec::default() };
        let (host, domain) = hostname_and_domain(&spec, "web-0", "ns", "cluster.local");
        assert_eq!((host.as_str(), domain.as_str()), ("web-0", "db.ns.svc.cluster.local"));
        assert!(
            file(&spec, &["10.0.0.1".into()], &host, &domain, "")
                .ends_with("10.0.0.1\tweb-0.db.ns.svc.cluster.local\tweb-0\n")
        );
    }
}
