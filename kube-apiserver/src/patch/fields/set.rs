//! Sets of paths, as trees: what a manager owns, what an update changed.

use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::element::Element;

/// `fieldsV1` deeper than this is not read: objects are not that deep.
const MAX_DEPTH: usize = 120;

/// A set of paths below one place. Nodes are sorted and unique, and none is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Set<'a> {
    pub(super) nodes: Vec<Node<'a>>,
}

/// What a set says about one element.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node<'a> {
    pub element: Element<'a>,
    /// The element itself is in the set.
    pub member: bool,
    /// What is in the set below it.
    pub below: Set<'a>,
}

impl<'a> Node<'a> {
    pub(super) fn leaf(element: Element<'a>) -> Self {
        Self { element, member: true, below: Set::default() }
    }

    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl<'a> Set<'a> {
    /// A set of paths of fields.
    pub fn of_fields(paths: &[&[&'a str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set = set.union(&Self::of_path(path));
        }
        set
    }

    fn of_path(path: &[&'a str]) -> Self {
        let Some((first, rest)) = path.split_first() else { return Self::default() };
        let node = Node { element: Element::field(first), member: rest.is_empty(), below: Self::of_path(rest) };
        Self { nodes: vec![node] }
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds what is known about an element. Cheap when elements come in order.
    pub(super) fn push(&mut self, node: Node<'a>) {
        if node.is_empty() {
            return;
        }
        if self.nodes.last().is_none_or(|last| last.element < node.element) {
            self.nodes.push(node);
            return;
        }
        match self.find(&node.element) {
            Ok(at) => {
                let known = &mut self.nodes[at];
                known.member |= node.member;
                known.below = known.below.union(&node.below);
            }
            Err(at) => self.nodes.insert(at, node),
        }
    }

    fn find(&self, element: &Element<'_>) -> Result<usize, usize> {
        // Elements of any lifetime compare.
        self.nodes.binary_search_by(|node| compare(&node.element, element))
    }

    /// What the set says about an element.
    pub(super) fn get(&self, element: &Element<'_>) -> Option<&Node<'a>> {
        self.find(element).ok().map(|at| &self.nodes[at])
    }

    /// Whether a path of fields is in the set.
    pub fn has(&self, path: &[&str]) -> bool {
        let Some((first, rest)) = path.split_first() else { return false };
        self.get(&Element::field(first))
            .is_some_and(|node| if rest.is_empty() { node.member } else { node.below.has(rest) })
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.zip(other, |left, right| match (left, right) {
            (Some(left), Some(right)) => Some(Node {
                element: left.element.clone(),
                member: left.member || right.member,
                below: left.below.union(&right.below),
            }),
            (one, None) | (None, one) => one.cloned(),
        })
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Set<'_>) -> Self {
        self.zip(other, |left, right| {
            let (left, right) = (left?, right?);
            Some(Node {
                element: left.element.clone(),
                member: left.member && right.member,
                below: left.below.intersection(&right.below),
            })
        })
    }

    /// What is here and not there.
    #[must_use]
    pub fn difference(&self, other: &Set<'_>) -> Self {
        self.zip(other, |left, right| {
            let left = left?;
            Some(Node {
                element: left.element.clone(),
                member: left.member && right.is_none_or(|right| !right.member),
                below: right.map_or_else(|| left.below.clone(), |right| left.below.difference(&right.below)),
            })
        })
    }

    /// What is here and neither there nor below anything that is there.
    #[must_use]
    pub fn recursive_difference(&self, other: &Set<'_>) -> Self {
        self.zip(other, |left, right| {
            let left = left?;
            match right {
                Some(right) if right.member => None,
                Some(right) => Some(Node {
                    element: left.element.clone(),
                    member: left.member,
                    below: left.below.recursive_difference(&right.below),
                }),
                None => Some(left.clone()),
            }
        })
    }

    /// Whether the two have nothing in common.
    pub fn is_disjoint(&self, other: &Set<'_>) -> bool {
        self.nodes.iter().all(|left| {
            other
                .get(&left.element)
                .is_none_or(|right| !(left.member && right.member) && left.below.is_disjoint(&right.below))
        })
    }

    /// Merges two sorted lists of nodes; `combine` sees what both say about an element.
    fn zip<'b>(
        &self,
        other: &Set<'b>,
        combine: impl Fn(Option<&Node<'a>>, Option<&Node<'b>>) -> Option<Node<'a>>,
    ) -> Self {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let (mut left, mut right) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return Self { nodes },
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(left), Some(right)) => compare(&left.element, &right.element),
            };
            let pair = match order {
                Ordering::Less => (left.next(), None),
                Ordering::Equal => (left.next(), right.next()),
                Ordering::Greater => (None, right.next()),
            };
            nodes.extend(combine(pair.0, pair.1).filter(|node| !node.is_empty()));
        }
    }

    /// Every path in the set, as text, in order.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    /// Members of a level come before what is below them.
    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        let path = |node: &Node<'_>| {
            let mut path = prefix.to_owned();
            let _ = write!(path, "{}", node.element);
            path
        };
        paths.extend(self.nodes.iter().filter(|node| node.member).map(path));
        for node in self.nodes.iter().filter(|node| !node.below.is_empty()) {
            node.below.collect(&path(node), paths);
        }
    }

    /// Reads `fieldsV1`.
    ///
    /// # Errors
    /// Why it is malformed.
    pub fn decode(fields: &'a Value) -> Result<Self, String> {
        match fields {
            Value::Object(fields) => decode(fields, 0),
            _ => Err("fieldsV1 is no object".to_owned()),
        }
    }

    /// Writes `fieldsV1`.
    pub fn encode(&self) -> Value {
        Value::Object(self.nodes.iter().map(|node| (node.element.text(), node.encode())).collect())
    }
}

