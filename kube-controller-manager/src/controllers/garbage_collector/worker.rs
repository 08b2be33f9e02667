//! What happens to one object that was put on a queue. The graph proposes, the server's answer decides.

use futures::{StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PropagationPolicy;

use super::Collector;
use super::api::{CollectError, Meta};
use super::graph::{Identity, Node, Uid};
use super::monitors::owner;
use crate::shared::meta::MetaExt;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// An object's owners as the server knows them.
#[derive(Debug, Default)]
struct Owners {
    /// Alive.
    solid: usize,
    /// Gone, or never there.
    dangling: Vec<String>,
    /// Being deleted in the foreground: wait for this object to go.
    waiting: Vec<String>,
}

/// What to do with an object.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Alive through others: take off the owners that are gone or going.
    DropOwners(Vec<String>),
    /// Its owner waits for it, and it has dependents of its own.
    DeleteInForeground,
    /// As its own finalizers say, else in the background.
    Delete,
}

fn verdict(owners: Owners, has_dependents: bool) -> Verdict {
    let Owners { solid, mut dangling, mut waiting } = owners;
    if solid > 0 {
        dangling.append(&mut waiting);
        return if dangling.is_empty() { Verdict::Keep } else { Verdict::DropOwners(dangling) };
    }
    if !waiting.is_empty() && has_dependents { Verdict::DeleteInForeground } else { Verdict::Delete }
}

fn has_finalizer(meta: &Meta, finalizer: &str) -> bool {
    meta.metadata.finalizers.iter().flatten().any(|f| f == finalizer)
}

impl Collector {
    /// Deletes the object if nothing owns it any more.
    pub(super) async fn attempt_to_delete(&self, uid: &Uid) -> Result<(), CollectError> {
        let Some(node) = self.graph.lock().get(uid) else { return Ok(()) };
        match self.examine(&node).await {
            Err(CollectError::NamespacedOwner) => {
                tracing::debug!(uid = &**uid, "a cluster-scoped object refers to a namespaced owner; left alone");
                Ok(())
            }
            Err(error) => Err(error),
            // Keep asking until a watch has shown the object or the server has denied it.
            Ok(()) if self.graph.lock().get(uid).is_some_and(|n| n.is_virtual) => Err(CollectError::NotObserved),
            Ok(()) => Ok(()),
        }
    }

    async fn examine(&self, node: &Node) -> Result<(), CollectError> {
        let identity = &node.identity;
        if node.deleting && !node.deleting_dependents {
            return Ok(());
        }
        let Some(live) = self.live(identity).await? else {
            self.verified_absent(identity);
            return Ok(());
        };
        if node.deleting_dependents {
            return self.process_deleting_dependents(identity).await;
        }
        let references = live.metadata.owner_references.clone().unwrap_or_default();
        if references.is_empty() {
            return Ok(());
        }
        let owners = self.classify(identity, &references).await?;
        let existed = match verdict(owners, !node.dependents.is_empty()) {
            Verdict::Keep => true,
            Verdict::DropOwners(uids) => {
                self.drop_owners(identity, &uids).await?;
                true
            }
            Verdict::DeleteInForeground => {
                let cycle = self.graph.lock().dependents(&identity.uid).iter().any(|d| d.deleting_dependents);
                if cycle {
                    // A dependent waits for us as we would wait for it: let nobody block.
                    self.unblock_owners(identity, &live).await?;
                    let Some(now) = self.live(identity).await? else { return Ok(()) };
                    self.delete_object(identity, &now, PropagationPolicy::Foreground).await?
                } else {
                    self.delete_object(identity, &live, PropagationPolicy::Foreground).await?
                }
            }
            Verdict::Delete => {
                let policy = match (has_finalizer(&live, ORPHAN), has_finalizer(&live, FOREGROUND)) {
                    (true, _) => PropagationPolicy::Orphan,
                    (_, true) => PropagationPolicy::Foreground,
                    _ => PropagationPolicy::Background,
                };
                self.delete_object(identity, &live, policy).await?
            }
        };
        if !existed {
            self.verified_absent(identity);
        }
        Ok(())
    }

    /// An owner in foreground deletion goes when the last dependent that blocks it is gone.
    async fn process_deleting_dependents(&self, identity: &Identity) -> Result<(), CollectError> {
        let blocking = self.graph.lock().blocking_dependents(&identity.uid);
        if blocking.is_empty() {
            return self.remove_finalizer(identity, FOREGROUND).await;
        }
        for dependent in blocking.into_iter().filter(|d| !d.deleting_dependents) {
            self.delete.add(dependent.identity.uid);
        }
        Ok(())
    }

    async fn classify(&self, identity: &Identity, references: &[OwnerReference]) -> Result<Owners, CollectError> {
        let mut owners = Owners::default();
        for reference in references {
            match self.owner_state(identity, reference).await? {
                None => owners.dangling.push(reference.uid.clone()),
                Some(live) if live.is_deleting() && has_finalizer(&live, FOREGROUND) => {
                    owners.waiting.push(reference.uid.clone());
                }
                Some(_) => owners.solid += 1,
            }
        }
        Ok(owners)
    }

    /// The owner that a reference names, if it exists.
    async fn owner_state(
        &self,
        dependent: &Identity,
        reference: &OwnerReference,
    ) -> Result<Option<Meta>, CollectError> {
        let mut named = owner(reference).identity_in(&dependent.namespace);
        let cluster = Identity { namespace: "".into(), ..named.clone() };
        {
            let mut graph = self.graph.lock();
            if graph.absent().contains(&named) || graph.absent().contains(&cluster) {
                return Ok(None);
            }
        }
        let served = self.served(&reference.api_version, &reference.kind)?;
        if !served.namespaced {
            named = cluster;
        } else if dependent.namespace.is_empty() {
            return Err(CollectError::NamespacedOwner);
        }
        let live = self.live(&named).await?;
        if live.is_none() {
            self.graph.lock().absent().add(named);
        }
        Ok(live)
    }

    /// Takes the owner off its dependents, then lets the owner go.
    pub(super) async fn attempt_to_orphan(&self, uid: &Uid) -> Result<(), CollectError> {
        let (node, dependents) = {
            let graph = self.graph.lock();
            (graph.get(uid), graph.dependents(uid))
        };
        let Some(node) = node else { return Ok(()) };
        let owner = vec![uid.to_string()];
        let calls = dependents.into_iter().map(|dependent| {
            let owner = owner.clone();
            async move { self.drop_owners(&dependent.identity, &owner).await }
        });
        let results: Vec<_> = stream::iter(calls).buffer_unordered(16).collect().await;
        let failed = results.iter().filter(|r| r.is_err()).count();
        if failed > 0 {
            return Err(CollectError::Orphans(failed));
        }
        self.remove_finalizer(&node.identity, ORPHAN).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let owners = |solid, dangling: &[&str], waiting: &[&str]| Owners {
            solid,
            dangling: dangling.iter().map(|s| (*s).to_owned()).collect(),
            waiting: waiting.iter().map(|s| (*s).to_owned()).collect(),
        };
        assert_eq!(verdict(owners(1, &[], &[]), true), Verdict::Keep);
        assert_eq!(verdict(owners(1, &["a"], &["b"]), true), Verdict::DropOwners(vec!["a".into(), "b".into()]));
        assert_eq!(verdict(owners(0, &["a"], &["b"]), true), Verdict::DeleteInForeground);
        assert_eq!(verdict(owners(0, &["a"], &["b"]), false), Verdict::Delete);
        assert_eq!(verdict(owners(0, &["a"], &[]), true), Verdict::Delete);
    }
}
