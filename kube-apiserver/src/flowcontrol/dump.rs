//! What operators see below `/debug/api_priority_and_fairness/`.

use std::sync::Arc;

use super::{
    FlowControl,
    level::Queuing,
    queues::{QueueRow, Queues, Request, Snapshot},
    rules::Distinguisher,
};
use crate::request::Query;

/// Queues beyond these are only shown when they have requests.
const SHOWN_QUEUES: u32 = 1024;
const LEVELS: &str = "PriorityLevelName ActiveQueues IsIdle IsQuiescing WaitingRequests ExecutingRequests \
    DispatchedRequests RejectedRequests TimedoutRequests CancelledRequests";
const QUEUES: &str = "PriorityLevelName Index PendingRequests ExecutingRequests SeatsInUse NextDispatchR \
    InitialSeatsSum MaxSeatsSum TotalWorkSum";
const REQUESTS: &str = "PriorityLevelName FlowSchemaName QueueIndex RequestIndexInQueue FlowDistingsher ArriveTime \
    InitialSeats FinalSeats AdditionalLatency StartTime";
const DETAILS: &str = "UserName Verb APIPath Namespace Name APIVersion Resource SubResource";

type Row = Vec<String>;

impl FlowControl {
    /// The text of a path; `None` for paths of others.
    #[must_use]
    pub fn dump(&self, path: &str, query: &Query) -> Option<String> {
        let what = path.strip_prefix("/debug/api_priority_and_fairness/")?;
        let levels: Vec<(Arc<Queues>, Queuing, bool)> = {
            let levels = self.levels.lock();
            levels.values().map(|m| (Arc::clone(&m.queues), m.level.queuing, m.leaving)).collect()
        };
        let snapshots = levels.iter().map(|(queues, queuing, leaving)| (queues, *queuing, *leaving, queues.snapshot()));
        let details = query.non_empty("includeRequestDetails").is_some();
        let rows: Vec<Row> = match what {
            "dump_priority_levels" => {
                let rows = snapshots.map(|(queues, _, leaving, now)| level_row(queues.level(), leaving, &now));
                std::iter::once(header(LEVELS)).chain(rows).collect()
            }
            "dump_queues" => {
                let rows = snapshots.flat_map(|(queues, queuing, _, now)| queue_rows(queues.level(), queuing, &now));
                std::iter::once(header(QUEUES)).chain(rows).collect()
            }
            "dump_requests" => {
                let names = if details { format!("{REQUESTS} {DETAILS}") } else { REQUESTS.to_owned() };
                let rows = snapshots.flat_map(|(queues, _, _, now)| {
                    let row = |request: &Request| request_row(queues.level(), request, details);
                    now.requests.iter().map(row).collect::<Vec<_>>()
                });
                std::iter::once(header(&names)).chain(rows).collect()
            }
            _ => return None,
        };
        Some(table(&rows))
    }
}

fn header(names: &str) -> Row {
    names.split_whitespace().map(str::to_owned).collect()
}

/// Columns are aligned, at least eight wide, one apart.
fn table(rows: &[Row]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widest = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count() + 2)).max();
    let widths: Vec<usize> = (0..columns).map(|column| widest(column).unwrap_or(0).max(8)).collect();
    let mut out = String::new();
    for row in rows {
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if index + 1 == row.len() {
                out.push_str(cell);
            } else {
                out.push_str(&format!("{:width$}", format!("{cell},")));
            }
        }
        out.push('\n');
    }
    out
}

fn level_row(name: &str, leaving: bool, now: &Snapshot) -> Row {
    let active = now.queues.values().filter(|queue| queue.waiting > 0).count();
    let idle = now.waiting == 0 && now.executing == 0;
    let mut row = vec![name.to_owned(), active.to_string(), idle.to_string(), leaving.to_string()];
    row.extend([now.waiting, now.executing].map(|n| n.to_string()));
    row.extend([now.counts.dispatched, now.counts.rejected, 0, now.counts.cancelled].map(|n| n.to_string()));
    row
}

fn queue_rows(name: &str, queuing: Queuing, now: &Snapshot) -> Vec<Row> {
    let shown = match queuing {
        Queuing::Wait { queues, .. } => queues.min(SHOWN_QUEUES),
        _ => 0,
    };
    let more = now.queues.keys().copied().filter(|index| *index >= shown);
    let row = |index: u32| {
        let queue = now.queues.get(&index).copied().unwrap_or_default();
        let QueueRow { waiting, executing, seats, next, seats_waiting, widest_waiting, work_waiting } = queue;
        let counts = [waiting.to_string(), executing.to_string(), seats.to_string(), format!("{next:.8}ss")];
        let sums = [seats_waiting.to_string(), widest_waiting.to_string(), format!("{work_waiting:.8}ss")];
        let mut row = vec![name.to_owned(), index.to_string()];
        row.extend(counts.into_iter().chain(sums));
        row
    };
    (0..shown).chain(more).map(row).collect()
}

fn request_row(level: &str, request: &Request, details: bool) -> Row {
    let (ticket, info) = (&request.ticket, &request.ticket.info);
    let index = |n: Option<usize>| n.map_or_else(|| "-1".to_owned(), |n| n.to_string());
    let flow = match ticket.by {
        None => "",
        Some(Distinguisher::ByUser) => &ticket.user.name,
        Some(Distinguisher::ByNamespace) => &info.namespace,
    };
    let started = request.started.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string());
    let mut row = vec![
        level.to_owned(),
        ticket.flow.schema.clone(),
        index(request.queue.map(|queue| queue as usize)),
        index(request.position),
        flow.to_owned(),
        request.arrived.to_string(),
        ticket.work.seats.to_string(),
        ticket.work.last_seats.to_string(),
        format!("{:?}", ticket.work.linger),
        started,
    ];
    if details {
        let version =
            if info.group.is_empty() { info.version.clone() } else { format!("{}/{}", info.group, info.version) };
        row.extend([&ticket.user.name, &info.verb, &info.path, &info.namespace, &info.name].map(Clone::clone));
        row.extend([version, info.resource.clone(), info.subresource.clone()]);
    }
    row
}
