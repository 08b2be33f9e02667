//! What has to be attached to and detached from one node. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::names::Device;

/// How long a node may take to unmount what nobody uses there, before the volume is taken from it when the node is not well.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(360);

/// The node as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    pub(super) exists: bool,
    pub(super) ready: bool,
    pub(super) out_of_service: bool,
    /// Unique names in `status.volumesInUse`.
    pub(super) in_use: BTreeSet<String>,
    /// Unique names in `status.volumesAttached`.
    pub(super) reported: Vec<String>,
}

/// A VolumeAttachment to the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) attached: bool,
    pub(super) deleting: bool,
    /// Since when nobody wants it here.
    pub(super) unwanted: Option<Instant>,
}

/// A volume that pods of the node need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Want {
    /// Another node has it, and it can be on one node only.
    pub(super) held_elsewhere: bool,
}

/// Why a volume is taken from a node that still has it mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Force {
    Timeout,
    OutOfService,
}

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) attach: Vec<Device>,
    /// Wanted, but another node has it.
    pub(super) blocked: Vec<Device>,
    pub(super) detach: Vec<(Device, Option<Force>)>,
    /// What `status.volumesAttached` has to say, if it does not; written before anything is detached.
    pub(super) report: Option<Vec<String>>,
    /// When to look again.
    pub(super) wait: Option<Duration>,
}

/// Decides.
pub(super) fn plan(
    node: &Node,
    wanted: &BTreeMap<Device, Want>,
    attachments: &BTreeMap<Device, Attachment>,
    force_on_timeout: bool,
    now: Instant,
) -> Plan {
    let mut plan = Plan::default();
    for (device, want) in wanted {
        match attachments.contains_key(device) {
            true => {}
            false if want.held_elsewhere => plan.blocked.push(device.clone()),
            false => plan.attach.push(device.clone()),
        }
    }
    let mut report = BTreeSet::new();
    for (device, attachment) in attachments {
        if attachment.deleting {
            continue;
        }
        if wanted.contains_key(device) {
            if attachment.attached {
                report.insert(device.unique_name());
            }
            continue;
        }
        match leave(node, device, attachment, force_on_timeout, now) {
            Ok(force) => plan.detach.push((device.clone(), force)),
            Err(wait) => {
                plan.wait = Some(plan.wait.map_or(wait, |other: Duration| other.min(wait)));
                if attachment.attached {
                    report.insert(device.unique_name());
                }
            }
        }
    }
    let foreign = |name: &&String| !name.starts_with("kubernetes.io/csi/");
    let current: BTreeSet<String> = node.reported.iter().filter(|name| !foreign(name)).cloned().collect();
    if node.exists && current != report {
        plan.report = Some(node.reported.iter().filter(foreign).cloned().chain(report).collect());
    }
    plan
}

/// Whether an unwanted volume may go now, and by force or not; else how long to wait at most.
fn leave(
    node: &Node,
    device: &Device,
    attachment: &Attachment,
    force_on_timeout: bool,
    now: Instant,
) -> Result<Option<Force>, Duration> {
    let mounted = !node.exists || node.in_use.contains(&device.unique_name());
    if !mounted {
        return Ok(None);
    }
    if node.out_of_service {
        return Ok(Some(Force::OutOfService));
    }
    let waited = attachment.unwanted.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
    let well = node.exists && node.ready;
    match waited >= MAX_WAIT {
        true if force_on_timeout && !well => Ok(Some(Force::Timeout)),
        // Its next heartbeat tells that it has unmounted the volume, or that it is not well.
        true => Err(MAX_WAIT),
        false => Err(MAX_WAIT - waited),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(handle: &str) -> Device {
        Device { driver: "d".into(), handle: handle.into() }
    }

    fn name(handle: &str) -> String {
        device(handle).unique_name()
    }

    fn attached() -> Attachment {
        Attachment { attached: true, ..Attachment::default() }
    }

    #[test]
    fn attaches_and_reports() {
        let now = Instant::now();
        let node =
            Node { exists: true, ready: true, reported: vec!["kubernetes.io/iscsi/x".into()], ..Node::default() };
        let held = Want { held_elsewhere: true };
        let wanted = BTreeMap::from([
            (device("new"), Want::default()),
            (device("held"), held),
            (device("under-way"), Want::default()),
            (device("there"), Want::default()),
            (device("leaving"), Want::default()),
        ]);
        let attachments = BTreeMap::from([
            (device("under-way"), Attachment::default()),
            (device("there"), attached()),
            (device("leaving"), Attachment { deleting: true, ..attached() }),
        ]);
        let plan = plan(&node, &wanted, &attachments, true, now);
        assert_eq!((plan.attach, plan.blocked), (vec![device("new")], vec![device("held")]));
        assert_eq!(plan.report.unwrap(), ["kubernetes.io/iscsi/x".to_owned(), name("there")], "others' entries stay");
        assert!(plan.detach.is_empty());
        let node = Node { reported: vec![name("there")], ..node };
        assert_eq!(super::plan(&node, &wanted, &attachments, true, now).report, None);
    }

    #[test]
    fn detaches_what_is_unmounted_or_lost() {
        let start = Instant::now();
        let early = start + Duration::from_secs(60);
        let late = start + MAX_WAIT;
        let node = |ready: bool, mounted: bool, out: bool| Node {
            exists: true,
            ready,
            out_of_service: out,
            in_use: mounted.then(|| name("v")).into_iter().collect(),
            reported: vec![name("v")],
        };
        let table = [
            ("unmounted", node(true, false, false), early, true, Some(None)),
            ("mounted", node(true, true, false), early, true, None),
            ("mounted for long on a node that is well", node(true, true, false), late, true, None),
            ("mounted for long on a lost node", node(false, true, false), late, true, Some(Some(Force::Timeout))),
            ("the same, forbidden", node(false, true, false), late, false, None),
            ("mounted on a lost node", node(false, true, false), early, true, None),
            ("out of service", node(false, true, true), early, false, Some(Some(Force::OutOfService))),
            ("the node is gone", Node::default(), early, true, None),
            ("the node is gone for long", Node::default(), late, true, Some(Some(Force::Timeout))),
        ];
        for (what, node, now, force, want) in table {
            let unwanted = Attachment { unwanted: Some(start), ..attached() };
            let plan = plan(&node, &BTreeMap::new(), &BTreeMap::from([(device("v"), unwanted)]), force, now);
            let expected = want.map(|force| (device("v"), force)).into_iter().collect::<Vec<_>>();
            assert_eq!(plan.detach, expected, "{what}");
            assert_eq!(plan.wait.is_some(), want.is_none(), "{what}");
            // No longer reported before it goes; reported as long as it stays.
            let gone = want.is_some() && node.exists;
            assert_eq!(plan.report, gone.then(Vec::new), "{what}");
        }
    }
}
