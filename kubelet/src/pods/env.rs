//! A container's environment: envFrom, env, service links, `$(NAME)` expansion. Pure over the objects it is given.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, FileKeySelector, Pod, Secret, Service};

use super::fields::{self, FieldContext};

/// Variables in order; a later one of the same name replaces the earlier.
pub(crate) type EnvVars = Vec<(String, String)>;

/// Objects that variables are read from.
pub(crate) trait Objects {
    /// A config map of the pod's namespace; an error says why there is none.
    fn config_map(&self, name: &str) -> Result<std::sync::Arc<ConfigMap>, ObjectError>;
    /// A secret of the pod's namespace.
    fn secret(&self, name: &str) -> Result<std::sync::Arc<Secret>, ObjectError>;
    /// A value of a file in one of the pod's volumes; nothing when it may be absent, and is.
    fn file(&self, selector: &FileKeySelector) -> Result<Option<String>, String>;
}

/// Why an object cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ObjectError {
    /// There is none.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It could not be fetched yet.
    #[error("{0}")]
    Unavailable(String),
}

/// Builds the environment; the error text goes into the container's waiting message.
pub(crate) fn build(
    pod: &Pod,
    container: &Container,
    objects: &dyn Objects,
    services: &BTreeMap<String, String>,
    context: &FieldContext,
) -> Result<EnvVars, String> {
    let mut result = EnvVars::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match optional(objects.config_map(&reference.name), reference.optional)? {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        set(&mut result, format!("{prefix}{key}"), value.clone());
                    }
                }
                None => continue,
            }
        }
        if let Some(reference) = &source.secret_ref {
            match optional(objects.secret(&reference.name), reference.optional)? {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        set(&mut result, format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None => continue,
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, container, variable, objects, services, &result, context)? {
            set(&mut result, variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        if !result.iter().any(|(have, _)| have == name) {
            result.push((name.clone(), value.clone()));
        }
    }
    Ok(result)
}

fn set(result: &mut EnvVars, name: String, value: String) {
    match result.iter_mut().find(|(have, _)| *have == name) {
        Some(entry) => entry.1 = value,
        None => result.push((name, value)),
    }
}

fn optional<T>(object: Result<T, ObjectError>, optional: Option<bool>) -> Result<Option<T>, String> {
    match object {
        Ok(object) => Ok(Some(object)),
        Err(ObjectError::NotFound { .. }) if optional == Some(true) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

#[allow(clippy::too_many_arguments, reason = "the surroundings of one variable; a struct would only rename them")]
fn value_of(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    objects: &dyn Objects,
    services: &BTreeMap<String, String>,
    so_far: &EnvVars,
    context: &FieldContext,
) -> Result<Option<String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(value) = variable.value.as_deref().filter(|value| !value.is_empty()) {
        let lookup = |name: &str| {
            let own = so_far.iter().find(|(have, _)| have == name).map(|(_, value)| value.clone());
            own.or_else(|| services.get(name).cloned())
        };
        return Ok(Some(expand_with(value, lookup)));
    }
    let Some(source) = &variable.value_from else { return Ok(Some(String::new())) };
    if let Some(field) = &source.field_ref {
        return fields::of_pod(pod, &field.field_path, context).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return fields::of_resources(pod, Some(container), resource, context).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let Some(map) = optional(objects.config_map(&key.name), key.optional)? else { return Ok(None) };
        return match map.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if key.optional == Some(true) => Ok(None),
            None => Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", key.key, key.name)),
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let Some(secret) = optional(objects.secret(&key.name), key.optional)? else { return Ok(None) };
        return match secret.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if key.optional == Some(true) => Ok(None),
            None => Err(format!("couldn't find key {} in Secret {namespace}/{}", key.key, key.name)),
        };
    }
    if let Some(selector) = &source.file_key_ref {
        return objects.file(selector);
    }
    Err(format!("environment variable {:?} has an unsupported source", variable.name))
}

/// Replaces `$(NAME)` of known names; `$$(` is a literal `$(`.
pub(crate) fn expand(text: &str, envs: &EnvVars) -> String {
    expand_with(text, |name| envs.iter().find(|(have, _)| have == name).map(|(_, value)| value.clone()))
}

/// As [`expand`], with the names' values from a function.
pub(crate) fn expand_with(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Docker-style variables of the services that a pod of `namespace` sees.
pub(crate) fn of_services<'a>(
    services: impl Iterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut envs = BTreeMap::new();
    for service in services {
        let of = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let master = of == "default" && name == "kubernetes";
        let visible = master || (links && of == namespace);
        if !visible {
            continue;
        }
        if master && links && namespace != "default" && envs.contains_key("KUBERNETES_SERVICE_HOST") {
            continue; // a service of that name in the pod's own namespace comes first
        }
        let spec = service.spec.clone().unwrap_or_default();
        let ip = spec.cluster_ip.unwrap_or_default();
        let ports = spec.ports.unwrap_or_default();
        let (false, Some(first)) = (ip.is_empty() || ip == "None", ports.first()) else { continue };
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
        let name = name.to_uppercase().replace('-', "_");
        envs.insert(format!("{name}_SERVICE_HOST"), ip.clone());
        envs.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        for (index, port) in ports.iter().enumerate() {
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let port_name = port_name.to_uppercase().replace('-', "_");
                envs.insert(format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                envs.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
            envs.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            envs.insert(format!("{prefix}_PORT"), port.port.to_string());
            envs.insert(format!("{prefix}_ADDR"), ip.clone());
            envs.insert(prefix, url);
        }
    }
    envs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion() {
        let envs = vec![("A".to_owned(), "1".to_owned())];
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, &envs), want, "{text}");
        }
    }
}
