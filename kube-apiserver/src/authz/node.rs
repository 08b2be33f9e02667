//! The Node authorizer: a kubelet reads only what the pods bound to its node refer to.
//!
//! The graph is kept current from the caches of pods, persistent volumes and volume attachments. Mirror pods grant
//! nothing: a node could make them up itself.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use parking_lot::RwLock;
use serde_json::Value;

use super::{Attributes, rules::Rule};
use crate::{authn::User, storage::cache::without_managers};

/// The resources that the graph follows: (group, resource).
pub const RESOURCES: [(&str, &str); 3] =
    [("", "pods"), ("", "persistentvolumes"), ("storage.k8s.io", "volumeattachments")];

/// Resource, namespace, name.
type Key = (&'static str, String, String);

#[derive(Default)]
struct Graph {
    pods: HashMap<PodName, Pod>,
    /// Pods of each node that have changed since it last asked for something, in JSON. Most servers are asked by few
    /// nodes, and when they start by none.
    unread: HashMap<String, HashMap<PodName, Bytes>>,
    /// What pods refer to -> nodes -> how often.
    edges: HashMap<Key, HashMap<String, usize>>,
    volumes: HashMap<String, Volume>,
    attachments: HashMap<String, String>,
}

/// Namespace and name.
type PodName = (String, String);

struct Pod {
    node: String,
    /// What it refers to, as far as it is read.
    refs: Vec<Key>,
}

struct Volume {
    claim: Key,
    secrets: Vec<Key>,
}

/// The Node authorizer.
pub struct NodeAuthorizer {
    graph: RwLock<Graph>,
    rules: Vec<Rule>,
}

/// The node that a user is, if it is one.
#[must_use]
pub fn node_of(user: &User) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|_| user.groups.iter().any(|g| g == "system:nodes"))
}

