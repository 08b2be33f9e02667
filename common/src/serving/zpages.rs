//! `/statusz` and `/flagz` (KEP-4827, KEP-4828): what runs here, and with which flags. Text for people, and
//! `config.k8s.io` objects for programs that name a version in their `Accept` header.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Body, body::respond, full, status};
use crate::config::{self, version};

const GROUP: &str = "config.k8s.io";
/// First segments of paths that are the API's, not for debugging.
const API: [&str; 5] = ["apis", "api", "openid", "openapi", ".well-known"];
/// The answer to those who want something else, as upstream words it.
const ACCEPTED: &str = "only the following media types are accepted: application/json, application/yaml, text/plain";

/// The pages of a daemon.
#[derive(Debug, Clone)]
pub struct ZPages {
    component: &'static str,
    started: Timestamp,
    /// The daemon's other paths; `None` without /statusz.
    paths: Option<BTreeSet<String>>,
    /// `None` without /flagz.
    flags: Option<BTreeMap<String, String>>,
}

/// In which form a page is wanted: as text, or as an object of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json(&'static str),
    Yaml(&'static str),
}

impl ZPages {
    /// The pages of `component`, whose other paths are these, as far as the gates ComponentStatusz and ComponentFlagz
    /// of the command line let them be.
    #[must_use]
    pub fn new(component: &'static str, paths: &[&str]) -> Self {
        Self::of(component, paths, config::flag_values())
    }

    fn of(component: &'static str, paths: &[&str], flags: BTreeMap<String, String>) -> Self {
        let gates = flags.get("feature-gates").map(String::as_str).unwrap_or_default();
        let gates = gates.trim_matches(['[', ']']);
        let flagz = config::is_beta_on(gates, "ComponentFlagz");
        let segment = |path: &&str| path.split('/').nth(1).map(str::to_owned);
        let segments = paths.iter().filter_map(segment).chain(flagz.then(|| "flagz".to_owned()));
        let hidden = |segment: &str| segment.is_empty() || segment == "statusz" || API.contains(&segment);
        let shown = segments.filter(|segment| !hidden(segment));
        let paths = shown.map(|segment| format!("/{segment}")).collect();
        Self {
            component,
            started: crate::telemetry::process_start(),
            paths: config::is_beta_on(gates, "ComponentStatusz").then_some(paths),
            flags: flagz.then_some(flags),
        }
    }

    /// The answer, if the path is one of the pages'.
    #[must_use]
    pub fn respond(&self, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let (kind, text, members) = match path {
            "/statusz" => ("Statusz", self.status_text(), self.status(self.paths.as_ref()?)),
            "/flagz" => ("Flagz", flags_text(self.flags.as_ref()?), json!({"flags": self.flags})),
            _ => return None,
        };
        let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let accept = accept.collect::<Vec<_>>().join(",");
        Some(match negotiate(&accept, kind) {
            None => status(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", ACCEPTED),
            Some(Form::Text) => {
                let page = &kind.to_lowercase();
                let head = format!(
                    "\n{} {page}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n",
                    self.component
                );
                respond(StatusCode::OK, "text/plain; charset=utf-8", full(head + &text))
            }
            Some(form @ (Form::Json(version) | Form::Yaml(version))) => {
                let object = self.object(kind, version, members);
                let mut response = match form {
                    Form::Yaml(_) => {
                        let yaml = serde_saphyr::to_string(&object).unwrap_or_default();
                        respond(StatusCode::OK, "application/yaml", full(yaml))
                    }
                    _ => respond(StatusCode::OK, "application/json", full(format!("{object}\n"))),
                };
                if version == "v1alpha1" {
                    let text = format!(
                        "299 - \"This version of the {} endpoint is deprecated. Please use a newer version.\"",
                        kind.to_lowercase()
                    );
                    let text = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("299"));
                    response.headers_mut().insert(header::WARNING, text);
                }
                response
            }
        })
    }

    fn object(&self, kind: &str, version: &str, members: Value) -> Value {
        let mut object = Map::new();
        object.insert("kind".into(), kind.into());
        object.insert("apiVersion".into(), format!("{GROUP}/{version}").into());
        object.insert("metadata".into(), json!({"name": self.component}));
        if let Value::Object(members) = members {
            object.extend(members.into_iter().filter(|(_, value)| !value.as_object().is_some_and(Map::is_empty)));
        }
        Value::Object(object)
    }

    fn uptime(&self) -> i64 {
        (Timestamp::now().as_second() - self.started.as_second()).max(0)
    }

    fn status(&self, paths: &BTreeSet<String>) -> Value {
        json!({
            "startTime": self.started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "uptimeSeconds": self.uptime(),
            "goVersion": version::info().go_version,
            "binaryVersion": binary_version(),
            "emulationVersion": emulation_version(),
            "paths": paths,
        })
    }

