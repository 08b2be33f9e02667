//! A pod's claims as allocation sees them, prepared once for all nodes.

use std::sync::Arc;

use k8s_openapi::api::resource::v1::{
    DeviceClass, DeviceRequest, DeviceSelector, DeviceTaint, DeviceToleration, ResourceClaim,
};

use super::capacity::Amounts;
use super::constraint::Constraint;
use super::devices::Slice;
use super::{Features, amount};
use crate::plugins::dynamic_resources::cel::{Compiled, Programs};

/// How many devices one claim may get.
pub const MAX_RESULTS: usize = 32;

/// One way to satisfy a request: the request itself, or one of its alternatives.
pub struct Want {
    /// The request that this is an alternative of.
    pub parent: Option<String>,
    /// Its own name.
    pub name: String,
    /// The class.
    pub class: Arc<DeviceClass>,
    /// How many devices; `None` for all there are.
    pub count: Option<usize>,
    /// Whether devices that others have are fine.
    pub admin: bool,
    /// Which taints do not matter.
    pub tolerations: Vec<DeviceToleration>,
    /// How much of each device.
    pub capacity: Amounts,
    /// Selectors of class and claim, each with the words that blame it.
    selectors: Vec<(String, Compiled)>,
}

impl Want {
    /// As results and configurations name it.
    pub fn full_name(&self) -> String {
        match &self.parent {
            Some(parent) => format!("{parent}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// As constraints name it.
    pub fn key(&self) -> (Option<&str>, &str) {
        (self.parent.as_deref(), &self.name)
    }

    /// Whether class and claim select a device.
    pub fn selects(&self, slice: &Slice, device: usize) -> Result<bool, String> {
        for (blame, compiled) in &self.selectors {
            let program = compiled.as_ref().map_err(|error| format!("{blame}: CEL compile error: {error}"))?;
            let verdict = slice.selected_by(program, device);
            if !verdict.map_err(|error| format!("{blame}: CEL runtime error: {error}"))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether every taint that keeps claims away is tolerated.
    pub fn tolerates(&self, taints: &[DeviceTaint]) -> bool {
        let mut hard = taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoExecute" | "NoSchedule"));
        hard.all(|taint| self.tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    }
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    given(&toleration.effect).is_none_or(|effect| effect == taint.effect)
        && given(&toleration.key).is_none_or(|key| key == taint.key)
        && match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => {
                toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
            "Exists" => true,
            _ => false,
        }
}

/// One claim.
pub struct Wanted {
    /// The claim.
    pub claim: Arc<ResourceClaim>,
    /// Per request, its alternatives (one for a plain request).
    pub requests: Vec<Vec<Want>>,
    /// Constraints with nothing picked.
    pub constraints: Vec<Constraint>,
}

/// The claims of a pod that need devices.
pub struct Problem {
    /// In order.
    pub claims: Vec<Wanted>,
    /// What is on.
    pub features: Features,
}

/// `namespace/name`
pub fn key(claim: &ResourceClaim) -> String {
    let meta = &claim.metadata;
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// The fields that requests and their alternatives share.
struct Fields<'a> {
    parent: Option<&'a str>,
    name: &'a str,
    class: &'a str,
    mode: Option<&'a str>,
    count: Option<i64>,
    admin: bool,
    selectors: &'a [DeviceSelector],
    tolerations: &'a [DeviceToleration],
    capacity: Amounts,
}

impl Problem {
    /// Prepares claims. Errors are upstream's, and end the pod's attempt.
    pub fn new<'c>(
        claims: impl IntoIterator<Item = &'c Arc<ResourceClaim>>,
        class: impl Fn(&str) -> Option<Arc<DeviceClass>>,
        programs: &Programs,
        features: Features,
    ) -> Result<Self, String> {
        let claims: Result<_, String> =
            claims.into_iter().map(|claim| wanted(claim, &class, programs, features)).collect();
        Ok(Self { claims: claims?, features })
    }
}

fn wanted(
    claim: &Arc<ResourceClaim>,
    class: &dyn Fn(&str) -> Option<Arc<DeviceClass>>,
    programs: &Programs,
    features: Features,
) -> Result<Wanted, String> {
    let devices = claim.spec.devices.as_ref();
    let mut requests = Vec::new();
    for request in devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
        let sub_requests = request.first_available.iter().flatten().count();
        if sub_requests > 0 && !features.prioritized_list {
            return Err(format!(
                "claim {}, request {}: has subrequests, but the DRAPrioritizedList feature is disabled",
                key(claim),
                request.name
            ));
        }
        let choices: Result<Vec<_>, String> =
            fields(request).into_iter().map(|fields| want(claim, fields, class, programs, features)).collect();
        requests.push(choices?);
    }
    let constraints = devices.iter().flat_map(|devices| devices.constraints.iter().flatten()).enumerate();
    let constraints: Result<Vec<_>, String> = constraints
        .map(|(at, constraint)| {
            let unknown =
                || format!("claim {}, constraint #{at}: empty constraint (unsupported constraint type?)", key(claim));
            Constraint::of(constraint).ok_or_else(unknown)
        })
        .collect();
    Ok(Wanted { claim: claim.clone(), requests, constraints: constraints? })
}

fn fields(request: &DeviceRequest) -> Vec<Fields<'_>> {
    let capacity = |given: &Option<k8s_openapi::api::resource::v1::CapacityRequirements>| {
        let requests = given.iter().flat_map(|capacity| capacity.requests.iter().flatten());
        requests.map(|(name, value)| (name.clone(), amount(value))).collect()
    };
    if let Some(exact) = &request.exactly {
        return vec![Fields {
            parent: None,
            name: &request.name,
            class: &exact.device_class_name,
            mode: exact.allocation_mode.as_deref(),
            count: exact.count,
            admin: exact.admin_access == Some(true),
            selectors: exact.selectors.as_deref().unwrap_or_default(),
            tolerations: exact.tolerations.as_deref().unwrap_or_default(),
            capacity: capacity(&exact.capacity),
        }];
    }
    let alternatives = request.first_available.iter().flatten();
    alternatives
        .map(|choice| Fields {
            parent: Some(&request.name),
            name: &choice.name,
            class: &choice.device_class_name,
            mode: choice.allocation_mode.as_deref(),
            count: choice.count,
            admin: false,
            selectors: choice.selectors.as_deref().unwrap_or_default(),
            tolerations: choice.tolerations.as_deref().unwrap_or_default(),
            capacity: capacity(&choice.capacity),
        })
        .collect()
}

fn want(
    claim: &Arc<ResourceClaim>,
    fields: Fields<'_>,
    class: &dyn Fn(&str) -> Option<Arc<DeviceClass>>,
    programs: &Programs,
    features: Features,
) -> Result<Want, String> {
    let whose = format!("claim {}, request {}", key(claim), fields.name);
    if !features.consumable_capacity && !fields.capacity.is_empty() {
        return Err(format!("{whose}: has capacity requests, but the DRAConsumableCapacity feature is disabled"));
    }
    if fields.class.is_empty() {
        return Err(format!("{whose}: missing device class name (unsupported request type?)"));
    }
    let found = class(fields.class).ok_or_else(|| {
        let name = fields.class;
        format!("{whose}: could not retrieve device class {name}: deviceclass.resource.k8s.io {name:?} not found")
    })?;
    let count = match fields.mode.unwrap_or("ExactCount") {
        "ExactCount" => Some(usize::try_from(fields.count.unwrap_or(1)).unwrap_or(0)),
        "All" => None,
        other => return Err(format!("{whose}: unsupported count mode {other}")),
    };
    let mut selectors = Vec::new();
    let of_class =
        found.spec.selectors.iter().flatten().enumerate().map(|(at, s)| (format!("class {}", fields.class), at, s));
    let of_claim = fields.selectors.iter().enumerate().map(|(at, s)| (format!("claim {}", key(claim)), at, s));
    for (owner, at, selector) in of_class.chain(of_claim) {
        let Some(cel) = &selector.cel else {
            return Err(format!("{whose}, selector #{at}: CEL expression empty (unsupported selector type?)"));
        };
        selectors.push((format!("{owner}: selector #{at}"), programs.get(&cel.expression)));
    }
    Ok(Want {
        parent: fields.parent.map(str::to_owned),
        name: fields.name.to_owned(),
        class: found,
        count,
        admin: fields.admin,
        tolerations: fields.tolerations.to_vec(),
        capacity: fields.capacity,
        selectors,
    })
}
