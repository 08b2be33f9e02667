//! What a URL means: verb, group, version, namespace, resource, name, subresource.
//!
//! Follows upstream's rules, so that authorization decides on the same attributes.

use percent_encoding::percent_decode_str;

use super::query::Query;

/// The attributes of one request that authorization, admission and routing decide on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// False for paths like `/healthz` or `/apis/apps`.
    pub is_resource: bool,
    /// The path as sent (percent-decoded).
    pub path: String,
    /// API verb (`list`, `watch`, ...) or, for other paths, the lower-case HTTP method.
    pub verb: String,
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace; empty for cluster-wide requests.
    pub namespace: String,
    /// Plural resource.
    pub resource: String,
    /// Subresource, empty if none.
    pub subresource: String,
    /// Object's name, empty for collections.
    pub name: String,
    /// Segments from the resource on.
    pub parts: Vec<String>,
    /// True for the deprecated `/watch/` prefix.
    pub watch_prefix: bool,
    /// Field selector of a list, watch or deletecollection, unparsed.
    pub field_selector: String,
}

impl RequestInfo {
    /// Parses method, path and query.
    ///
    /// # Errors
    /// The text of upstream's 400 when a special prefix is followed by nothing.
    pub fn parse(method: &str, raw_path: &str, query: &Query) -> Result<Self, String> {
        let path = percent_decode_str(raw_path).decode_utf8_lossy().into_owned();
        let mut info = Self { verb: method.to_lowercase(), ..Self::default() };
        let trimmed = path.trim_matches('/');
        let mut parts: Vec<&str> = if trimmed.is_empty() { Vec::new() } else { trimmed.split('/').collect() };
        let grouped = match parts.first() {
            Some(&"api") => false,
            Some(&"apis") => true,
            _ => return Ok(info.with_path(&path)),
        };
        if parts.len() < if grouped { 4 } else { 3 } {
            return Ok(info.with_path(&path));
        }
        parts.remove(0);
        if grouped {
            info.group = parts.remove(0).to_owned();
        }
        info.is_resource = true;
        info.version = parts.remove(0).to_owned();
        info.verb = verb_of(method).to_owned();
        if matches!(parts[0], "watch" | "proxy") {
            if parts.len() < 2 {
                return Err(format!("unable to determine kind and namespace from url, {raw_path}"));
            }
            info.verb = parts.remove(0).to_owned();
            info.watch_prefix = true;
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].to_owned();
            if parts.len() > 2 && !matches!(parts[2], "status" | "finalize") {
                parts.drain(..2);
            }
        }
        info.resource = parts[0].to_owned();
        info.name = parts.get(1).copied().unwrap_or_default().to_owned();
        if info.verb != "proxy" {
            info.subresource = parts.get(2).copied().unwrap_or_default().to_owned();
        }
        info.parts = parts.into_iter().map(str::to_owned).collect();
        info.settle_collection_verb(query);
        Ok(info.with_path(&path))
    }

    fn with_path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    fn settle_collection_verb(&mut self, query: &Query) {
        if !self.name.is_empty() {
            return;
        }
        match self.verb.as_str() {
            "get" => {
                let watch = query.get("watch").is_some_and(|v| !matches!(v.to_lowercase().as_str(), "false" | "0"));
                self.verb = if watch { "watch" } else { "list" }.to_owned();
                if let Some(name) = query.get("fieldSelector").and_then(exact_name) {
                    self.name = name;
                }
            }
            "delete" => self.verb = "deletecollection".to_owned(),
            _ => {}
        }
        if !self.watch_prefix && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            query.get("fieldSelector").unwrap_or_default().clone_into(&mut self.field_selector);
        }
    }

    /// True when the request concerns one object by its path.
    #[must_use]
    pub fn names_object(&self) -> bool {
        self.parts.len() >= 2
    }

    /// The label of the `resource` in metrics and messages: `pods/status`.
    #[must_use]
    pub fn resource_path(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// Requests that may last: not bounded by the request timeout, nor counted as in flight.
    #[must_use]
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch"
            || self.verb == "proxy"
            || (self.is_resource
                && matches!(self.subresource.as_str(), "exec" | "attach" | "portforward" | "log" | "proxy"))
            || (!self.is_resource && self.path.starts_with("/debug/pprof/"))
    }
}

fn verb_of(method: &str) -> &'static str {
    match method {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

/// The name that a field selector demands exactly, if it is a usable path segment.
fn exact_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name==").or_else(|| term.strip_prefix("metadata.name="))?;
        let usable = !value.is_empty() && value != "." && value != ".." && !value.contains(['/', '%']);
        usable.then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, url: &str) -> RequestInfo {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        RequestInfo::parse(method, path, &Query::parse(query)).unwrap()
    }

    #[test]
    fn resource_paths() {
        for (method, url, want) in [
            ("GET", "/api/v1/namespaces", ("list", "", "", "namespaces", "", "")),
            ("GET", "/api/v1/namespaces/a", ("get", "", "a", "namespaces", "a", "")),
            ("PUT", "/api/v1/namespaces/a/status", ("update", "", "a", "namespaces", "a", "status")),
            ("GET", "/api/v1/namespaces/a/pods", ("list", "", "a", "pods", "", "")),
            ("GET", "/api/v1/pods?watch=true", ("watch", "", "", "pods", "", "")),
            ("GET", "/api/v1/pods?watch=0", ("list", "", "", "pods", "", "")),
            ("DELETE", "/api/v1/namespaces/a/pods", ("deletecollection", "", "a", "pods", "", "")),
            ("GET", "/api/v1/namespaces/a/pods/b/log", ("get", "", "a", "pods", "b", "log")),
            ("POST", "/apis/apps/v1/namespaces/a/deployments", ("create", "apps", "a", "deployments", "", "")),
            ("GET", "/api/v1/watch/namespaces/a/pods", ("watch", "", "a", "pods", "", "")),
            ("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn1", ("list", "", "", "nodes", "n1", "")),
        ] {
            let info = parse(method, url);
            assert!(info.is_resource, "{url}");
            let got = (
                info.verb.as_str(),
                info.group.as_str(),
                info.namespace.as_str(),
                info.resource.as_str(),
                info.name.as_str(),
                info.subresource.as_str(),
            );
            assert_eq!(got, want, "{method} {url}");
        }
    }

    #[test]
    fn other_paths() {
        for url in ["/", "/healthz", "/apis", "/apis/apps", "/apis/apps/v1", "/api/v1", "/openapi/v2"] {
            let info = parse("GET", url);
            assert!(!info.is_resource, "{url}");
            assert_eq!(info.verb, "get");
        }
    }
}
