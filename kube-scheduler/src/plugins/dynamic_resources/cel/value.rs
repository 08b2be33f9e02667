//! Values of the expression language.

use std::cmp::Ordering;
use std::sync::Arc;

use common::meta::Quantity;
use semver::Version;

/// A value. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`
    Null,
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `uint`
    Uint(u64),
    /// `double`
    Double(f64),
    /// `string`
    String(Arc<str>),
    /// `bytes`
    Bytes(Arc<[u8]>),
    /// `list`
    List(Arc<Vec<Value>>),
    /// `map`
    Map(Arc<Map>),
    /// Kubernetes' quantity.
    Quantity(Quantity),
    /// Kubernetes' semantic version.
    Semver(Arc<Version>),
    /// A type, as `type(x)` answers.
    Type(&'static str),
    /// `optional`
    Optional(Option<Arc<Value>>),
}

/// A map: few entries, searched one by one.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// Keys and values, in the order given.
    pub entries: Vec<(Value, Value)>,
    /// What a look-up of an unknown key yields (device attributes of an unknown domain: an empty map).
    pub default: Option<Value>,
}

impl Map {
    /// The value of a key that is there.
    pub fn entry(&self, key: &Value) -> Option<&Value> {
        self.entries.iter().find(|(other, _)| other == key).map(|(_, value)| value)
    }

    /// The value of a key, or the default.
    pub fn get(&self, key: &Value) -> Option<&Value> {
        self.entry(key).or(self.default.as_ref())
    }
}

impl Value {
    /// A string.
    pub fn text(text: &str) -> Self {
        Self::String(Arc::from(text))
    }

    /// A list.
    pub fn list(values: Vec<Value>) -> Self {
        Self::List(Arc::new(values))
    }

    /// A map without default.
    pub fn map(entries: Vec<(Value, Value)>) -> Self {
        Self::Map(Arc::new(Map { entries, default: None }))
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
        }
    }

    /// How much work a copy or a comparison of it is.
    pub fn weight(&self) -> u64 {
        match self {
            Self::String(text) => text.len() as u64 / 10,
            Self::Bytes(bytes) => bytes.len() as u64 / 10,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.entries.len() as u64,
            _ => 0,
        }
    }

    /// Their order, if they have one. Numbers of all types compare with each other.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        use Value::{Bool, Bytes, Double, Int, String, Uint};
        match (self, other) {
            (Bool(a), Bool(b)) => Some(a.cmp(b)),
            (String(a), String(b)) => Some(a.cmp(b)),
            (Bytes(a), Bytes(b)) => Some(a.cmp(b)),
            (Int(a), Int(b)) => Some(a.cmp(b)),
            (Uint(a), Uint(b)) => Some(a.cmp(b)),
            (Int(a), Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Uint(a), Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Double(a), Double(b)) => a.partial_cmp(b),
            (Double(a), Int(b)) => a.partial_cmp(&(*b as f64)),
            (Double(a), Uint(b)) => a.partial_cmp(&(*b as f64)),
            (Int(a), Double(b)) => (*a as f64).partial_cmp(b),
            (Uint(a), Double(b)) => (*a as f64).partial_cmp(b),
            _ => None,
        }
    }
}

impl PartialEq for Value {
    /// Values of different types are different, but for numbers.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => {
                a.entries.len() == b.entries.len()
                    && a.entries.iter().all(|(key, value)| b.entry(key).is_some_and(|other| other == value))
            }
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a.cmp_precedence(b) == Ordering::Equal,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Optional(a), Self::Optional(b)) => a == b,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }
}
