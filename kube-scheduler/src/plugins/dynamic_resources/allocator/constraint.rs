//! Constraints between the devices of one claim.

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceConstraint};

/// A constraint and the values of the devices picked under it so far.
#[derive(Clone, Debug)]
pub struct Constraint {
    requests: Vec<String>,
    attribute: String,
    distinct: bool,
    picked: Vec<Scalar>,
}

/// An attribute's value. Versions compare as text: theirs is in minimal form.
#[derive(Clone, Debug, PartialEq)]
enum Scalar {
    Text(String),
    Number(i64),
    Truth(bool),
    Version(String),
}

fn scalar(attribute: &DeviceAttribute) -> Option<Scalar> {
    match attribute {
        DeviceAttribute { string: Some(value), .. } => Some(Scalar::Text(value.clone())),
        DeviceAttribute { int: Some(value), .. } => Some(Scalar::Number(*value)),
        DeviceAttribute { bool: Some(value), .. } => Some(Scalar::Truth(*value)),
        DeviceAttribute { version: Some(value), .. } => Some(Scalar::Version(value.clone())),
        _ => None,
    }
}

/// An attribute by its full name; those of the driver's own domain may be written without it.
fn attribute(device: &Device, driver: &str, name: &str) -> Option<Scalar> {
    let attributes = device.attributes.as_ref()?;
    let own = || name.split_once('/').filter(|(domain, _)| *domain == driver).and_then(|(_, id)| attributes.get(id));
    attributes.get(name).or_else(own).and_then(scalar)
}

impl Constraint {
    /// Parses a constraint; `None` when it is of no kind that this build knows.
    pub fn of(api: &DeviceConstraint) -> Option<Self> {
        let (attribute, distinct) = match (&api.match_attribute, &api.distinct_attribute) {
            (Some(name), _) => (name.clone(), false),
            (None, Some(name)) => (name.clone(), true),
            (None, None) => return None,
        };
        Some(Self { requests: api.requests.clone().unwrap_or_default(), attribute, distinct, picked: Vec::new() })
    }

    /// Whether it is about devices of a request (named also by its parent).
    fn concerns(&self, parent: Option<&str>, request: &str) -> bool {
        self.requests.is_empty()
            || self.requests.iter().any(|name| match parent {
                None => name == request,
                Some(parent) => {
                    name == parent || name.split_once('/').is_some_and(|(a, b)| a == parent && b == request)
                }
            })
    }

    /// Picks a device for a request; false when the constraint would be violated.
    pub fn pick(&mut self, (parent, request): (Option<&str>, &str), device: &Device, driver: &str) -> bool {
        if !self.concerns(parent, request) {
            return true;
        }
        let Some(value) = attribute(device, driver, &self.attribute) else { return false };
        let fits = match self.distinct {
            true => !self.picked.contains(&value),
            false => self.picked.first().is_none_or(|first| *first == value),
        };
        if fits {
            self.picked.push(value);
        }
        fits
    }

    /// Takes back the last pick, which was for this request.
    pub fn unpick(&mut self, (parent, request): (Option<&str>, &str)) {
        if self.concerns(parent, request) {
            self.picked.pop();
        }
    }
}
