//! A worker's mailbox: the latest wish only, so it never grows however fast wishes arrive.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::status::Verdict;

/// Why and how a pod shall end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terminate {
    /// Instead of the pod's own grace.
    pub(crate) grace: Option<i64>,
    /// The kubelet itself ends the pod.
    pub(crate) verdict: Option<Verdict>,
}

struct Inbox {
    pod: Arc<Pod>,
    terminate: Option<Terminate>,
    /// No source knows the pod any more.
    removed: bool,
}

/// Mail of one worker.
pub(crate) struct Mailbox {
    inbox: Mutex<Inbox>,
    wake: Notify,
    /// Breaks off a sync in flight, once, when the pod shall end.
    interrupt: CancellationToken,
}

/// What the worker finds.
pub(crate) struct Mail {
    pub(crate) pod: Arc<Pod>,
    pub(crate) terminate: Option<Terminate>,
    pub(crate) removed: bool,
}

impl Mailbox {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let inbox = Inbox { pod, terminate: None, removed: false };
        Self { inbox: Mutex::new(inbox), wake: Notify::new(), interrupt: CancellationToken::new() }
    }

    /// A newer version of the pod. Without `wake` the worker finds it when it looks next.
    pub(crate) fn update(&self, pod: Arc<Pod>, wake: bool) {
        if pod.metadata.deletion_timestamp.is_some() {
            self.interrupt.cancel();
        }
        self.inbox.lock().pod = pod;
        if wake {
            self.wake.notify_one();
        }
    }

    /// Something about the pod changed in the runtime or a probe.
    pub(crate) fn look(&self) {
        self.wake.notify_one();
    }

    /// End the pod. The first verdict stays; a shorter grace wins.
    pub(crate) fn terminate(&self, wish: Terminate) {
        {
            let mut inbox = self.inbox.lock();
            let have = inbox.terminate.get_or_insert_default();
            have.grace = match (have.grace, wish.grace) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            if have.verdict.is_none() {
                have.verdict = wish.verdict;
            }
        }
        self.interrupt.cancel();
        self.wake.notify_one();
    }

    /// The pod is gone from its source: end it, within `grace` or its own, and forget it.
    pub(crate) fn remove(&self, grace: Option<i64>) {
        self.inbox.lock().removed = true;
        self.terminate(Terminate { grace, verdict: None });
    }

    pub(crate) fn read(&self) -> Mail {
        let inbox = self.inbox.lock();
        let deleted = inbox.pod.metadata.deletion_timestamp.is_some();
        let terminate = inbox.terminate.clone().or_else(|| deleted.then(Terminate::default));
        Mail { pod: inbox.pod.clone(), terminate, removed: inbox.removed }
    }

    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(crate) async fn interrupted(&self) {
        self.interrupt.cancelled().await;
    }
}
