//! Pods that Permit plugins hold back until every one of them allows, one rejects, or time runs out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::framework::status::{Status, Verdict};
use crate::metrics;

/// Who still has to allow a pod, or who rejected it.
#[derive(Clone, Debug)]
enum Word {
    Pending(Vec<&'static str>),
    Rejected(Arc<Status>),
}

/// The held pods.
#[derive(Default)]
pub struct WaitingPods {
    pods: Mutex<HashMap<Arc<str>, watch::Sender<Word>>>,
}

impl WaitingPods {
    /// Holds a pod for these plugins.
    pub fn hold(&self, uid: &Arc<str>, waits: &[(&'static str, Duration)]) {
        let pending = waits.iter().map(|(plugin, _)| *plugin).collect();
        self.pods.lock().insert(uid.clone(), watch::Sender::new(Word::Pending(pending)));
    }

    /// A plugin allows the pod.
    pub fn allow(&self, uid: &str, plugin: &str) {
        if let Some(sender) = self.pods.lock().get(uid) {
            sender.send_modify(|word| {
                if let Word::Pending(pending) = word {
                    pending.retain(|other| *other != plugin);
                }
            });
        }
    }

    /// The pod must not run; false when it was not held.
    pub fn reject(&self, uid: &str, plugin: &'static str, reason: &str) -> bool {
        let pods = self.pods.lock();
        let Some(sender) = pods.get(uid) else { return false };
        sender.send_modify(|word| *word = Word::Rejected(Status::unschedulable(plugin, reason.to_owned())));
        true
    }

    /// Waits for the word on a held pod.
    pub async fn wait(&self, uid: &str, waits: &[(&'static str, Duration)]) -> Verdict {
        let Some(mut receiver) = self.pods.lock().get(uid).map(watch::Sender::subscribe) else { return Ok(()) };
        let started = Instant::now();
        let (plugin, limit) = waits.iter().min_by_key(|(_, limit)| *limit).copied().unwrap_or_default();
        let decided = receiver.wait_for(|word| !matches!(word, Word::Pending(pending) if !pending.is_empty()));
        let verdict = match tokio::time::timeout(limit, decided).await {
            Ok(Ok(word)) => match &*word {
                Word::Pending(_) => Ok(()),
                Word::Rejected(status) => Err(status.clone()),
            },
            Ok(Err(_)) => Ok(()),
            Err(_) => {
                let reason = format!("rejected due to timeout after waiting {limit:?} at plugin {plugin}");
                Err(Status::unschedulable(plugin, reason))
            }
        };
        self.pods.lock().remove(uid);
        let label = verdict.as_ref().err().map_or("Success", |status| status.code.as_str());
        metrics::PERMIT_WAIT.with_label_values(&[label]).observe(started.elapsed().as_secs_f64());
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_must_allow_one_may_reject() {
        let waiting = WaitingPods::default();
        let waits = [("A", Duration::from_secs(600)), ("B", Duration::from_secs(600))];
        let uid: Arc<str> = "p".into();
        waiting.hold(&uid, &waits);
        waiting.allow("p", "A");
        waiting.allow("p", "B");
        assert!(waiting.wait("p", &waits).await.is_ok());
        waiting.hold(&uid, &waits);
        waiting.allow("p", "A");
        assert!(waiting.reject("p", "B", "no"));
        assert_eq!(waiting.wait("p", &waits).await.unwrap_err().message(), "no");
        assert!(!waiting.reject("p", "B", "no"), "decided pods are no longer held");
        let soon = [("A", Duration::from_millis(1))];
        waiting.hold(&uid, &soon);
        assert!(waiting.wait("p", &soon).await.unwrap_err().message().contains("timeout"));
    }
}
