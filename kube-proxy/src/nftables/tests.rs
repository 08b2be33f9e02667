//! The rendered table, judged by nft and the kernel in a network namespace of its own (needs root).

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::json;

use super::{
    TABLE,
    render::{Family, Settings, render},
    ruleset::{Ruleset, difference, replace},
};
use crate::model::{Here, desired};

fn service(spec: serde_json::Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec,
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}}))
    .unwrap()
}

fn slice(addresses: &[(&str, &str)]) -> EndpointSlice {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|(ip, node)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}}))
        .collect();
    serde_json::from_value(
        json!({"metadata": {"name": "web-1", "namespace": "shop"}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}),
    )
    .unwrap()
}

fn rules(service: &Service, slice: &EndpointSlice) -> Ruleset {
    let slices = BTreeMap::from([(("shop".to_owned(), "web".to_owned()), vec![slice])]);
    let here = Here { node: "n1".into(), zone: None };
    let settings =
        Settings { cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()], masquerade_bit: 14, ..Default::default() };
    render(&desired(&[service], &slices, &here, false), &settings, Family::V4)
}

fn cases() -> Vec<(&'static str, Service)> {
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]);
    let base = |extra: serde_json::Value| {
        let mut spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "ports": ports, "externalIPs": ["198.51.100.9"]});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        service(spec)
    };
    vec![
        (
            "cluster ip",
            service(json!({"type": "ClusterIP", "clusterIP": "10.96.0.20", "ports": [{"name": "http", "port": 80}]})),
        ),
        ("everything external", base(json!({}))),
        (
            "affinity",
            base(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}})),
        ),
        (
            "local",
            base(
                json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "healthCheckNodePort": 32000}),
            ),
        ),
        ("source ranges", base(json!({"loadBalancerSourceRanges": ["203.0.113.0/24", "10.0.0.0/8"]}))),
    ]
}

/// Runs scripts one after another in a fresh network namespace.
fn kernel_accepts(scripts: &[String]) -> Result<(), String> {
    let mut shell = Command::new("unshare")
        .args(["--net", "sh", "-ec", "while IFS= read -r f; do nft -f \"$f\"; done"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let files: Vec<tempfile::NamedTempFile> = scripts
        .iter()
        .map(|script| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(script.as_bytes()).unwrap();
            file
        })
        .collect();
    let mut stdin = shell.stdin.take().unwrap();
    for file in &files {
        writeln!(stdin, "{}", file.path().display()).unwrap();
    }
    drop(stdin);
    let output = shell.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn the_kernel_accepts_every_table_and_every_change_between_them() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root, and CI has it");
        eprintln!("skipped: needs root");
        return;
    }
    let table = format!("ip {TABLE}");
    let none = slice(&[]);
    let some = slice(&[("10.244.0.5", "n1"), ("10.244.1.6", "n2"), ("10.244.1.7", "n2")]);
    let remote = slice(&[("10.244.1.6", "n2")]);
    for (name, service) in cases() {
        let states = [&none, &some, &remote, &none, &some].map(|slice| rules(&service, slice));
        let mut scripts = vec![replace(&table, &states[0])];
        scripts.extend(states.windows(2).map(|pair| difference(&table, &pair[0], &pair[1])));
        scripts.push(difference(&table, &states[4], &Ruleset::default()));
        if let Err(error) = kernel_accepts(&scripts) {
            panic!("{name}: {error}\n{}", scripts.join("\n----\n"));
        }
    }
}

#[test]
fn a_change_of_endpoints_touches_only_its_service() {
    let (_, service) = cases().remove(0);
    let one = rules(&service, &slice(&[("10.244.0.5", "n1")]));
    let two = rules(&service, &slice(&[("10.244.0.5", "n1"), ("10.244.1.6", "n2")]));
    let script = difference("ip t", &one, &two);
    assert_eq!(script.lines().count(), 3, "{script}");
    assert!(script.contains("numgen random mod 2 map { 0 : 10.244.0.5 . 8080, 1 : 10.244.1.6 . 8080 }"), "{script}");
}

#[test]
fn a_service_without_endpoints_is_rejected() {
    let (_, service) = cases().remove(0);
    let rules = rules(&service, &slice(&[]));
    assert_eq!(rules.sets["no-endpoint-services"].elements["10.96.0.20 . tcp . 80"], "goto reject-chain");
    assert!(rules.sets["service-ips"].elements.is_empty());
}
