//! `componentstatuses`: asks the scheduler, the controller manager and the store how they are. Deprecated upstream, but listed.

use std::time::Duration;

use http::{Method, Response};
use serde_json::{Value, json};

use super::super::output;
use crate::{
    request::{ApiError, ApiResult, negotiate, negotiate::Form},
    resources::table,
    server::{
        Call,
        response::{self, Body},
    },
};

/// Names and the ports on loopback that upstream assumes.
const DAEMONS: [(&str, u16); 2] = [("controller-manager", 10257), ("scheduler", 10259)];
const STORE: &str = "etcd-0";
const PROBE: Duration = Duration::from_secs(20);

/// Serves GET of the list or of one component.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call) -> ApiResult<Response<Body>> {
    if call.method != Method::GET && call.method != Method::HEAD {
        return Err(ApiError::method_not_allowed());
    }
    let wanted = negotiate::output(&call.headers, false)?;
    call.warn("v1 ComponentStatus is deprecated in v1.19+");
    let name = call.info.name.as_str();
    let value = if name.is_empty() {
        let (mut items, store) = tokio::join!(
            futures::future::join_all(DAEMONS.iter().map(|(name, port)| daemon(call, name, *port))),
            store(call)
        );
        items.push(store);
        json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items})
    } else if let Some((name, port)) = DAEMONS.iter().find(|(daemon, _)| *daemon == name) {
        daemon(call, name, *port).await
    } else if name == STORE {
        store(call).await
    } else {
        return Err(ApiError::not_found("", "componentstatus", name));
    };
    let value = match wanted.form {
        Form::Object => value,
        Form::Metadata(version) => output::partial(&value, version),
        Form::Table(version) => {
            let one = [value.clone()];
            let items = value["items"].as_array().map_or(&one[..], Vec::as_slice);
            let include = output::include_object(call)?;
            let mut table = table::table("", "componentstatuses", items, &value["metadata"], include);
            table["apiVersion"] = format!("meta.k8s.io/{version}").into();
            table
        }
    };
    Ok(response::object(200, &value, call.style(wanted.encoding)))
}

async fn daemon(call: &Call, name: &str, port: u16) -> Value {
    let answer = tokio::time::timeout(PROBE, call.server.backends.probe("127.0.0.1", port, "/healthz")).await;
    match answer {
        Ok(Ok((true, text))) => component(name, "True", &text, ""),
        Ok(Ok((false, text))) => component(name, "False", &text, ""),
        Ok(Err(error)) => component(name, "False", &format!("Get \"https://127.0.0.1:{port}/healthz\": {error}"), ""),
        Err(_) => component(name, "False", &format!("Get \"https://127.0.0.1:{port}/healthz\": timeout"), ""),
    }
}

async fn store(call: &Call) -> Value {
    match call.registry.store().health().await {
        Ok(()) => component(STORE, "True", "ok", ""),
        Err(error) => component(STORE, "False", "", &error.to_string()),
    }
}

fn component(name: &str, status: &str, message: &str, error: &str) -> Value {
    let mut condition = json!({"type": "Healthy", "status": status});
    for (member, text) in [("message", message), ("error", error)] {
        if !text.is_empty() {
            condition[member] = text.into();
        }
    }
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]})
}
