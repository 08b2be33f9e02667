//! Validation of probes and lifecycle hooks.

use serde_json::Value;

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    names,
    value::{at, int_at, list_at, str_at},
};

const PROBE_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];

/// Hooks and probes of a container that runs on.
pub(crate) fn lifecycle_and_probes(spec: &Value, container: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let grace = int_at(spec, "terminationGracePeriodSeconds");
    if let Some(lifecycle) = at(container, "lifecycle") {
        let path = path.child("lifecycle");
        for hook in ["postStart", "preStop"] {
            if let Some(handler) = at(lifecycle, hook) {
                self::handler(handler, HOOK_HANDLERS, grace, &path.child(hook), errs);
            }
        }
        if at(lifecycle, "stopSignal").is_some() && at(spec, "os.name").is_none() {
            errs.forbidden(&path.child("stopSignal"), "may not be set for containers with empty `spec.os.name`");
        }
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = at(container, kind) {
            self::probe(probe, kind, &path.child(kind), errs);
        }
    }
}

fn probe(probe: &Value, kind: &str, path: &Path<'_>, errs: &mut ErrorList) {
    handler(probe, PROBE_HANDLERS, None, path, errs);
    let numbers = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    checks::non_negative_all(probe, &numbers, path, errs);
    let grace = int_at(probe, "terminationGracePeriodSeconds");
    let grace_path = path.child("terminationGracePeriodSeconds");
    if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
        errs.invalid(&grace_path, seconds, "must be greater than 0");
    }
    if kind == "readinessProbe" {
        if let Some(seconds) = grace {
            errs.invalid(&grace_path, seconds, "must not be set for readinessProbes");
        }
    } else if let Some(threshold) = int_at(probe, "successThreshold").filter(|threshold| *threshold != 1) {
        errs.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

fn handler(handler: &Value, kinds: &[&str], grace: Option<i64>, path: &Path<'_>, errs: &mut ErrorList) {
    let mut found = false;
    for kind in kinds {
        let Some(action) = at(handler, kind) else { continue };
        let path = path.child(kind);
        if found {
            errs.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match *kind {
            "exec" => {
                if list_at(action, "command").is_empty() {
                    errs.required(&path.child("command"), "");
                }
            }
            "httpGet" => http_get(action, &path, errs),
            "tcpSocket" => checks::port_or_name(action.get("port"), &path.child("port"), errs),
            "grpc" => checks::port(int_at(action, "port").unwrap_or_default(), &path.child("port"), errs),
            _ => {
                let seconds = int_at(action, "seconds").unwrap_or_default();
                if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
                    errs.invalid(
                        &path,
                        seconds,
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})"),
                    );
                }
            }
        }
    }
    if !found {
        errs.required(path, "must specify a handler type");
    }
}

fn http_get(action: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    if str_at(action, "path").is_empty() {
        errs.required(&path.child("path"), "");
    }
    checks::port_or_name(action.get("port"), &path.child("port"), errs);
    let scheme = str_at(action, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errs.not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in list_at(action, "httpHeaders") {
        let name = str_at(header, "name");
        names::http_header(name).into_iter().for_each(|text| errs.invalid(&path.child("httpHeaders"), name, text));
    }
}
