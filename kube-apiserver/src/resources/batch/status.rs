//! Rules of a Job's status: what finished stays finished, counters grow, and what is said fits together. A rule that was broken
//! before is not enforced on updates that leave its fields alone.

use serde_json::Value;

use super::indexes;
use crate::resources::{
    checks,
    field::{ErrorList, Path},
    value::{at, bool_at, int_at, list_at, same_at, str_at},
};

const STATUS: Path<'static> = Path::root("status");

/// What both states of a status say.
struct Seen<'a> {
    job: &'a Value,
    complete: bool,
    failed: bool,
    failing: bool,
    succeeding: bool,
}

impl<'a> Seen<'a> {
    fn of(job: &'a Value) -> Self {
        let holds = |kind: &str| condition(job, kind) == Some("True");
        Self {
            job,
            complete: holds("Complete"),
            failed: holds("Failed"),
            failing: holds("FailureTarget"),
            succeeding: holds("SuccessCriteriaMet"),
        }
    }

    fn finished(&self) -> bool {
        self.complete || self.failed
    }

    fn number(&self, field: &str) -> i64 {
        int_at(self.job, &format!("status.{field}")).unwrap_or_default()
    }
}

fn condition<'a>(job: &'a Value, kind: &str) -> Option<&'a str> {
    list_at(job, "status.conditions").iter().find(|c| str_at(c, "type") == kind).map(|c| str_at(c, "status"))
}

/// The status of `new` after `old`.
pub(super) fn validate(new: &Value, old: &Value, errs: &mut ErrorList) {
    let status = new.get("status").unwrap_or(&Value::Null);
    checks::non_negative_all(status, &["active", "succeeded", "failed", "ready", "terminating"], &STATUS, errs);
    uncounted(status, errs);
    let (now, was) = (Seen::of(new), Seen::of(old));
    conditions(&now, &was, errs);
    times(&now, &was, errs);
    finished(&now, &was, errs);
    completed_indexes(&now, &was, errs);
    transitions(&now, &was, errs);
}

/// Pods that are counted soon: each once.
fn uncounted(status: &Value, errs: &mut ErrorList) {
    let path = STATUS.child("uncountedTerminatedPods");
    let mut seen = Vec::new();
    for list in ["succeeded", "failed"] {
        let root = path.child(list);
        for (i, uid) in list_at(status, &format!("uncountedTerminatedPods.{list}")).iter().enumerate() {
            if uid == "" {
                errs.invalid(&root.index(i), "", "must not be empty");
            } else if seen.contains(&uid) {
                errs.duplicate(&root.index(i), uid.clone());
            } else {
                seen.push(uid);
            }
        }
    }
}

