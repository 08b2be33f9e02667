//! IP families of a Service: inferred, defaulted and checked before addresses are allocated.

use serde_json::{Value, json};

use crate::resources::{
    field::{ErrorList, Path},
    value::{existing, list_at, map_at, same_at, set, str_at},
};

/// The family of an address as the API names it.
pub(super) fn family_of(ip: &str) -> &'static str {
    if ip.contains(':') { "IPv6" } else { "IPv4" }
}

fn truncate(service: &mut Value, field: &str) {
    if let Some(list) = existing(service, "spec").and_then(|spec| spec.get_mut(field)).and_then(Value::as_array_mut) {
        list.truncate(1);
    }
}

fn set_spec(service: &mut Value, field: &str, value: Value) {
    if let Some(spec) = existing(service, "spec") {
        set(spec, field, value);
    }
}

/// True when an update of a PreferDualStack service leaves everything about addresses alone.
pub(super) fn unchanged_prefer_dual(new: &Value, old: Option<&Value>) -> bool {
    old.is_some_and(|old| {
        str_at(new, "spec.ipFamilyPolicy") == "PreferDualStack"
            && ["spec.type", "spec.clusterIPs", "spec.ipFamilies", "spec.ipFamilyPolicy"]
                .iter()
                .all(|field| same_at(new, old, field))
    })
}

/// Fills `ipFamilyPolicy` and `ipFamilies`. `configured` are the cluster's families, the primary one first.
pub(super) fn init(service: &mut Value, old: Option<&Value>, configured: &[&'static str]) -> Result<(), ErrorList> {
    if str_at(service, "spec.type") == "ExternalName" || unchanged_prefer_dual(service, old) {
        return Ok(());
    }
    let headless = str_at(service, "spec.clusterIP") == "None";
    let selectorless = map_at(service, "spec.selector").is_none_or(|selector| selector.is_empty());
    if str_at(service, "spec.ipFamilyPolicy").is_empty() {
        let before = old.map(|old| str_at(old, "spec.ipFamilyPolicy")).unwrap_or_default();
        let policy = match before {
            "" if headless && selectorless => "RequireDualStack",
            "" => "SingleStack",
            before => before,
        };
        set_spec(service, "ipFamilyPolicy", policy.into());
    }
    let mut errs = ErrorList::new();
    crate::resources::service::validate_cluster_ips(service, old, &mut errs);
    if errs.is_empty() {
        shrink(service, old, &mut errs);
        infer(service, configured, &mut errs);
    }
    if errs.is_empty() && !(headless && selectorless) {
        check_configured(service, configured, &mut errs);
    }
    if !errs.is_empty() {
        return Err(errs);
    }
    let mut families = families(service);
    if families.is_empty() {
        families.extend(configured.first().map(ToString::to_string));
    }
    let dual = str_at(service, "spec.ipFamilyPolicy") != "SingleStack";
    if dual && families.len() == 1 && (configured.len() == 2 || (headless && selectorless)) {
        families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.to_string());
    }
    set_spec(service, "ipFamilies", json!(families));
    Ok(())
}

fn families(service: &Value) -> Vec<String> {
    list_at(service, "spec.ipFamilies").iter().filter_map(|f| f.as_str().map(str::to_string)).collect()
}

/// Single-stack drops second entries that nobody asked to change; other policies may not lose them.
fn shrink(service: &mut Value, old: Option<&Value>, errs: &mut ErrorList) {
    let path = Path::root("spec.ipFamilyPolicy");
    let policy = str_at(service, "spec.ipFamilyPolicy").to_string();
    let fields = [
        ("clusterIPs", "must be 'SingleStack' to release the secondary cluster IP"),
        ("ipFamilies", "must be 'SingleStack' to release the secondary IP family"),
    ];
    if let Some(old) = old {
        for (field, detail) in fields {
            let at = format!("spec.{field}");
            let (now, before) = (list_at(service, &at), list_at(old, &at));
            if policy != "SingleStack" {
                if before.len() == 2 && now.len() == 1 && now.first() == before.first() {
                    errs.invalid(&path, policy.as_str(), detail);
                }
            } else if now == before && now.len() > 1 {
                truncate(service, field);
            }
        }
    }
    if policy == "SingleStack" {
        for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if list_at(service, &format!("spec.{field}")).len() == 2 {
                errs.invalid(
                    &path,
                    policy.as_str(),
                    format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"),
                );
            }
        }
    }
}

/// Families follow from addresses that were given.
fn infer(service: &mut Value, configured: &[&str], errs: &mut ErrorList) {
    let ips = list_at(service, "spec.clusterIPs").to_vec();
    let mut families = families(service);
    for (i, ip) in ips.iter().filter_map(Value::as_str).enumerate() {
        if ip == "None" {
            break;
        }
        if i < families.len() {
            continue;
        }
        let family = family_of(ip);
        if configured.contains(&family) {
            families.push(family.to_string());
        } else {
            errs.invalid(
                &Path::root("spec.clusterIPs").index(i),
                ips.clone(),
                format!("{family} is not configured on this cluster"),
            );
        }
    }
    if !families.is_empty() {
        set_spec(service, "ipFamilies", json!(families));
    }
}

fn check_configured(service: &Value, configured: &[&str], errs: &mut ErrorList) {
    if str_at(service, "spec.ipFamilyPolicy") == "RequireDualStack" && configured.len() < 2 {
        errs.invalid(
            &Path::root("spec.ipFamilyPolicy"),
            "RequireDualStack",
            "this cluster is not configured for dual-stack services",
        );
    }
    for (i, family) in families(service).iter().enumerate() {
        if !configured.contains(&family.as_str()) {
            errs.invalid(&Path::root("spec.ipFamilies").index(i), family.as_str(), "not configured on this cluster");
        }
    }
}
