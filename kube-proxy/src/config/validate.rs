//! What upstream refuses in a configuration, in its words.

use std::fmt;

use common::{
    config::duration::format_go_duration,
    meta::ip::{Cidr, sloppy_ip},
};

use super::file::Configuration;

/// All that is wrong.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    fn invalid(&mut self, field: &str, value: impl fmt::Debug, reason: &str) {
        self.0.push(format!("KubeProxyConfiguration.{field}: Invalid value: {value:?}: {reason}"));
    }

    fn range(&mut self, field: &str, value: Option<i32>, range: std::ops::RangeInclusive<i32>) {
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            let reason = format!("must be within the range [{}, {}]", range.start(), range.end());
            self.invalid(field, value, &reason);
        }
    }

    fn not_negative(&mut self, field: &str, value: Option<i32>) {
        if let Some(value) = value.filter(|value| *value < 0) {
            self.invalid(field, value, "must be greater than or equal to 0");
        }
    }

    fn host_port(&mut self, field: &str, text: &str) {
        let split = text.rsplit_once(':').map(|(host, port)| match host.strip_prefix('[') {
            Some(host) => (host.strip_suffix(']'), port),
            None => (Some(host).filter(|host| !host.contains(':')), port),
        });
        let Some((Some(host), port)) = split else { return self.invalid(field, text, "must be IP:port") };
        if sloppy_ip(host).is_none() {
            self.invalid(field, host, "must be a valid IP");
        }
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            self.invalid(field, port, "must be a valid port");
        }
    }

    /// An error with all of them, if there are any.
    pub(crate) fn result(self) -> Result<(), String> {
        match self.0.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

/// Checks a configuration with defaults.
pub(crate) fn validate(config: &Configuration) -> Problems {
    let mut problems = Problems::default();
    problems.range("KubeProxyIPTablesConfiguration.MasqueradeBit", config.iptables.masquerade_bit, 0..=31);
    match config.mode.as_str() {
        "ipvs" => ipvs(&mut problems, config),
        "nftables" => {
            problems.range("KubeProxyNFTablesConfiguration.MasqueradeBit", config.nftables.masquerade_bit, 0..=31);
        }
        _ => {}
    }
    let conntrack = "KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration";
    problems.not_negative(&format!("{conntrack}.MaxPerCore"), config.conntrack.max_per_core);
    problems.not_negative(&format!("{conntrack}.Min"), config.conntrack.min);
    problems.range("KubeProxyLinuxConfiguration.OOMScoreAdj", config.oom_score_adj, -1000..=1000);
    if !matches!(config.mode.as_str(), "" | "iptables" | "ipvs" | "nftables") {
        problems.invalid(
            "Mode.ProxyMode",
            &config.mode,
            "must be iptables, ipvs, nftables or blank (blank means the best-available proxy [currently iptables])",
        );
    }
    problems.not_negative("ClientConnection.Burst", Some(config.client_connection.burst));
    periods(&mut problems, config);
    if sloppy_ip(&config.bind_address).is_none() {
        problems.invalid("BindAddress", &config.bind_address, "not a valid textual representation of an IP address");
    }
    for (field, address) in
        [("HealthzBindAddress", &config.healthz_bind_address), ("MetricsBindAddress", &config.metrics_bind_address)]
    {
        // An empty address can only come from a flag: it turns the server off.
        if !address.is_empty() {
            problems.host_port(field, address);
        }
    }
    node_port_addresses(&mut problems, config);
    detect_local(&mut problems, config);
    problems
}

fn ipvs(problems: &mut Problems, config: &Configuration) {
    for (at, cidr) in config.ipvs.exclude_cidrs.iter().flatten().enumerate() {
        if Cidr::sloppy(cidr).is_none() {
            problems.invalid(&format!("KubeProxyIPVSConfiguration.ExcludeCidrs[{at}]"), cidr, "must be a valid CIDR");
        }
    }
}

fn periods(problems: &mut Problems, config: &Configuration) {
    let (period, shortest) = config.sync_periods();
    for (field, value) in [("ConfigSyncPeriod", config.config_sync_period), ("SyncPeriod", period)] {
        if value.is_zero() {
            problems.invalid(field, format_go_duration(value), "must be greater than 0");
        }
    }
    if shortest > period {
        let reason = "must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod";
        problems.invalid("SyncPeriod", format_go_duration(shortest), reason);
    }
}

fn node_port_addresses(problems: &mut Problems, config: &Configuration) {
    let all = config.node_port_addresses.as_deref().unwrap_or_default();
    for (at, text) in all.iter().enumerate() {
        let field = format!("NodePortAddresses[{at}]");
        if text == "primary" {
            if all.len() != 1 {
                problems.invalid(&field, text, "can't use both 'primary' and CIDRs");
            }
            return;
        }
        if Cidr::sloppy(text).is_none() {
            problems.invalid(&field, text, "must be a valid CIDR");
        }
    }
}

fn detect_local(problems: &mut Problems, config: &Configuration) {
    let mut interface = |field: &str, name: &str| {
        if name.is_empty() {
            problems.invalid(&format!("DetectLocalConfiguration.{field}"), name, "must not be empty");
        }
    };
    match config.detect_local_mode.as_str() {
        "" | "NodeCIDR" => {}
        "BridgeInterface" => interface("InterfaceName", &config.detect_local.bridge_interface),
        "InterfaceNamePrefix" => interface("InterfacePrefix", &config.detect_local.interface_name_prefix),
        "ClusterCIDR" => cluster_cidrs(problems, &config.cluster_cidrs()),
        other => problems.0.push(format!(
            "KubeProxyConfiguration.DetectLocalMode: Unsupported value: {other:?}: supported values: \"ClusterCIDR\", \"NodeCIDR\", \"BridgeInterface\", \"InterfaceNamePrefix\", \"\""
        )),
    }
}

fn cluster_cidrs(problems: &mut Problems, cidrs: &[&str]) {
    let field = "DetectLocalConfiguration.ClusterCIDRs";
    let pair = "must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]";
    if cidrs.len() > 2 {
        return problems.invalid(field, cidrs, pair);
    }
    let parsed: Vec<Option<Cidr>> = cidrs.iter().map(|text| Cidr::sloppy(text)).collect();
    for (at, (text, cidr)) in cidrs.iter().zip(&parsed).enumerate() {
        if cidr.is_none() {
            let reason = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)";
            problems.invalid(&format!("{field}[{at}]"), text, reason);
        }
    }
    if let [Some(one), Some(other)] = parsed.as_slice()
        && one.addr.is_ipv6() == other.addr.is_ipv6()
    {
        problems.invalid(field, cidrs, pair);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut Configuration)) -> String {
        let mut config = Configuration::default();
        config.default_missing();
        change(&mut config);
        config.default_for_platform();
        validate(&config).result().err().unwrap_or_default()
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(problem(|_| {}), "");
        assert_eq!(problem(|config| config.mode = "nftables".into()), "");
    }

    #[test]
    fn problems_are_named_as_upstream_does() {
        type Change = fn(&mut Configuration);
        let cases: [(Change, &str); 12] = [
            (
                |c| c.mode = "ebpf".into(),
                "KubeProxyConfiguration.Mode.ProxyMode: Invalid value: \"ebpf\": must be iptables, ipvs, nftables or blank (blank means the best-available proxy [currently iptables])",
            ),
            (
                |c| c.iptables.masquerade_bit = Some(32),
                "KubeProxyConfiguration.KubeProxyIPTablesConfiguration.MasqueradeBit: Invalid value: 32: must be within the range [0, 31]",
            ),
            (
                |c| c.oom_score_adj = Some(-1001),
                "KubeProxyConfiguration.KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: -1001: must be within the range [-1000, 1000]",
            ),
            (
                |c| c.conntrack.min = Some(-1),
                "KubeProxyConfiguration.KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration.Min: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                |c| {
                    c.mode = "iptables".into();
                    c.iptables.min_sync_period = std::time::Duration::from_secs(60);
                },
                "KubeProxyConfiguration.SyncPeriod: Invalid value: \"1m0s\": must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod",
            ),
            (
                |c| c.bind_address = "here".into(),
                "KubeProxyConfiguration.BindAddress: Invalid value: \"here\": not a valid textual representation of an IP address",
            ),
            (
                |c| c.healthz_bind_address = "1.2.3.4".into(),
                "KubeProxyConfiguration.HealthzBindAddress: Invalid value: \"1.2.3.4\": must be IP:port",
            ),
            (
                |c| c.metrics_bind_address = "[::1]:70000".into(),
                "KubeProxyConfiguration.MetricsBindAddress: Invalid value: \"70000\": must be a valid port",
            ),
            (
                |c| c.node_port_addresses = Some(vec!["10.0.0.0/8".into(), "primary".into()]),
                "KubeProxyConfiguration.NodePortAddresses[1]: Invalid value: \"primary\": can't use both 'primary' and CIDRs",
            ),
            (
                |c| c.detect_local_mode = "BridgeInterface".into(),
                "KubeProxyConfiguration.DetectLocalConfiguration.InterfaceName: Invalid value: \"\": must not be empty",
            ),
            (
                |c| c.detect_local_mode = "Guess".into(),
                "KubeProxyConfiguration.DetectLocalMode: Unsupported value: \"Guess\": supported values: \"ClusterCIDR\", \"NodeCIDR\", \"BridgeInterface\", \"InterfaceNamePrefix\", \"\"",
            ),
            (
                |c| c.cluster_cidr = "10.0.0.0/33".into(),
                "KubeProxyConfiguration.DetectLocalConfiguration.ClusterCIDRs[0]: Invalid value: \"10.0.0.0/33\": must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)",
            ),
        ];
        for (change, want) in cases {
            assert_eq!(problem(change), want);
        }
    }

    #[test]
    fn several_problems_are_told_at_once() {
        let text = problem(|config| {
            config.bind_address = "x".into();
            config.client_connection.burst = -1;
        });
        assert!(text.starts_with('[') && text.contains("Burst") && text.contains("BindAddress"), "{text}");
    }
}
