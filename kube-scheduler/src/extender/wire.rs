//! What is said to and by extenders. Names are Go's field names; answers are understood in any case, as Go does.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Answer to filter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FilterAnswer {
    /// Nodes that will do, whole.
    pub nodes: Option<NodeList>,
    /// Nodes that will do, by name.
    pub nodenames: Option<Vec<String>>,
    /// Nodes that won't, and why.
    pub failednodes: Option<BTreeMap<String, String>>,
    /// Nodes that won't whatever is preempted.
    pub failedandunresolvablenodes: Option<BTreeMap<String, String>>,
    /// Set when the extender failed.
    pub error: Option<String>,
}

/// A list of nodes, of which only the names matter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeList {
    /// Nodes.
    pub items: Option<Vec<Named>>,
}

/// An object, of which only the name matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    /// metadata
    pub metadata: Name,
}

/// Metadata.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Name {
    /// name
    pub name: String,
}

/// Answer to prioritize: one of these per node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct HostPriority {
    /// Node name.
    pub host: String,
    /// 0 to 10.
    pub score: i64,
}

/// Answer to bind.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct BindAnswer {
    /// Set when the extender failed.
    pub error: Option<String>,
}

/// Answer to preempt.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PreemptAnswer {
    /// By node name.
    pub nodenametometavictims: Option<BTreeMap<String, Option<MetaVictims>>>,
}

/// Victims on one node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MetaVictims {
    /// Pods.
    pub pods: Option<Vec<MetaPod>>,
    /// Broken disruption budgets.
    pub numpdbviolations: i64,
}

/// A pod by uid.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MetaPod {
    /// metadata.uid
    pub uid: String,
}

/// Lower-cases every key. Node names, the only keys that are data, are lower case anyway.
fn fold(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().map(|(key, value)| (key.to_lowercase(), fold(value))).collect(),
        Value::Array(list) => list.into_iter().map(fold).collect(),
        other => other,
    }
}

/// Reads an answer.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    serde_json::from_value(fold(value)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_any_case() {
        for text in [
            r#"{"NodeNames": ["n1"], "FailedNodes": {"n2": "full"}, "Error": ""}"#,
            r#"{"nodenames": ["n1"], "failedNodes": {"n2": "full"}, "nodes": null}"#,
            r#"{"Nodes": {"items": [{"metadata": {"name": "n1"}, "spec": {"podCIDR": "x"}}]}, "FAILEDNODES": {"n2": "full"}}"#,
        ] {
            let answer: FilterAnswer = parse(text.as_bytes()).unwrap();
            let items = answer.nodes.and_then(|nodes| nodes.items).unwrap_or_default();
            let names: Vec<_> = items.into_iter().map(|node| node.metadata.name).collect();
            assert_eq!(answer.nodenames.unwrap_or(names), ["n1"], "{text}");
            assert_eq!(answer.failednodes.unwrap()["n2"], "full", "{text}");
        }
        let list: Vec<HostPriority> = parse(br#"[{"Host": "n1", "Score": 3}]"#).unwrap();
        assert_eq!((list[0].host.as_str(), list[0].score), ("n1", 3));
        assert!(parse::<FilterAnswer>(b"garbage").is_err());
    }
}
