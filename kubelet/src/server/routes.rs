//! Which path is what. Pure.

use http::Method;

use super::query::segments;
use super::streams::Target;

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Health,
    Pods,
    RunningPods,
    Summary,
    Metrics,
    ResourceMetrics,
    CadvisorMetrics,
    ProbeMetrics,
    Configz,
    ContainerLogs {
        namespace: String,
        pod: String,
        container: String,
    },
    Exec(Target),
    Attach(Target),
    PortForward {
        namespace: String,
        pod: String,
        uid: Option<String>,
    },
    Run(Target),
    /// Path below the log directory.
    SystemLogs(String),
    Checkpoint {
        namespace: String,
        pod: String,
        container: String,
    },
    /// `/statusz` or `/flagz`.
    Page,
    /// The path exists, not with this method.
    WrongMethod,
    NotFound,
}

impl Route {
    /// Served only with `enableDebuggingHandlers`.
    pub(super) fn is_debug(&self) -> bool {
        matches!(
            self,
            Self::RunningPods
                | Self::ContainerLogs { .. }
                | Self::Exec(_)
                | Self::Attach(_)
                | Self::PortForward { .. }
                | Self::Run(_)
                | Self::SystemLogs(_)
        )
    }

    /// What metrics call the path: its first part, or of metrics all of it; unknown paths have no name of their own.
    pub(super) fn label(&self, path: &str) -> String {
        match self {
            Self::NotFound | Self::WrongMethod => "other".to_owned(),
            Self::ResourceMetrics | Self::CadvisorMetrics | Self::ProbeMetrics => path.trim_end_matches('/').to_owned(),
            _ => path.split('/').next().unwrap_or_default().to_owned(),
        }
    }

    /// Whether an answer may take as long as its client likes.
    pub(super) fn is_streaming(&self) -> bool {
        matches!(self, Self::Exec(_) | Self::Attach(_) | Self::PortForward { .. } | Self::ContainerLogs { .. })
    }

    /// Served on the read-only port too.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(
            self,
            Self::Health
                | Self::Pods
                | Self::Summary
                | Self::Metrics
                | Self::ResourceMetrics
                | Self::CadvisorMetrics
                | Self::ProbeMetrics
        )
    }
}

fn target(parts: &[&str]) -> Option<Target> {
    let (namespace, pod, uid, container) = match *parts {
        [namespace, pod, container] => (namespace, pod, None, container),
        [namespace, pod, uid, container] => (namespace, pod, Some(uid.to_owned()), container),
        _ => return None,
    };
    Some(Target { namespace: namespace.into(), pod: pod.into(), uid, container: container.into() })
}

/// Finds the route.
pub(super) fn route(method: &Method, path: &str) -> Route {
    if path == "/healthz" || path.starts_with("/healthz/") {
        return Route::Health;
    }
    let parts = segments(path);
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Route::NotFound;
    }
    let found = match parts.as_slice() {
        ["pods"] => Route::Pods,
        ["runningpods"] => Route::RunningPods,
        ["stats", "summary"] | ["stats"] => Route::Summary,
        ["metrics"] => Route::Metrics,
        ["metrics", "resource"] => Route::ResourceMetrics,
        ["metrics", "cadvisor"] => Route::CadvisorMetrics,
        ["metrics", "probes"] => Route::ProbeMetrics,
        ["configz"] => Route::Configz,
        ["statusz"] | ["flagz"] => Route::Page,
        ["containerLogs", namespace, pod, container] => {
            Route::ContainerLogs { namespace: (*namespace).into(), pod: (*pod).into(), container: (*container).into() }
        }
        ["exec", rest @ ..] => target(rest).map_or(Route::NotFound, Route::Exec),
        ["attach", rest @ ..] => target(rest).map_or(Route::NotFound, Route::Attach),
        ["run", rest @ ..] => target(rest).map_or(Route::NotFound, Route::Run),
        ["portForward", namespace, pod] => {
            Route::PortForward { namespace: (*namespace).into(), pod: (*pod).into(), uid: None }
        }
        ["portForward", namespace, pod, uid] => {
            Route::PortForward { namespace: (*namespace).into(), pod: (*pod).into(), uid: Some((*uid).into()) }
        }
        ["logs", rest @ ..] => Route::SystemLogs(rest.join("/")),
        ["checkpoint", namespace, pod, container] => {
            Route::Checkpoint { namespace: (*namespace).into(), pod: (*pod).into(), container: (*container).into() }
        }
        _ => Route::NotFound,
    };
    let fits = match &found {
        Route::Exec(_) | Route::Attach(_) | Route::PortForward { .. } => {
            matches!(*method, Method::GET | Method::POST)
        }
        Route::Run(_) | Route::Checkpoint { .. } => *method == Method::POST,
        Route::NotFound => true,
        Route::Metrics | Route::ResourceMetrics | Route::CadvisorMetrics | Route::ProbeMetrics => {
            matches!(*method, Method::GET | Method::HEAD)
        }
        _ => *method == Method::GET,
    };
    if fits { found } else { Route::WrongMethod }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let exec = |uid: Option<&str>| {
            Route::Exec(Target {
                namespace: "ns".into(),
                pod: "p".into(),
                uid: uid.map(str::to_owned),
                container: "c".into(),
            })
        };
        let forward = |uid: Option<&str>| Route::PortForward {
            namespace: "ns".into(),
            pod: "p".into(),
            uid: uid.map(str::to_owned),
        };
        for (method, path, want) in [
            (Method::GET, "/healthz", Route::Health),
            (Method::GET, "/healthz/syncloop", Route::Health),
            (Method::GET, "/pods", Route::Pods),
            (Method::GET, "/pods/", Route::Pods),
            (Method::POST, "/pods", Route::WrongMethod),
            (Method::GET, "/runningpods/", Route::RunningPods),
            (Method::POST, "/exec/ns/p/c", exec(None)),
            (Method::GET, "/exec/ns/p/u/c", exec(Some("u"))),
            (Method::GET, "/exec/ns/p", Route::NotFound),
            (Method::GET, "/exec/ns//c", Route::NotFound),
            (Method::POST, "/portForward/ns/p", forward(None)),
            (Method::POST, "/portForward/ns/p/u", forward(Some("u"))),
            (Method::GET, "/run/ns/p/c", Route::WrongMethod),
            (Method::GET, "/logs/", Route::SystemLogs(String::new())),
            (Method::GET, "/logs/a/b", Route::SystemLogs("a/b".into())),
            (
                Method::POST,
                "/checkpoint/ns/p/c",
                Route::Checkpoint { namespace: "ns".into(), pod: "p".into(), container: "c".into() },
            ),
            (Method::GET, "/metrics/resource", Route::ResourceMetrics),
            (Method::GET, "/statusz", Route::Page),
            (Method::GET, "/", Route::NotFound),
        ] {
            assert_eq!(route(&method, path), want, "{method} {path}");
        }
    }
}
