//! The default roles and bindings, read from `policy.txt`, as JSON objects.

use serde_json::{Value, json};

/// An object of the RBAC group.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Its resource.
    pub resource: &'static str,
    /// Namespace, empty for cluster-wide ones.
    pub namespace: &'static str,
    /// Name.
    pub name: &'static str,
    /// The whole object.
    pub object: Value,
}

const TEXT: &str = include_str!("policy.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// All objects, roles before bindings.
#[must_use]
pub fn objects() -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    for line in TEXT.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.strip_prefix("  ") {
            Some(detail) => {
                if let Some(last) = objects.last_mut() {
                    add_detail(&mut last.object, detail);
                }
            }
            None => objects.extend(head(line)),
        }
    }
    objects
}

/// The rules of one default ClusterRole.
#[must_use]
pub fn cluster_role_rules(name: &str) -> Value {
    let found = objects().into_iter().find(|o| o.resource == "clusterroles" && o.name == name);
    found.map(|o| o.object["rules"].clone()).unwrap_or_default()
}

fn head(line: &'static str) -> Option<Object> {
    let mut words = line.split(' ');
    let (resource, kind, namespaced) = match words.next()? {
        "clusterrole" => ("clusterroles", "ClusterRole", false),
        "role" => ("roles", "Role", true),
        "clusterrolebinding" => ("clusterrolebindings", "ClusterRoleBinding", false),
        "rolebinding" => ("rolebindings", "RoleBinding", true),
        _ => return None,
    };
    let namespace = if namespaced { words.next()? } else { "" };
    let name = words.next()?;
    let mut object = json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": {
            "name": name,
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        },
    });
    if namespaced {
        object["metadata"]["namespace"] = namespace.into();
    }
    for word in words {
        match word.split_once('=')? {
            ("into", target) => {
                object["metadata"]["labels"][format!("{GROUP}/aggregate-to-{target}")] = "true".into();
            }
            (kind, role) => object["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": role}),
        }
    }
    Some(Object { resource, namespace, name, object })
}

fn add_detail(object: &mut Value, detail: &str) {
    let mut words = detail.split(' ');
    let (Some(first), Some(second)) = (words.next(), words.next()) else { return };
    let list = |text: &str| -> Vec<String> {
        text.split(',').map(|s| if s == "core" { String::new() } else { s.to_owned() }).collect()
    };
    let push = |object: &mut Value, field: &str, value: Value| match object[field].as_array_mut() {
        Some(list) => list.push(value),
        None => object[field] = json!([value]),
    };
    match first {
        "aggregate" => {
            let selector = json!({"matchLabels": {format!("{GROUP}/aggregate-to-{second}"): "true"}});
            object["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
        }
        "User" | "Group" => {
            push(object, "subjects", json!({"kind": first, "apiGroup": GROUP, "name": second}));
        }
        "ServiceAccount" => {
            let (namespace, name) = second.split_once('/').unwrap_or(("", second));
            push(object, "subjects", json!({"kind": first, "name": name, "namespace": namespace}));
        }
        verbs => {
            let target = words.next().unwrap_or_default();
            let mut rule = json!({"verbs": list(verbs)});
            if second == "url" {
                rule["nonResourceURLs"] = list(target).into();
            } else {
                rule["apiGroups"] = list(second).into();
                rule["resources"] = list(target).into();
            }
            if let Some(names) = words.next().and_then(|w| w.strip_prefix("names=")) {
                rule["resourceNames"] = list(names).into();
            }
            push(object, "rules", rule);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_complete() {
        let objects = objects();
        let find = |resource: &str, name: &str| {
            &objects.iter().find(|o| o.resource == resource && o.name == name).unwrap().object
        };
        let admin = find("clusterroles", "cluster-admin");
        assert_eq!(admin["rules"][0], json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        assert_eq!(admin["rules"][1], json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        let edit = find("clusterroles", "system:aggregate-to-edit");
        assert_eq!(edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"], "true");
        assert!(find("clusterroles", "view")["aggregationRule"].is_object());
        let binding = find("clusterrolebindings", "system:controller:deployment-controller");
        assert_eq!(binding["subjects"][0]["namespace"], "kube-system");
        assert!(find("clusterroles", "system:node")["rules"].as_array().unwrap().len() > 10);
        for object in &objects {
            let known = if object.resource.ends_with("bindings") { "roleRef" } else { "metadata" };
            assert!(object.object[known].is_object(), "{}", object.name);
        }
    }
}
