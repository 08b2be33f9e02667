//! Who owns an element: two Services may want the same external address, or have the same pod as an endpoint. The first
//! one gets it; when it lets go, the next one takes over.

use std::collections::HashMap;

use super::element::{Key, Value};
use crate::model::ServiceKey;

/// Owners of elements.
#[derive(Debug, Default)]
pub(super) struct Claims {
    owners: HashMap<Key, Claim>,
}

#[derive(Debug)]
struct Claim {
    owner: ServiceKey,
    /// Who else wants it, and for what; seldom anybody.
    waiting: Vec<(ServiceKey, Value)>,
}

impl Claims {
    /// Claims an element; true when it is now theirs.
    pub(super) fn acquire(&mut self, key: Key, owner: &ServiceKey, value: &Value) -> bool {
        match self.owners.get_mut(&key) {
            None => {
                self.owners.insert(key, Claim { owner: owner.clone(), waiting: Vec::new() });
                true
            }
            Some(claim) if claim.owner == *owner => true,
            Some(claim) => {
                claim.waiting.retain(|(other, _)| other != owner);
                claim.waiting.push((owner.clone(), value.clone()));
                false
            }
        }
    }

    /// Lets go of an element. `None` if it was not theirs, else what the next owner wants with it.
    pub(super) fn release(&mut self, key: &Key, owner: &ServiceKey) -> Option<Option<Value>> {
        let claim = self.owners.get_mut(key)?;
        if claim.owner != *owner {
            claim.waiting.retain(|(other, _)| other != owner);
            return None;
        }
        if claim.waiting.is_empty() {
            self.owners.remove(key);
            return Some(None);
        }
        let (next, value) = claim.waiting.remove(0);
        claim.owner = next;
        Some(Some(value))
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.owners.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    #[test]
    fn the_first_has_it_until_it_lets_go() {
        let (one, two): (ServiceKey, ServiceKey) = ("ns/one".into(), "ns/two".into());
        let key = Key::NodePort(Protocol::Tcp, 80);
        let goto = |name: &str| Value::Goto(name.to_owned());
        let mut claims = Claims::default();
        assert!(claims.acquire(key, &one, &goto("one")));
        assert!(claims.acquire(key, &one, &goto("one again")));
        assert!(!claims.acquire(key, &two, &goto("two")));
        assert!(!claims.acquire(key, &two, &goto("two again")));
        assert_eq!(claims.release(&key, &one), Some(Some(goto("two again"))));
        assert_eq!(claims.release(&key, &one), None);
        assert_eq!(claims.release(&key, &two), Some(None));
        assert_eq!(claims.release(&key, &two), None);
    }

    #[test]
    fn who_waits_may_leave() {
        let (one, two): (ServiceKey, ServiceKey) = ("ns/one".into(), "ns/two".into());
        let key = Key::NodePort(Protocol::Tcp, 80);
        let mut claims = Claims::default();
        claims.acquire(key, &one, &Value::Drop);
        claims.acquire(key, &two, &Value::Drop);
        assert_eq!(claims.release(&key, &two), None);
        assert_eq!(claims.release(&key, &one), Some(None));
    }
}