impl NodeAuthorizer {
    /// `rules` are what every node may do.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { graph: RwLock::default(), rules }
    }

    /// Takes over the current state of a pod, which is on a node (none: not yet) and is read when that node asks for
    /// something; `None` when it is gone.
    pub fn apply_pod(&self, namespace: &str, name: &str, pod: Option<(&str, Bytes)>) {
        self.graph.write().set_pod((namespace.to_owned(), name.to_owned()), pod);
    }

    /// Takes over the current state of a volume or attachment; `None` when it is gone.
    pub fn apply(&self, resource: &str, name: &str, object: Option<&Value>) {
        let mut graph = self.graph.write();
        match resource {
            "persistentvolumes" => {
                match object {
                    Some(object) => graph.volumes.insert(name.to_owned(), volume(object)),
                    None => graph.volumes.remove(name),
                };
            }
            _ => {
                match object.and_then(|o| o["spec"]["nodeName"].as_str()) {
                    Some(node) => graph.attachments.insert(name.to_owned(), node.to_owned()),
                    None => graph.attachments.remove(name),
                };
            }
        }
    }

    /// `Ok` allows; an error is the reason why this authorizer has no opinion (empty for none).
    ///
    /// # Errors
    /// The reason, for the 403.
    pub fn authorize(&self, request: &Attributes<'_>) -> Result<(), String> {
        let Some(node) = node_of(request.user) else { return Err(String::new()) };
        if node.is_empty() {
            return Err(format!("unknown node for user \"{}\"", request.user.name));
        }
        if !request.is_resource {
            return self.by_rules(request);
        }
        match (request.group, request.resource) {
            ("", "secrets") => self.read(node, "secrets", request),
            ("", "configmaps") => self.read(node, "configmaps", request),
            ("", "persistentvolumeclaims") if request.subresource == "status" => match request.verb {
                "update" | "patch" => self.related(node, "persistentvolumeclaims", request),
                _ => Err("can only get/update/patch this type".to_owned()),
            },
            ("", "persistentvolumeclaims") => self.get(node, "persistentvolumeclaims", request),
            ("", "persistentvolumes") => self.get(node, "persistentvolumes", request),
            ("resource.k8s.io", "resourceclaims") => self.get(node, "resourceclaims", request),
            ("storage.k8s.io", "volumeattachments") => self.get(node, "volumeattachments", request),
            ("", "serviceaccounts") => self.service_account(node, request),
            ("coordination.k8s.io", "leases") => lease(node, request),
            ("storage.k8s.io", "csinodes") => csi_node(node, request),
            ("", "nodes") => own_node(node, request),
            ("", "pods") => self.pod(node, request),
            _ => self.by_rules(request),
        }
    }

    fn by_rules(&self, request: &Attributes<'_>) -> Result<(), String> {
        if self.rules.iter().any(|r| r.allows(request)) { Ok(()) } else { Err(String::new()) }
    }

    fn related(&self, node: &str, resource: &'static str, request: &Attributes<'_>) -> Result<(), String> {
        if request.name.is_empty() {
            return Err("No Object name found".to_owned());
        }
        if self.graph.read().unread.contains_key(node) {
            self.graph.write().read(node);
        }
        if self.graph.read().reaches(node, resource, request.namespace, request.name) {
            return Ok(());
        }
        Err(format!("no relationship found between node '{node}' and this object"))
    }

    fn get(&self, node: &str, resource: &'static str, request: &Attributes<'_>) -> Result<(), String> {
        if request.verb != "get" {
            return Err("can only get individual resources of this type".to_owned());
        }
        if !request.subresource.is_empty() {
            return Err("cannot get subresource".to_owned());
        }
        self.related(node, resource, request)
    }

    fn read(&self, node: &str, resource: &'static str, request: &Attributes<'_>) -> Result<(), String> {
        if !matches!(request.verb, "get" | "list" | "watch") {
            return Err("can only read resources of this type".to_owned());
        }
        if !request.subresource.is_empty() {
            return Err("cannot read subresource".to_owned());
        }
        if request.namespace.is_empty() {
            return Err("can only read namespaced object of this type".to_owned());
        }
        self.related(node, resource, request)
    }

    fn service_account(&self, node: &str, request: &Attributes<'_>) -> Result<(), String> {
        if request.verb == "get" && request.subresource.is_empty() {
            return self.read(node, "serviceaccounts", request);
        }
        if request.verb != "create" || request.name.is_empty() {
            return Err("can only create tokens for individual service accounts".to_owned());
        }
        if request.subresource != "token" {
            return Err("can only create token subresource of serviceaccount".to_owned());
        }
        self.related(node, "serviceaccounts", request)
    }

    fn pod(&self, node: &str, request: &Attributes<'_>) -> Result<(), String> {
        match (request.subresource, request.verb) {
            ("", "get") => self.get(node, "pods", request),
            ("", "list" | "watch") => {
                let own = request.field_selector.split(',').any(|term| {
                    term.strip_prefix("spec.nodeName=").map(|v| v.strip_prefix('=').unwrap_or(v)) == Some(node)
                });
                if own {
                    return Ok(());
                }
                if request.name.is_empty() {
                    return Err("can only list/watch pods with spec.nodeName field selector".to_owned());
                }
                self.related(node, "pods", request)
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }
}

fn lease(node: &str, request: &Attributes<'_>) -> Result<(), String> {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".to_owned());
    }
    if request.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    if request.verb != "create" && request.name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn csi_node(node: &str, request: &Attributes<'_>) -> Result<(), String> {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".to_owned());
    }
    if !request.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".to_owned());
    }
    if request.verb != "create" && request.name != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn own_node(node: &str, request: &Attributes<'_>) -> Result<(), String> {
    match (request.subresource, request.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if request.name == node => Ok(()),
        ("", "get" | "list" | "watch") if request.name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", request.name))
        }
        _ => Err(String::new()),
    }
}

impl Graph {
    fn set_pod(&mut self, name: PodName, pod: Option<(&str, Bytes)>) {
        if let Some(Pod { node, refs }) = self.pods.remove(&name) {
            for reference in refs {
                self.unlink(&reference, &node);
            }
            if let Some(unread) = self.unread.get_mut(&node) {
                unread.remove(&name);
            }
        }
        let Some((node, json)) = pod.filter(|(node, _)| !node.is_empty()) else { return };
        self.unread.entry(node.to_owned()).or_default().insert(name.clone(), json);
        self.pods.insert(name, Pod { node: node.to_owned(), refs: Vec::new() });
    }

