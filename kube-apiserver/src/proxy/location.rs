//! Where a subresource leads: host, port, path and query behind the apiserver.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::{
    request::{ApiError, ApiResult},
    server::Call,
};

/// Characters that a query value keeps.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// How to speak there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Plain,
    /// TLS without verification.
    Tls,
    /// TLS with our client certificate.
    Kubelet,
}

/// The other side of a proxied request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub scheme: Scheme,
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Location {
    /// Host and port as a URL writes them.
    pub(super) fn authority(&self) -> String {
        let brackets = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        format!("{}{}{}:{}", brackets.0, self.host, brackets.1, self.port)
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn port_number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

/// The kubelet of a node.
async fn kubelet(call: &Call, node: &str) -> ApiResult<Location> {
    let node = call
        .registry
        .core("nodes")?
        .find("", node)
        .await?
        .ok_or_else(|| ApiError::not_found("", "nodes", node))?
        .object;
    let addresses = list(&node, "/status/addresses");
    let by_type = |kind: &String| {
        addresses.iter().find(|address| text(address, "/type") == kind).map(|address| text(address, "/address"))
    };
    let Some(host) = call.server.backends.address_types.iter().find_map(by_type) else {
        let name = text(&node, "/metadata/name");
        return Err(ApiError::internal(format!(
            "no preferred addresses found for node {name}; known addresses: {addresses:?}"
        )));
    };
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(port_number).unwrap_or(10250);
    Ok(Location { scheme: Scheme::Kubelet, host: host.to_owned(), port, path: String::new() })
}

async fn the_pod(call: &Call) -> ApiResult<Value> {
    Ok(call.registry.core("pods")?.get(&call.info.namespace, &call.info.name).await?.object)
}

/// The container that a request means: the named one, or the only one.
pub(super) fn container(call: &Call, pod: &Value) -> ApiResult<String> {
    let names =
        |field: &str| -> Vec<&str> { list(pod, field).iter().map(|container| text(container, "/name")).collect() };
    let main = names("/spec/containers");
    let name = text(pod, "/metadata/name");
    match call.query.get("container").filter(|wanted| !wanted.is_empty()) {
        None => match main.as_slice() {
            [only] => Ok((*only).to_owned()),
            [] => Err(ApiError::bad_request(format!("a container name must be specified for pod {name}"))),
            many => {
                let mut message =
                    format!("a container name must be specified for pod {name}, choose one of: [{}]", many.join(" "));
                let init = names("/spec/initContainers");
                if !init.is_empty() {
                    message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(ApiError::bad_request(message))
            }
        },
        Some(wanted) => {
            let known = ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"];
            if known.iter().any(|field| names(field).contains(&wanted)) {
                return Ok(wanted.to_owned());
            }
            Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}")))
        }
    }
}

/// `a=b&c=d` with escaped values.
fn query(pairs: &[(&str, String)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, QUERY)));
    pairs.collect::<Vec<_>>().join("&")
}

fn is_true(call: &Call, name: &str) -> bool {
    matches!(call.query.get(name), Some("true" | "1" | "t" | "T" | "TRUE" | "True"))
}

/// exec, attach and portforward at the pod's kubelet.
pub(super) async fn streaming(call: &Call, sub: &str) -> ApiResult<Location> {
    let pod = the_pod(call).await?;
    let name = &call.info.name;
    let node = text(&pod, "/spec/nodeName");
    let container = if sub == "portforward" { String::new() } else { container(call, &pod)? };
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let mut pairs = Vec::new();
    if sub != "portforward" {
        let (stdin, stdout, stderr, tty) =
            (is_true(call, "stdin"), is_true(call, "stdout"), is_true(call, "stderr"), is_true(call, "tty"));
        if !stdin && !stdout && !stderr {
            return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        let named = [("input", stdin), ("output", stdout), ("error", stderr && !tty), ("tty", tty)];
        pairs.extend(named.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, "1".to_owned())));
        if sub == "exec" {
            let words: Vec<String> = call.query.all("command").map(str::to_owned).collect();
            if words.is_empty() {
                return Err(ApiError::bad_request("you must specify at least one command for the container"));
            }
            pairs.extend(words.into_iter().map(|word| ("command", word)));
        }
    } else {
        pairs.extend(call.query.all("ports").map(|port| ("port", port.to_owned())));
    }
    let namespace = &call.info.namespace;
    let path = match sub {
        "portforward" => format!("/portForward/{namespace}/{name}"),
        _ => format!("/{sub}/{namespace}/{name}/{container}"),
    };
    let path = if pairs.is_empty() { path } else { format!("{path}?{}", query(&pairs)) };
    Ok(Location { path, ..kubelet(call, node).await? })
}

/// The pod's log at its kubelet; `None` while it has no node.
pub(super) async fn log(call: &Call) -> ApiResult<Option<Location>> {
    let pod = the_pod(call).await?;
    let container = container(call, &pod)?;
    let node = text(&pod, "/spec/nodeName");
    if node.is_empty() {
        return Ok(None);
    }
    let passed = ["follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"];
    let pairs: Vec<(&str, String)> = passed
        .iter()
        .filter_map(|name| Some((*name, call.query.get(name).filter(|value| !value.is_empty())?.to_owned())))
        .collect();
    let path = format!("/containerLogs/{}/{}/{container}?{}", call.info.namespace, call.info.name, query(&pairs));
    Ok(Some(Location { path: path.trim_end_matches('?').to_owned(), ..kubelet(call, node).await? }))
}

