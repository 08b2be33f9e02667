//! Why a pod fits nowhere, in upstream's words.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::plugin::Rejected;
use super::status::{Code, Status};

/// What was learnt while looking for a node.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// Per rejected slot.
    pub failures: Vec<(u32, Arc<Status>)>,
    /// What holds for all nodes that were never looked at (excluded by a PreFilter).
    pub absent: Option<Arc<Status>>,
    /// Plugins that rejected.
    pub unschedulable: BTreeSet<&'static str>,
    /// Plugins that wait for something.
    pub pending: BTreeSet<&'static str>,
    /// Set when a PreFilter rejected the pod outright.
    pub pre_filter: Option<String>,
    /// What PostFilter had to say.
    pub post_filter: String,
}

impl Diagnosis {
    /// Remembers nodes that were rejected, and the plugins behind.
    pub fn reject(&mut self, mut rejected: Rejected) {
        // Nodes fail in few ways, mostly many in a row alike.
        for alike in rejected.chunk_by(|(_, a), (_, b)| Arc::ptr_eq(a, b)) {
            alike.first().into_iter().for_each(|(_, status)| self.blame(status));
        }
        self.failures.append(&mut rejected);
    }

    /// Remembers the plugin behind a rejection.
    pub fn blame(&mut self, status: &Status) {
        match status.code {
            Code::Unschedulable | Code::UnschedulableAndUnresolvable if !status.plugin.is_empty() => {
                self.unschedulable.insert(status.plugin);
            }
            Code::Pending => {
                self.pending.insert(status.plugin);
            }
            _ => {}
        }
    }

    /// `0/N nodes are available: <PreFilter message>. <reasons>. <PostFilter message>`
    pub fn message(&self, nodes: usize) -> String {
        let mut text = format!("0/{nodes} nodes are available:");
        if let Some(message) = &self.pre_filter {
            text.push_str(&format!(" {message}."));
        } else {
            let mut histogram: BTreeMap<&str, usize> = BTreeMap::new();
            for alike in self.failures.chunk_by(|(_, a), (_, b)| Arc::ptr_eq(a, b)) {
                for reason in alike.first().into_iter().flat_map(|(_, status)| &status.reasons) {
                    *histogram.entry(reason).or_default() += alike.len();
                }
            }
            let absent = nodes.saturating_sub(self.failures.len());
            if absent > 0 {
                for reason in self.absent.iter().flat_map(|status| &status.reasons) {
                    *histogram.entry(reason).or_default() += absent;
                }
            }
            let mut lines: Vec<_> = histogram.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            lines.sort();
            if !lines.is_empty() {
                text.push_str(&format!(" {}.", lines.join(", ")));
            }
        }
        if !self.post_filter.is_empty() {
            text.push_str(&format!(" {}", self.post_filter));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_counts_sorts_and_joins() {
        let cpu = Status::unschedulable("NodeResourcesFit", "Insufficient cpu");
        let taint = Status::unresolvable("TaintToleration", "node(s) had untolerated taint(s)");
        let both = Arc::new(Status {
            reasons: vec!["Insufficient cpu".into(), "Insufficient memory".into()],
            ..(*cpu).clone()
        });
        let mut diagnosis = Diagnosis { failures: vec![(0, cpu), (1, taint), (2, both)], ..Diagnosis::default() };
        assert_eq!(
            diagnosis.message(3),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint(s), 2 Insufficient cpu."
        );
        diagnosis.post_filter = "preemption: none".into();
        diagnosis.absent = Some(Status::unresolvable("", "node(s) didn't satisfy plugin(s) [NodeAffinity]"));
        assert_eq!(
            diagnosis.message(5),
            "0/5 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint(s), 2 Insufficient cpu, \
             2 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: none"
        );
        diagnosis.pre_filter = Some("pod affinity terms conflict".into());
        assert_eq!(diagnosis.message(5), "0/5 nodes are available: pod affinity terms conflict. preemption: none");
    }
}