    /// Reads what has changed on a node.
    fn read(&mut self, node: &str) {
        for (name, json) in self.unread.remove(node).unwrap_or_default() {
            // The cache has read it before; what it cannot read never comes here.
            let Ok(object) = without_managers(&json) else { continue };
            let refs = references(&name.0, &name.1, &object);
            for reference in &refs {
                *self.edges.entry(reference.clone()).or_default().entry(node.to_owned()).or_default() += 1;
            }
            if let Some(pod) = self.pods.get_mut(&name) {
                pod.refs = refs;
            }
        }
    }

    fn unlink(&mut self, reference: &Key, node: &str) {
        let Some(nodes) = self.edges.get_mut(reference) else { return };
        if let Some(count) = nodes.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                nodes.remove(node);
            }
        }
        if nodes.is_empty() {
            self.edges.remove(reference);
        }
    }

    fn linked(&self, node: &str, key: &Key) -> bool {
        self.edges.get(key).is_some_and(|nodes| nodes.contains_key(node))
    }

    fn reaches(&self, node: &str, resource: &'static str, namespace: &str, name: &str) -> bool {
        match resource {
            "volumeattachments" => self.attachments.get(name).is_some_and(|n| n == node),
            "persistentvolumes" => self.volumes.get(name).is_some_and(|v| self.linked(node, &v.claim)),
            _ => {
                let key = (resource, namespace.to_owned(), name.to_owned());
                self.linked(node, &key)
                    || (resource == "secrets"
                        && self.volumes.values().any(|v| v.secrets.contains(&key) && self.linked(node, &v.claim)))
            }
        }
    }
}

/// What a pod lets its node read, each once.
fn references(namespace: &str, name: &str, pod: &Value) -> Vec<Key> {
    let mut refs = HashSet::new();
    let mut add = |resource: &'static str, name: Option<&str>| {
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            refs.insert((resource, namespace.to_owned(), name.to_owned()));
        }
    };
    add("pods", Some(name));
    if pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some() {
        return refs.into_iter().collect();
    }
    let spec = &pod["spec"];
    add("serviceaccounts", spec["serviceAccountName"].as_str());
    for secret in list(&spec["imagePullSecrets"]) {
        add("secrets", secret["name"].as_str());
    }
    for volume in list(&spec["volumes"]) {
        add("persistentvolumeclaims", volume["persistentVolumeClaim"]["claimName"].as_str());
        if volume.get("ephemeral").is_some() {
            add("persistentvolumeclaims", volume["name"].as_str().map(|v| format!("{name}-{v}")).as_deref());
        }
        volume_sources(volume, &mut add);
        for source in list(&volume["projected"]["sources"]) {
            add("secrets", source["secret"]["name"].as_str());
            add("configmaps", source["configMap"]["name"].as_str());
        }
    }
    for containers in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list(&spec[containers]) {
            for env in list(&container["env"]) {
                add("secrets", env["valueFrom"]["secretKeyRef"]["name"].as_str());
                add("configmaps", env["valueFrom"]["configMapKeyRef"]["name"].as_str());
            }
            for env in list(&container["envFrom"]) {
                add("secrets", env["secretRef"]["name"].as_str());
                add("configmaps", env["configMapRef"]["name"].as_str());
            }
        }
    }
    for claim in list(&spec["resourceClaims"]).iter().chain(list(&pod["status"]["resourceClaimStatuses"])) {
        add("resourceclaims", claim["resourceClaimName"].as_str());
    }
    refs.into_iter().collect()
}