    fn status_text(&self) -> String {
        let up = self.uptime();
        let paths = self.paths.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ");
        let paths = if paths.is_empty() { paths } else { format!("Paths: {paths}") };
        format!(
            "\nStarted: {}\nUp: {} hr {:02} min {:02} sec\nGo version: {}\nBinary version: {}\nEmulation version: {}\n{paths}\n",
            self.started.strftime("%a %b %e %H:%M:%S UTC %Y"),
            up / 3600,
            up / 60 % 60,
            up % 60,
            version::info().go_version,
            binary_version(),
            emulation_version(),
        )
    }
}

fn binary_version() -> &'static str {
    version::GIT_VERSION.trim_start_matches('v')
}

fn emulation_version() -> String {
    format!("{}.{}", version::MAJOR, version::MINOR)
}

fn flags_text(flags: &BTreeMap<String, String>) -> String {
    flags.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

/// A parameter of a clause of an `Accept` header.
fn param<'a>(clause: &'a str, wanted: &str) -> Option<&'a str> {
    let mut params = clause.split(';').skip(1).filter_map(|part| part.split_once('='));
    params.find(|(key, _)| key.trim() == wanted).map(|(_, value)| value.trim())
}

/// The form of an `Accept` header; `None` when there is none such. Objects are only for those who name their kind.
fn negotiate(accept: &str, kind: &str) -> Option<Form> {
    if accept.trim().is_empty() {
        return Some(Form::Text);
    }
    let mut clauses: Vec<&str> = accept.split(',').collect();
    let quality = |clause: &str| -> f32 { param(clause, "q").and_then(|q| q.parse().ok()).unwrap_or(1.0) };
    clauses.sort_by(|a, b| quality(b).total_cmp(&quality(a)));
    clauses.into_iter().find_map(|clause| {
        let media_type = clause.split(';').next().unwrap_or_default().trim();
        let param = |wanted: &str| param(clause, wanted);
        let names = ["g", "v", "as"].map(param);
        let version = ["v1alpha1", "v1beta1"].into_iter().find(|v| names == [Some(GROUP), Some(v), Some(kind)]);
        let plain = names.iter().all(Option::is_none);
        match media_type {
            "application/json" => version.map(Form::Json),
            "application/yaml" => version.map(Form::Yaml),
            "application/*" | "*/*" if version.is_some() => version.map(Form::Json),
            "text/plain" | "text/*" | "*/*" if plain => Some(Form::Text),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn forms_are_negotiated_as_upstream_does() {
        for (accept, want) in [
            ("", Some(Form::Text)),
            ("*/*", Some(Form::Text)),
            ("text/plain", Some(Form::Text)),
            ("application/json", None),
            ("application/json;v=v1beta1;g=config.k8s.io;as=Statusz", Some(Form::Json("v1beta1"))),
            ("application/yaml;v=v1alpha1;g=config.k8s.io;as=Statusz", Some(Form::Yaml("v1alpha1"))),
            ("application/json;v=v2;g=config.k8s.io;as=Statusz", None),
            ("application/json;v=v1beta1;g=config.k8s.io;as=Flagz", None),
            ("application/json, text/plain;q=0.5", Some(Form::Text)),
            ("text/plain;q=0.1,application/json;v=v1beta1;g=config.k8s.io;as=Statusz", Some(Form::Json("v1beta1"))),
        ] {
            assert_eq!(negotiate(accept, "Statusz"), want, "{accept}");
        }
    }

    #[tokio::test]
    async fn pages() {
        let pages = ZPages::new("kube-test", &["/apis/apps", "/healthz", "/healthz/ping", "/metrics"]);
        let ask = async |path: &str, accept: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            let (parts, body) = pages.respond(path, &headers).unwrap().into_parts();
            (parts, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
        };
        let (_, text) = ask("/statusz", "text/plain").await;
        assert!(
            text.starts_with("\nkube-test statusz\nWarning: ") && text.ends_with("\nPaths: /flagz /healthz /metrics\n"),
            "{text}"
        );
        let (parts, text) = ask("/statusz", "application/json;v=v1alpha1;g=config.k8s.io;as=Statusz").await;
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&object["apiVersion"], &object["metadata"]["name"]),
            (&json!("config.k8s.io/v1alpha1"), &json!("kube-test"))
        );
        assert_eq!(object["paths"], json!(["/flagz", "/healthz", "/metrics"]));
        assert!(parts.headers.contains_key("warning"));
        assert_eq!(ask("/flagz", "application/json").await.0.status, 406);
        assert!(ask("/flagz", "*/*").await.1.starts_with("\nkube-test flagz\n"));
        let flags = BTreeMap::from([("feature-gates".to_owned(), "[ComponentStatusz=false,AllBeta=false]".to_owned())]);
        let off = ZPages::of("kube-test", &[], flags);
        assert!(
            off.respond("/statusz", &HeaderMap::new()).is_none() && off.respond("/flagz", &HeaderMap::new()).is_none()
        );
    }
}