impl Node<'_> {
    fn encode(&self) -> Value {
        let mut below = self.below.encode();
        if self.member
            && !self.below.is_empty()
            && let Some(map) = below.as_object_mut()
        {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        below
    }
}

fn decode(fields: &Map<String, Value>, depth: usize) -> Result<Set<'_>, String> {
    if depth > MAX_DEPTH {
        return Err("exceeded max depth".to_owned());
    }
    let mut set = Set::default();
    for (key, value) in fields {
        if key == "." {
            continue;
        }
        let Some(element) = Element::parse(key)? else { continue };
        let below = match value {
            Value::Object(below) => decode(below, depth + 1)?,
            _ => Set::default(),
        };
        let member = value.get(".").is_some() || below.is_empty();
        set.push(Node { element, member, below });
    }
    Ok(set)
}

fn compare(left: &Element<'_>, right: &Element<'_>) -> Ordering {
    left.cmp(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(fields: &Value) -> Set<'_> {
        Set::decode(fields).unwrap()
    }

    #[test]
    fn fields_round_trip() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:containers": {
            r#"k:{"name":"c"}"#: {".": {}, "f:image": {}, "f:ports": {r#"k:{"containerPort":80,"protocol":"TCP"}"#: {}}}}}});
        assert_eq!(set(&fields).encode(), fields);
        assert_eq!(
            set(&fields).paths(),
            [
                ".metadata.labels",
                ".metadata.labels.a",
                r#".spec.containers[name="c"]"#,
                r#".spec.containers[name="c"].image"#,
                r#".spec.containers[name="c"].ports[containerPort=80,protocol="TCP"]"#,
            ]
        );
    }

    #[test]
    fn malformed_fields_are_refused_and_future_ones_dropped() {
        assert!(Set::decode(&json!([])).is_err());
        assert!(Set::decode(&json!({"spec": {}})).is_err());
        let mut deep = json!({});
        for _ in 0..200 {
            deep = json!({"f:a": deep});
        }
        assert_eq!(Set::decode(&deep), Err("exceeded max depth".to_owned()));
        assert_eq!(set(&json!({"z:new": {}, "f:a": {}})).encode(), json!({"f:a": {}}));
    }

    #[test]
    fn algebra_treats_a_place_and_what_is_below_it_apart() {
        let (a, b) = (json!({"f:x": {".": {}, "f:y": {}}, "f:z": {}}), json!({"f:x": {"f:y": {}, "f:w": {}}}));
        let (a, b) = (set(&a), set(&b));
        assert_eq!(a.union(&b).encode(), json!({"f:x": {".": {}, "f:w": {}, "f:y": {}}, "f:z": {}}));
        assert_eq!(a.intersection(&b).encode(), json!({"f:x": {"f:y": {}}}));
        assert_eq!(a.difference(&b).encode(), json!({"f:x": {}, "f:z": {}}));
        assert_eq!(b.difference(&a).encode(), json!({"f:x": {"f:w": {}}}));
        let x = Set::of_fields(&[&["x"]]);
        assert_eq!(a.recursive_difference(&x).encode(), json!({"f:z": {}}));
        assert_eq!(a.difference(&x).encode(), json!({"f:x": {"f:y": {}}, "f:z": {}}));
        assert!(!a.is_disjoint(&b) && b.is_disjoint(&x));
        assert!(a.has(&["x", "y"]) && !b.has(&["x"]));
    }
}