/// Secrets and config maps named by one volume or persistent volume source.
fn volume_sources(volume: &Value, add: &mut dyn FnMut(&'static str, Option<&str>)) {
    add("secrets", volume["secret"]["secretName"].as_str());
    add("configmaps", volume["configMap"]["name"].as_str());
    for (kind, source) in volume.as_object().into_iter().flatten() {
        match kind.as_str() {
            "azureFile" => add("secrets", source["secretName"].as_str()),
            "csi" => add("secrets", source["nodePublishSecretRef"]["name"].as_str()),
            _ => add("secrets", source["secretRef"]["name"].as_str()),
        }
    }
}

fn volume(object: &Value) -> Volume {
    let claim = &object["spec"]["claimRef"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let namespace = text(&claim["namespace"]);
    let mut secrets = Vec::new();
    for (_, source) in object["spec"].as_object().into_iter().flatten() {
        for field in ["secretRef", "nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
            let Some(name) = source.get(field).and_then(|r| r["name"].as_str()) else { continue };
            let owner = source[field]["namespace"].as_str().unwrap_or(&namespace);
            secrets.push(("secrets", owner.to_owned(), name.to_owned()));
        }
    }
    Volume { claim: ("persistentvolumeclaims", namespace, text(&claim["name"])), secrets }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_read_what_their_pods_use() {
        let authorizer = NodeAuthorizer::new(Vec::new());
        let pod = json!({"metadata": {}, "spec": { "serviceAccountName": "sa",
            "volumes": [{"name": "a", "secret": {"secretName": "s"}}, {"name": "d", "persistentVolumeClaim": {"claimName": "c"}}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "cm"}}]}]}});
        let json = || Bytes::from(pod.to_string());
        authorizer.apply_pod("ns", "p", Some(("n1", json())));
        let pv = json!({"spec": {"claimRef": {"namespace": "ns", "name": "c"}, "csi": {"nodeStageSecretRef": {"name": "st", "namespace": "kube-system"}}}});
        authorizer.apply("persistentvolumes", "pv", Some(&pv));
        let node = |name: &str| User {
            name: format!("system:node:{name}"),
            groups: vec!["system:nodes".into()],
            ..User::default()
        };
        let (one, two) = (node("n1"), node("n2"));
        let ask = |user: &User, resource: &str, namespace: &str, name: &str| {
            authorizer.authorize(&Attributes::resource(user, "get", ("", resource), namespace, name)).is_ok()
        };
        for (resource, namespace, name) in [
            ("secrets", "ns", "s"),
            ("configmaps", "ns", "cm"),
            ("persistentvolumeclaims", "ns", "c"),
            ("persistentvolumes", "", "pv"),
            ("secrets", "kube-system", "st"),
            ("pods", "ns", "p"),
            ("serviceaccounts", "ns", "sa"),
        ] {
            assert!(ask(&one, resource, namespace, name), "{resource} {name}");
            assert!(!ask(&two, resource, namespace, name), "{resource} {name}");
        }
        assert!(!ask(&one, "secrets", "ns", "other"));
        authorizer.apply_pod("ns", "p", None);
        assert!(!ask(&one, "secrets", "ns", "s"));
        // Twice before anybody asks, and once more after: it counts once.
        authorizer.apply_pod("ns", "p", Some(("n1", json())));
        authorizer.apply_pod("ns", "p", Some(("n2", json())));
        assert!(!ask(&one, "secrets", "ns", "s") && ask(&two, "secrets", "ns", "s"));
        authorizer.apply_pod("ns", "p", Some(("n2", json())));
        assert!(ask(&two, "secrets", "ns", "s"));
        authorizer.apply_pod("ns", "p", Some(("n2", Bytes::from("{}"))));
        assert!(!ask(&two, "secrets", "ns", "s") && ask(&two, "pods", "ns", "p"));
        assert!(ask(&one, "nodes", "", "n1") && !ask(&one, "nodes", "", "n2"));
    }

    #[test]
    fn mirror_pods_grant_nothing() {
        let authorizer = NodeAuthorizer::new(Vec::new());
        let pod = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": {
            "volumes": [{"name": "a", "secret": {"secretName": "s"}}]}});
        authorizer.apply_pod("ns", "p", Some(("n1", Bytes::from(pod.to_string()))));
        let user = User { name: "system:node:n1".into(), groups: vec!["system:nodes".into()], ..User::default() };
        let mut request = Attributes::resource(&user, "get", ("", "secrets"), "ns", "s");
        assert!(authorizer.authorize(&request).is_err());
        (request.resource, request.verb, request.field_selector) = ("pods", "list", "spec.nodeName=n1");
        assert!(authorizer.authorize(&request).is_ok());
        request.field_selector = "spec.nodeName=n2";
        request.name = "";
        assert!(authorizer.authorize(&request).is_err());
    }
}
