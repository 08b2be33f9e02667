//! Jobs and CronJobs.

mod indexes;
mod rules;
mod status;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::gated;
use super::{
    Ctx, checks,
    field::{ErrorList, Path},
    metadata, names,
    pod::{defaults, template},
    rules::Rules,
    table::{
        AGE, Column, NAME, Row, age, boolean, containers, human_duration, name, number, selector, since, text, wide,
    },
    value::{
        at, bool_at, each, existing, int_at, is_set, list_at, map_at, member, remove, same, same_at, set, set_default,
        set_if_zero, str_at,
    },
    warnings,
};

const SPEC: Path<'static> = Path::root("spec");
const JOB_NAME: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const CONTROLLER_UID: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

pub(crate) const RULES: &[Rules] = &[
    Rules {
        group: "batch",
        resource: "jobs",
        kind: "Job",
        warnings: |obj, old, sub| {
            let name = warnings::name_is_a_label(obj).filter(|_| old.is_none());
            let spec = if sub.is_none() { warnings::job_spec(obj, old, "spec") } else { Vec::new() };
            name.into_iter().chain(spec).collect()
        },
        gated: gated::TEMPLATE,
        generation: true,
        status: true,
        defaults: |obj| {
            let labels = at(obj, "spec.template.metadata.labels").cloned();
            if let Some(labels) = labels.filter(|_| !is_set(obj, "metadata.labels"))
                && let Some(meta) = member(obj, "metadata")
            {
                set(meta, "labels", labels);
            }
            if let Some(spec) = member(obj, "spec") {
                job_defaults(spec);
            }
        },
        prepare_create: |obj, _| {
            generate_selector(obj);
            set(obj, "status", json!({}));
        },
        validate: job,
        validate_update: job_update,
        fields: &[("status.successful", |obj| int_at(obj, "status.succeeded").unwrap_or_default().to_string())],
        also_read: &["status.succeeded"],
        field_labels: &["metadata.name", "metadata.namespace", "status.successful"],
        columns: JOB_COLUMNS,
        row: job_row,
        ..Rules::GENERIC
    },
    Rules {
        group: "batch",
        resource: "cronjobs",
        kind: "CronJob",
        warnings: warnings::cron_job,
        gated: &[("spec.jobTemplate.spec.template.spec", gated::POD_SPEC)],
        generation: true,
        status: true,
        defaults: cron_defaults,
        prepare_create: |obj: &mut Value, _: &Ctx<'_>| set(obj, "status", json!({})),
        validate: |obj, errs| cron(obj, None, errs),
        validate_update: |new, old, sub, errs| {
            if sub.is_none() {
                cron(new, Some(old), errs);
            }
        },
        columns: CRON_COLUMNS,
        row: cron_row,
        ..Rules::GENERIC
    },
];