fn conditions(now: &Seen<'_>, was: &Seen<'_>, errs: &mut ErrorList) {
    let path = STATUS.child("conditions");
    let failed_indexes = !same_at(now.job, was.job, "status.failedIndexes");
    let complete = now.complete != was.complete;
    let failed = now.failed != was.failed;
    let with_policy = at(now.job, "spec.successPolicy").is_some();
    let rules = [
        (complete || failed, now.complete && now.failed, "cannot set Complete=True and Failed=true conditions"),
        (
            complete || now.failing != was.failing,
            now.complete && now.failing,
            "cannot set Complete=True and FailureTarget=true conditions",
        ),
        (
            failed || failed_indexes,
            now.failed && !now.failing,
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            complete || now.succeeding != was.succeeding,
            now.complete && !now.succeeding,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (true, now.succeeding && now.failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (true, now.succeeding && now.failing, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
        (
            true,
            with_policy && !now.succeeding && now.complete,
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ];
    for (_, _, text) in rules.iter().filter(|(enforced, broken, _)| *enforced && *broken) {
        errs.invalid_shape(&path, *text);
    }
}

fn times(now: &Seen<'_>, was: &Seen<'_>, errs: &mut ErrorList) {
    let completion = at(now.job, "status.completionTime").cloned();
    let path = STATUS.child("completionTime");
    let changed = !same_at(now.job, was.job, "status.completionTime");
    let started = !same_at(now.job, was.job, "status.startTime");
    if changed || now.complete != was.complete {
        match &completion {
            Some(time) if !now.complete => {
                let text = "cannot set completionTime when there is no Complete=True condition";
                errs.invalid(&path, time.clone(), text);
            }
            None if now.complete => errs.required(&path, "completionTime is required for Complete jobs"),
            _ => {}
        }
    }
    let moment = |field: &str| str_at(now.job, &format!("status.{field}")).parse::<jiff::Timestamp>().ok();
    if (changed || started)
        && let (Some(start), Some(end), Some(shown)) = (moment("startTime"), moment("completionTime"), &completion)
        && end < start
    {
        errs.invalid(&path, shown.clone(), "must be equal to or after `startTime`");
    }
}

fn finished(now: &Seen<'_>, was: &Seen<'_>, errs: &mut ErrorList) {
    let ended = now.finished() != was.finished();
    let changed = |field: &str| !same_at(now.job, was.job, &format!("status.{field}"));
    let (active, terminating, ready) = (now.number("active"), now.number("terminating"), now.number("ready"));
    if (ended || changed("active")) && active > 0 && now.finished() {
        errs.invalid(&STATUS.child("active"), active, "active>0 is invalid for finished job");
    }
    let idle = bool_at(now.job, "spec.suspend") && int_at(now.job, "spec.completions") == Some(0);
    if (ended || changed("startTime")) && !idle && now.finished() && at(now.job, "status.startTime").is_none() {
        errs.required(&STATUS.child("startTime"), "startTime is required for finished job");
    }
    let field = "uncountedTerminatedPods";
    let waiting = ["succeeded", "failed"].iter().any(|l| !list_at(now.job, &format!("status.{field}.{l}")).is_empty());
    if (ended || changed(field)) && now.finished() && waiting {
        let shown = checks::shown(now.job, "status.uncountedTerminatedPods");
        errs.invalid(&STATUS.child(field), shown, "must be empty for finished job");
    }
    if (ended || changed("terminating")) && now.finished() && terminating > 0 {
        errs.invalid(&STATUS.child("terminating"), terminating, "terminating>0 is invalid for finished job");
    }
    if (changed("ready") || changed("active")) && ready > active {
        errs.invalid(&STATUS.child("ready"), ready, "cannot set more ready pods than active");
    }
}

fn completed_indexes(now: &Seen<'_>, was: &Seen<'_>, errs: &mut ErrorList) {
    let changed = |field: &str| !same_at(now.job, was.job, &format!("status.{field}"));
    let text = |field: &str| str_at(now.job, &format!("status.{field}"));
    let per_index = at(now.job, "spec.backoffLimitPerIndex").is_some();
    let completions = int_at(now.job, "spec.completions");
    let complain =
        |field: &str, why: String, errs: &mut ErrorList| errs.invalid(&STATUS.child(field), text(field), why);
    for (field, enforced) in [("completedIndexes", true), ("failedIndexes", per_index)] {
        if let Some(completions) = completions.filter(|_| enforced && changed(field))
            && let Err(why) = indexes::parse(text(field), completions)
        {
            complain(field, format!("error parsing {field}: {why}"), errs);
        }
    }
    let indexed = str_at(now.job, "spec.completionMode") == "Indexed";
    if changed("completedIndexes") && !text("completedIndexes").is_empty() && !indexed {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        complain("completedIndexes", why.to_owned(), errs);
    }
    if !changed("failedIndexes") && !changed("completedIndexes") || at(now.job, "status.failedIndexes").is_none() {
        return;
    }
    if !per_index && changed("failedIndexes") {
        let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        complain("failedIndexes", why.to_owned(), errs);
    }
    let shared = completions.and_then(|c| indexes::overlap(text("completedIndexes"), text("failedIndexes"), c));
    if let Some(index) = shared {
        complain("failedIndexes", format!("failedIndexes and completedIndexes overlap at index: {index}"), errs);
    }
}

/// What may never be taken back.
fn transitions(now: &Seen<'_>, was: &Seen<'_>, errs: &mut ErrorList) {
    let path = STATUS.child("conditions");
    let lost = [
        ("Failed", was.failed, now.failed),
        ("Complete", was.complete, now.complete),
        ("FailureTarget", was.failing, now.failing),
    ];
    for (kind, _, _) in lost.iter().filter(|(_, before, after)| *before && !*after) {
        errs.invalid_shape(&path, format!("cannot disable the terminal {kind}=True condition"));
    }
    let tandem = str_at(now.job, "spec.completionMode") == "Indexed"
        && int_at(now.job, "spec.completions") == int_at(now.job, "spec.parallelism");
    for (field, enforced) in [("failed", true), ("succeeded", !tandem)] {
        if enforced && now.number(field) < was.number(field) {
            let text = format!("cannot decrease the {field} counter");
            errs.invalid(&STATUS.child(field), now.number(field), text);
        }
    }
    let (end, ended) = ("status.completionTime", at(was.job, "status.completionTime").is_some());
    if ended && at(now.job, end).is_some() && !same_at(now.job, was.job, end) {
        errs.invalid(&STATUS.child("completionTime"), checks::shown(now.job, end), "field is immutable");
    }
    let resuming = condition(was.job, "Suspended") == Some("True") && condition(now.job, "Suspended") == Some("False");
    let start = "status.startTime";
    if at(was.job, start).is_some()
        && !same_at(now.job, was.job, start)
        && !bool_at(now.job, "spec.suspend")
        && !resuming
    {
        let text = "field is immutable for unsuspended job once set";
        errs.invalid(&STATUS.child("startTime"), checks::shown(now.job, start), text);
    }
    if was.succeeding && !now.succeeding {
        errs.invalid_shape(&path, "cannot disable the SuccessCriteriaMet=True condition");
    }
    if was.complete && !was.succeeding && now.succeeding {
        errs.invalid_shape(&path, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complaints(new: Value, old: Value) -> Vec<String> {
        let mut errs = ErrorList::new();
        validate(&new, &old, &mut errs);
        errs.iter().map(ToString::to_string).collect()
    }

    fn job(status: Value) -> Value {
        json!({"spec": {"completions": 3, "completionMode": "Indexed", "parallelism": 1}, "status": status})
    }

    fn conditions(kinds: &[&str]) -> Value {
        kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    }

    #[test]
    fn a_job_ends_in_order() {
        let running = job(json!({"startTime": "2025-01-01T00:00:00Z", "active": 1}));
        let done =
            job(json!({"startTime": "2025-01-01T00:00:00Z", "completionTime": "2025-01-01T00:00:05Z", "succeeded": 3,
            "completedIndexes": "0-2", "conditions": conditions(&["SuccessCriteriaMet", "Complete"])}));
        assert_eq!(complaints(done.clone(), running.clone()), Vec::<String>::new());
        assert_eq!(
            complaints(running, done),
            [
                "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
                "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
                "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
            ]
        );
    }

    #[test]
    fn what_does_not_fit_together_is_told() {
        let start = job(json!({}));
        let odd =
            job(json!({"active": 1, "ready": 2, "completedIndexes": "5", "conditions": conditions(&["Complete"])}));
        assert_eq!(
            complaints(odd, start),
            [
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.active: Invalid value: 1: active>0 is invalid for finished job",
                "status.startTime: Required value: startTime is required for finished job",
                "status.ready: Invalid value: 2: cannot set more ready pods than active",
                "status.completedIndexes: Invalid value: \"5\": error parsing completedIndexes: too large index: \"5\"",
            ]
        );
    }
}
