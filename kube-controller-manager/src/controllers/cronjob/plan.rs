//! Whether a CronJob has to start a Job now, and when to look again. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJob;

use super::schedule::Schedule;
use crate::shared::meta::MetaExt;

/// Clocks differ a little: better a moment late than a second look.
const LATE: SignedDuration = SignedDuration::from_millis(100);
/// With more missed times than so many something is wrong.
const MANY: i64 = 100;

/// How many times were missed since the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missed {
    None,
    Few,
    Many,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing is due.
    Wait,
    /// Due at this time.
    Start(Timestamp, Missed),
    /// This time came and went, past the starting deadline.
    TooLate(Timestamp, Missed),
}

struct Due {
    /// From where times count.
    earliest: Timestamp,
    /// The last time that has come.
    last: Option<Timestamp>,
    missed: Missed,
}

/// # Errors
/// A schedule that can be read and never comes, such as the 31st of February.
fn due(cj: &CronJob, schedule: &Schedule, now: Timestamp, with_deadline: bool) -> Result<Due, String> {
    let last = cj.status.as_ref().and_then(|s| s.last_schedule_time.as_ref()).map(|t| t.0);
    let mut earliest = last.or_else(|| cj.created()).unwrap_or(now);
    let deadline = cj.spec.starting_deadline_seconds.filter(|_| with_deadline);
    if let Some(limit) = deadline.and_then(|s| now.checked_sub(SignedDuration::from_secs(s)).ok()) {
        earliest = earliest.max(limit);
    }
    let never = || "time difference between two schedules is less than 1 second".to_owned();
    let first = schedule.next(earliest).ok_or_else(never)?;
    if now < first {
        return Ok(Due { earliest, last: None, missed: Missed::None });
    }
    let second = schedule.next(first).ok_or_else(never)?;
    if now < second {
        return Ok(Due { earliest, last: Some(first), missed: Missed::None });
    }
    let between = second.duration_since(first).as_secs();
    if between < 1 {
        return Err(never());
    }
    // Not one by one: there may be years of them. The guess goes back one step more, for irregular schedules.
    let count = now.duration_since(first).as_secs() / between + 1;
    let guess = first + SignedDuration::from_secs((count - 2).saturating_mul(between));
    let mut last = None;
    let mut at = schedule.next(guess);
    while let Some(time) = at.filter(|t| *t <= now) {
        last = Some(time);
        at = schedule.next(time);
    }
    Ok(Due { earliest, last, missed: if count > MANY { Missed::Many } else { Missed::Few } })
}

/// Is a Job due?
///
/// # Errors
/// See [`due`].
pub(super) fn decide(cj: &CronJob, schedule: &Schedule, now: Timestamp) -> Result<Decision, String> {
    let due = due(cj, schedule, now, true)?;
    let Some(at) = due.last.filter(|at| *at <= now) else { return Ok(Decision::Wait) };
    let deadline = cj.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let too_late = deadline.is_some_and(|d| at.checked_add(d).is_ok_and(|end| end < now));
    Ok(if too_late { Decision::TooLate(at, due.missed) } else { Decision::Start(at, due.missed) })
}

/// How long until the next time.
pub(super) fn next_look(cj: &CronJob, schedule: &Schedule, now: Timestamp) -> Option<Duration> {
    let from = match due(cj, schedule, now, false) {
        Ok(Due { last: Some(last), .. }) => last,
        Ok(Due { earliest, missed: Missed::None, .. }) => earliest,
        _ => now,
    };
    let wait = schedule.next(from)?.duration_since(now) + LATE;
    Some(Duration::try_from(wait).unwrap_or(Duration::ZERO))
}

/// The name of the Job of a time: the same whoever makes it.
pub(super) fn job_name(cj: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cj.name_str(), at.as_second() / 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;
    use serde_json::{Value, json};

    fn cron(last: Value, deadline: Value) -> CronJob {
        serde_json::from_value(json!({"metadata": {"name": "c", "creationTimestamp": "2026-01-01T09:30:00Z"},
            "spec": {"schedule": "", "jobTemplate": {}, "startingDeadlineSeconds": deadline}, "status": {"lastScheduleTime": last}}))
        .unwrap()
    }

    #[test]
    fn decisions() {
        let at = |s: &str| format!("2026-01-01T{s}Z").parse::<Timestamp>().unwrap();
        let time = |s: &str| json!(format!("2026-01-01T{s}Z"));
        let none = Value::Null;
        for (name, schedule, last, deadline, now, want, look) in [
            ("not yet", "0 * * * *", none.clone(), none.clone(), "09:59:59", Decision::Wait, 1),
            (
                "due",
                "0 * * * *",
                none.clone(),
                none.clone(),
                "10:00:00",
                Decision::Start(at("10:00:00"), Missed::None),
                3600,
            ),
            ("done", "0 * * * *", time("10:00:00"), none.clone(), "10:20:00", Decision::Wait, 2400),
            (
                "a few missed",
                "0 * * * *",
                time("10:00:00"),
                none.clone(),
                "13:20:00",
                Decision::Start(at("13:00:00"), Missed::Few),
                2400,
            ),
            (
                "many missed",
                "* * * * *",
                time("00:00:00"),
                none.clone(),
                "10:00:30",
                Decision::Start(at("10:00:00"), Missed::Many),
                30,
            ),
            (
                "missed but few count",
                "* * * * *",
                time("00:00:00"),
                json!(120),
                "10:00:30",
                Decision::Start(at("10:00:00"), Missed::Few),
                30,
            ),
            (
                "irregular",
                "30 6-16/4 * * *",
                time("06:30:00"),
                none.clone(),
                "15:00:00",
                Decision::Start(at("14:30:00"), Missed::Few),
                15.5 as i64 * 3600 + 1800,
            ),
            ("deadline over", "0 * * * *", none.clone(), json!(20), "10:00:21", Decision::Wait, 3579),
        ] {
            let (cj, schedule) = (cron(last, deadline), Schedule::parse(schedule, TimeZone::UTC).unwrap());
            let now = at(now);
            assert_eq!(decide(&cj, &schedule, now).unwrap(), want, "{name}");
            let got = next_look(&cj, &schedule, now).unwrap().as_millis();
            assert_eq!(got, u128::try_from(look * 1000 + 100).unwrap(), "{name}");
        }
        let never = Schedule::parse("0 0 31 2 *", TimeZone::UTC).unwrap();
        assert!(decide(&cron(none, Value::Null), &never, at("10:00:00")).is_err());
    }
}