/// Defaults of a `JobSpec` that stands alone.
fn job_defaults(spec: &mut Value) {
    if at(spec, "completions").is_none() && at(spec, "parallelism").is_none() {
        set(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    let backoff = if at(spec, "backoffLimitPerIndex").is_some() { i32::MAX } else { 6 };
    set_default(spec, "backoffLimit", backoff);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    let replacement = if at(spec, "podFailurePolicy").is_some() { "Failed" } else { "TerminatingOrFailed" };
    set_default(spec, "podReplacementPolicy", replacement);
    set_default(spec, "manualSelector", false);
    pod_parts(spec);
}

fn pod_parts(spec: &mut Value) {
    if let Some(policy) = existing(spec, "podFailurePolicy") {
        for rule in each(policy, "rules") {
            for pattern in each(rule, "onPodConditions") {
                set_if_zero(pattern, "status", "True");
            }
        }
    }
    defaults::template(spec, "template");
}

fn cron_defaults(obj: &mut Value) {
    let Some(spec) = member(obj, "spec") else { return };
    set_if_zero(spec, "concurrencyPolicy", "Allow");
    set_default(spec, "suspend", false);
    set_default(spec, "successfulJobsHistoryLimit", 3);
    set_default(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = member(spec, "jobTemplate").and_then(|template| member(template, "spec")) {
        pod_parts(job);
    }
}

/// Unless told otherwise a Job selects its pods by its own uid.
fn generate_selector(obj: &mut Value) {
    if bool_at(obj, "spec.manualSelector") {
        return;
    }
    let name = str_at(obj, "metadata.name").to_string();
    let uid = str_at(obj, "metadata.uid").to_string();
    let Some(spec) = member(obj, "spec") else { return };
    if let Some(labels) =
        member(spec, "template").and_then(|t| member(t, "metadata")).and_then(|meta| member(meta, "labels"))
    {
        JOB_NAME.iter().for_each(|key| set_default(labels, key, name.as_str()));
        CONTROLLER_UID.iter().for_each(|key| set_default(labels, key, uid.as_str()));
    }
    if let Some(labels) = member(spec, "selector").and_then(|selector| member(selector, "matchLabels")) {
        set_default(labels, CONTROLLER_UID[1], uid.as_str());
    }
}

fn job(obj: &Value, errs: &mut ErrorList) {
    generated_selector(obj, errs);
    let spec = at(obj, "spec").unwrap_or(&Value::Null);
    job_spec(obj, "spec", &SPEC, errs);
    job_selector(spec, errs);
    let completions = int_at(spec, "completions").unwrap_or_default();
    if str_at(spec, "completionMode") == "Indexed" && completions > 0 {
        let name = str_at(obj, "metadata.name");
        let longest = format!("{name}-{}", completions - 1);
        if !names::dns1123_label(&longest).is_empty() {
            errs.invalid(
                &Path::root("metadata.name"),
                name,
                format!("will not able to create pod with invalid DNS label: {longest}"),
            );
        }
    }
}

fn generated_selector(obj: &Value, errs: &mut ErrorList) {
    if bool_at(obj, "spec.manualSelector") || at(obj, "spec.selector").is_none() {
        return;
    }
    let path = Path::root("spec.template.metadata.labels");
    let (name, uid) = (str_at(obj, "metadata.name"), str_at(obj, "metadata.uid"));
    let label =
        |key: &str| map_at(obj, "spec.template.metadata.labels").and_then(|l| l.get(key)).and_then(Value::as_str);
    let pairs = [(CONTROLLER_UID[0], uid), (JOB_NAME[0], name), (CONTROLLER_UID[1], uid), (JOB_NAME[1], name)];
    for (key, want) in pairs {
        match label(key) {
            None => errs.required(&path.key(key), format!("must be '{want}'")),
            Some(have) if have != want => {
                errs.invalid(&path, checks::shown(obj, "spec.template.metadata.labels"), format!("must be '{want}'"))
            }
            Some(_) => {}
        }
    }
    let expected: serde_json::Map<String, Value> =
        pairs.iter().map(|(key, value)| (key.to_string(), Value::from(*value))).collect();
    let selector = checks::shown(obj, "spec.selector");
    if !checks::selector_matches(&selector, &Value::Object(expected)) {
        errs.invalid(&SPEC.child("selector"), selector, "`selector` not auto-generated");
    }
}

fn job_selector(spec: &Value, errs: &mut ErrorList) {
    let Some(selector) = at(spec, "selector") else {
        errs.required(&SPEC.child("selector"), "");
        return;
    };
    checks::label_selector(selector, &SPEC.child("selector"), errs);
    let labels = at(spec, "template.metadata.labels").cloned().unwrap_or_default();
    if !checks::selector_matches(selector, &labels) {
        errs.invalid(&SPEC.child("template.metadata.labels"), labels, "`selector` does not match template `labels`");
    }
}

/// Rules of a `JobSpec` at a dotted path of `obj`.
fn job_spec(obj: &Value, field: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let spec = at(obj, field).unwrap_or(&Value::Null);
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    checks::non_negative_all(spec, &numbers, path, errs);
    if at(spec, "maxFailedIndexes").is_some() && at(spec, "backoffLimitPerIndex").is_none() {
        errs.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    let mode = str_at(spec, "completionMode");
    if !mode.is_empty() && !matches!(mode, "NonIndexed" | "Indexed") {
        errs.not_supported(&path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == "Indexed" {
        if at(spec, "completions").is_none() {
            errs.required(&path.child("completions"), "when completion mode is Indexed");
        }
        if let Some(parallelism) = int_at(spec, "parallelism").filter(|p| *p > 100_000) {
            errs.invalid(
                &path.child("parallelism"),
                parallelism,
                "must be less than or equal to 100000 when completion mode is Indexed",
            );
        }
    }
    rules::policies(spec, path, errs);
    let replacement = str_at(spec, "podReplacementPolicy");
    let with_failure_policy = at(spec, "podFailurePolicy").is_some();
    let allowed: &[&str] = if with_failure_policy { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if !replacement.is_empty() && !allowed.contains(&replacement) {
        errs.not_supported(&path.child("podReplacementPolicy"), replacement, allowed);
    }
    template::validate(obj, &format!("{field}.template"), &path.child("template"), errs);
    let policy = str_at(spec, "template.spec.restartPolicy");
    let policy_path = path.child("template.spec.restartPolicy");
    if policy == "Always" {
        errs.required(&policy_path, "valid values: \"OnFailure\", \"Never\"");
    } else if !matches!(policy, "OnFailure" | "Never") {
        errs.not_supported(&policy_path, policy, &["OnFailure", "Never"]);
    } else if with_failure_policy && policy != "Never" {
        errs.invalid(&policy_path, policy, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

fn job_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub == Some("status") {
        status::validate(new, old, errs);
        return;
    }
    let spec = at(new, "spec").unwrap_or(&Value::Null);
    job_spec(new, "spec", &SPEC, errs);
    job_selector(spec, errs);
    if str_at(spec, "completionMode") != "Indexed" {
        checks::immutable(new, old, "spec.completions", errs);
    } else if let Some(completions) = int_at(spec, "completions").filter(|_| !same_at(new, old, "spec.completions"))
        && int_at(spec, "parallelism") != Some(completions)
    {
        errs.invalid(&SPEC.child("completions"), completions, "can only be modified in tandem with spec.parallelism");
    }
    checks::immutable(new, old, "spec.selector", errs);
    template_update(new, old, errs);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        metadata::immutable(new, old, &format!("spec.{field}"), &SPEC.child(field), errs);
    }
}

/// The template of a suspended Job without pods may change where its pods go and what they get.
fn template_update(new: &Value, old: &Value, errs: &mut ErrorList) {
    let stopped = list_at(old, "status.conditions")
        .iter()
        .any(|c| str_at(c, "type") == "Suspended" && str_at(c, "status") == "True");
    let idle = !is_set(old, "status.startTime") || stopped;
    if !bool_at(old, "spec.suspend") || !idle || int_at(old, "status.active").unwrap_or_default() > 0 {
        checks::immutable(new, old, "spec.template", errs);
        return;
    }
    let fixed = |job: &Value| {
        let mut template = checks::shown(job, "spec.template");
        for field in ["labels", "annotations"] {
            existing(&mut template, "metadata").and_then(|meta| remove(meta, field));
        }
        if let Some(spec) = existing(&mut template, "spec") {
            for field in ["nodeSelector", "tolerations", "schedulingGates"] {
                remove(spec, field);
            }
            existing(spec, "affinity").and_then(|affinity| remove(affinity, "nodeAffinity"));
            for list in ["containers", "initContainers"] {
                each(spec, list).for_each(|container| {
                    remove(container, "resources");
                });
            }
        }
        template
    };
    if !same(Some(&fixed(new)), Some(&fixed(old))) {
        errs.invalid(&SPEC.child("template"), checks::shown(new, "spec.template"), "field is immutable");
    }
}

fn cron(obj: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    let name = str_at(obj, "metadata.name");
    if old.is_none() && name.len() > 52 {
        errs.invalid(&Path::root("metadata.name"), name, "must be no more than 52 characters");
    }
    let spec = at(obj, "spec").unwrap_or(&Value::Null);
    let schedule = str_at(spec, "schedule");
    let path = SPEC.child("schedule");
    if schedule.is_empty() {
        errs.required(&path, "");
    } else if schedule.contains("TZ") && !old.is_some_and(|old| str_at(old, "spec.schedule").contains("TZ")) {
        errs.invalid(&path, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    } else if let Err(text) = schedule_format(schedule) {
        errs.invalid(&path, schedule, text);
    }
    checks::non_negative_all(
        spec,
        &["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"],
        &SPEC,
        errs,
    );
    if let Some(zone) = at(spec, "timeZone").and_then(Value::as_str) {
        let path = SPEC.child("timeZone");
        if zone.is_empty() {
            errs.invalid(&path, zone, "timeZone must be nil or non-empty string");
        } else if zone.eq_ignore_ascii_case("local") {
            errs.invalid(
                &path,
                zone,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            );
        }
    }
    checks::one_of(
        str_at(spec, "concurrencyPolicy"),
        &["Allow", "Forbid", "Replace"],
        &SPEC.child("concurrencyPolicy"),
        errs,
    );
    if bool_at(spec, "jobTemplate.spec.manualSelector") {
        errs.not_supported(&SPEC.child("jobTemplate.spec.manualSelector"), true, &["nil", "false"]);
    }
    job_spec(obj, "spec.jobTemplate.spec", &SPEC.child("jobTemplate.spec"), errs);
}

/// The shape of a cron schedule: five fields, a descriptor, or `@every`.
fn schedule_format(schedule: &str) -> Result<(), String> {
    const NAMES: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    if schedule.starts_with('@') {
        let known =
            NAMES.contains(&schedule) || schedule.strip_prefix("@every ").is_some_and(|every| !every.is_empty());
        return if known { Ok(()) } else { Err(format!("unrecognized descriptor: {schedule}")) };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let bounds = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
    fields.iter().zip(bounds).try_for_each(|(field, (low, high))| {
        field.split(',').try_for_each(|part| {
            let range = part.split('/').next().unwrap_or_default();
            if matches!(range, "*" | "?") {
                return Ok(());
            }
            range.split('-').try_for_each(|number| match number.parse::<i64>() {
                Ok(n) if n < low => Err(format!("beginning of range ({n}) below minimum ({low}): {part}")),
                Ok(n) if n > high => Err(format!("end of range ({n}) above maximum ({high}): {part}")),
                Ok(_) => Ok(()),
                Err(_) if number.len() == 3 && number.chars().all(|c| c.is_ascii_alphabetic()) && high <= 12 => Ok(()),
                Err(_) => Err(format!(
                    "failed to parse int from {number}: strconv.Atoi: parsing \"{number}\": invalid syntax"
                )),
            })
        })
    })
}

const JOB_COLUMNS: &[Column] = &[
    NAME,
    text("Status"),
    text("Completions"),
    text("Duration"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn job_row(obj: &Value, now: Timestamp) -> Row {
    let condition = |kind: &str| {
        list_at(obj, "status.conditions").iter().any(|c| str_at(c, "type") == kind && str_at(c, "status") == "True")
    };
    let status = if condition("Complete") {
        "Complete"
    } else if condition("Failed") {
        "Failed"
    } else if is_set(obj, "metadata.deletionTimestamp") {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
            .into_iter()
            .find(|kind| condition(kind))
            .unwrap_or("Running")
    };
    let done = int_at(obj, "status.succeeded").unwrap_or_default();
    let completions = match (int_at(obj, "spec.completions"), int_at(obj, "spec.parallelism").unwrap_or_default()) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{done}/1 of {parallelism}"),
        (None, _) => format!("{done}/1"),
    };
    let moment = |path: &str| str_at(obj, path).parse::<Timestamp>().ok();
    let duration = moment("status.startTime")
        .map(|start| moment("status.completionTime").unwrap_or(now).duration_since(start).as_secs())
        .map(human_duration)
        .unwrap_or_default();
    let [names, images] = containers(obj, "spec.template.spec.containers");
    vec![
        name(obj),
        status.into(),
        completions.into(),
        duration.into(),
        age(obj, now),
        names,
        images,
        selector(obj, "spec.selector"),
    ]
}

const CRON_COLUMNS: &[Column] = &[
    NAME,
    text("Schedule"),
    text("Timezone"),
    boolean("Suspend"),
    number("Active"),
    text("Last Schedule"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn cron_row(obj: &Value, now: Timestamp) -> Row {
    let suspend = match at(obj, "spec.suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match str_at(obj, "status.lastScheduleTime") {
        "" => "<none>".to_string(),
        moment => since(moment, now),
    };
    let [names, images] = containers(obj, "spec.jobTemplate.spec.template.spec.containers");
    vec![
        name(obj),
        str_at(obj, "spec.schedule").into(),
        super::table::or_none(str_at(obj, "spec.timeZone")),
        suspend.into(),
        list_at(obj, "status.active").len().into(),
        last.into(),
        age(obj, now),
        names,
        images,
        selector(obj, "spec.jobTemplate.spec.selector"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in ["* * * * *", "*/5 0-6 1,15 jan mon", "@hourly", "@every 5m"] {
            assert_eq!(schedule_format(good), Ok(()), "{good}");
        }
        assert_eq!(schedule_format("* *"), Err("expected exactly 5 fields, found 2: [* *]".to_string()));
        assert!(schedule_format("60 * * * *").is_err());
    }
}