/// `name`, `name:port` or `scheme:name:port`.
fn split_name(name: &str) -> ApiResult<(Scheme, &str, &str)> {
    let parts: Vec<&str> = name.split(':').collect();
    let scheme = |text: &str| match text {
        "" | "http" => Some(Scheme::Plain),
        "https" => Some(Scheme::Tls),
        _ => None,
    };
    let split = match parts.as_slice() {
        [name] => Some((Scheme::Plain, *name, "")),
        [name, port] => Some((Scheme::Plain, *name, *port)),
        [kind, name, port] => scheme(kind).map(|scheme| (scheme, *name, *port)),
        _ => None,
    };
    split.ok_or_else(|| ApiError::bad_request(format!("invalid proxy request {name:?}")))
}

/// What follows `/proxy` in the URL, with the query.
fn remainder(call: &Call) -> String {
    let rest = call.info.parts.get(3..).unwrap_or_default().join("/");
    let slash = if call.info.path.ends_with('/') && !rest.is_empty() { "/" } else { "" };
    let pairs: Vec<(&str, String)> =
        call.query.pairs().iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let mark = if pairs.is_empty() { "" } else { "?" };
    format!("/{rest}{slash}{mark}{}", query(&pairs))
}

/// A port of a pod.
pub(super) async fn pod(call: &Call) -> ApiResult<Location> {
    let (scheme, name, port) = split_name(&call.info.name)?;
    let pod = call.registry.core("pods")?.get(&call.info.namespace, name).await?.object;
    let port = if port.is_empty() {
        let first = list(&pod, "/spec/containers").iter().flat_map(|container| list(container, "/ports")).next();
        first.and_then(|port| port_number(&port["containerPort"]))
    } else {
        port.parse().ok().or_else(|| {
            let mut ports = list(&pod, "/spec/containers").iter().flat_map(|container| list(container, "/ports"));
            ports
                .find(|candidate| text(candidate, "/name") == port)
                .and_then(|port| port_number(&port["containerPort"]))
        })
    };
    let host = text(&pod, "/status/podIP");
    if host.is_empty() {
        return Err(ApiError::bad_request(format!("pod {name} does not have an address yet")));
    }
    Ok(Location { scheme, host: host.to_owned(), port: port.unwrap_or(80), path: remainder(call) })
}

/// A ready endpoint of a service, chosen at random.
pub(super) async fn service(call: &Call) -> ApiResult<Location> {
    let (scheme, name, port) = split_name(&call.info.name)?;
    let namespace = &call.info.namespace;
    let service = call.registry.core("services")?.get(namespace, name).await?.object;
    let ports = list(&service, "/spec/ports");
    let wanted = ports.iter().find(|candidate| {
        let number = candidate["port"].as_u64().map(|number| number.to_string());
        port.is_empty() || text(candidate, "/name") == port || number.as_deref() == Some(port)
    });
    let Some(wanted) = wanted else {
        return Err(ApiError::unavailable(format!("no service port {port:?} found for service {name:?}")));
    };
    let port_name = text(wanted, "/name");
    let endpoints =
        call.registry.core("endpoints")?.find(namespace, name).await?.map(|stored| stored.object).unwrap_or_default();
    let mut candidates = Vec::new();
    for subset in list(&endpoints, "/subsets") {
        let port = list(subset, "/ports")
            .iter()
            .find(|port| text(port, "/name") == port_name)
            .and_then(|port| port_number(&port["port"]));
        if let Some(port) = port {
            candidates.extend(list(subset, "/addresses").iter().map(|address| (text(address, "/ip").to_owned(), port)));
        }
    }
    if candidates.is_empty() {
        return Err(ApiError::unavailable(format!("no endpoints available for service {name:?}")));
    }
    let (host, port) = candidates.swap_remove(rand::random_range(0..candidates.len()));
    Ok(Location { scheme, host, port, path: remainder(call) })
}

/// A node's kubelet, or another port of the node.
pub(super) async fn node(call: &Call) -> ApiResult<Location> {
    let (scheme, name, port) = split_name(&call.info.name)?;
    let kubelet = kubelet(call, name).await?;
    let path = remainder(call);
    match port.parse::<u16>() {
        Ok(port) if port != kubelet.port => Ok(Location { scheme, port, path, ..kubelet }),
        _ => Ok(Location { path, ..kubelet }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_scheme_and_port() {
        assert_eq!(split_name("web").unwrap(), (Scheme::Plain, "web", ""));
        assert_eq!(split_name("web:80").unwrap(), (Scheme::Plain, "web", "80"));
        assert_eq!(split_name("https:web:443").unwrap(), (Scheme::Tls, "web", "443"));
        assert_eq!(split_name("https:web:").unwrap(), (Scheme::Tls, "web", ""));
        assert!(split_name("ftp:web:1").is_err() && split_name("a:b:c:d").is_err());
    }

    #[test]
    fn query_values_are_escaped() {
        assert_eq!(query(&[("command", "a b&c".into()), ("input", "1".into())]), "command=a%20b%26c&input=1");
    }
}
