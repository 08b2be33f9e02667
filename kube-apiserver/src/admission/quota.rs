//! ResourceQuota: charges what a write adds to the quotas of its namespace, or refuses it.
//!
//! `status.used` is written by compare-and-swap, so that servers beside each other never admit more than the limit; what is charged
//! for writes that fail later is given back when the controller counts again.

use std::collections::BTreeSet;

use async_trait::async_trait;
use common::quota::{Evaluator, is_ignored, pods};
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::{
    request::ApiResult,
    resources::{
        amounts::{self, Amounts},
        value::{same_at, str_at},
    },
    server::{Change, Mutation, Stored},
};

pub(super) struct ResourceQuota;

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let is_namespace = request.group.is_empty() && request.resource == "namespaces";
        if request.namespace.is_empty() || is_namespace || is_ignored(request.group, request.resource) {
            return Ok(());
        }
        let Some(object) = object.filter(|_| request.operation != Operation::Delete) else { return Ok(()) };
        let evaluator = Evaluator::of(request.group, request.resource);
        if !can_charge(&evaluator, request, object) {
            return Ok(());
        }
        let quotas = request.list("", "resourcequotas", Some(request.namespace)).await?;
        let write = Write { request, object, evaluator };
        let mut charged = Vec::new();
        for quota in &quotas {
            if write.charge(quota)?.is_some() {
                charged.push(str_at(quota, "metadata.name").to_owned());
            }
        }
        if request.dry_run {
            return Ok(());
        }
        let store = request.call.registry.core("resourcequotas")?;
        for name in charged {
            match store.modify(request.namespace, &name, &mut Charge(&write)).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

struct Write<'a> {
    request: &'a Attributes<'a>,
    object: &'a Value,
    evaluator: Evaluator,
}

impl Write<'_> {
    /// What a quota has in use after this write; absent when it is not concerned.
    ///
    /// # Errors
    /// 403 when the quota does not allow it.
    fn charge(&self, quota: &Value) -> ApiResult<Option<Amounts>> {
        let (request, evaluator) = (self.request, &self.evaluator);
        let name = str_at(quota, "metadata.name");
        let hard = amounts::amounts(quota, "status.hard");
        let restricted: BTreeSet<&str> = hard.keys().map(String::as_str).filter(|r| evaluator.counts(r)).collect();
        if restricted.is_empty() || !evaluator.in_scopes(quota, self.object) {
            return Ok(None);
        }
        evaluator
            .constraints(&restricted, self.object)
            .map_err(|why| request.forbidden(format!("failed quota: {name}: {why}")))?;
        let used = amounts::amounts(quota, "status.used");
        if restricted.iter().any(|resource| !used.contains_key(*resource)) {
            let list: Vec<&str> = restricted.into_iter().collect();
            return Err(request.forbidden(format!("status unknown for quota: {name}, resources: {}", list.join(","))));
        }
        let usage = evaluator.usage(self.object);
        let negative: Vec<&str> = usage.iter().filter(|(_, a)| a.sign() < 0).map(|(n, _)| n.as_str()).collect();
        if !negative.is_empty() {
            let list = negative.join(",");
            return Err(request.forbidden(format!("quota usage is negative for resource(s): {list}")));
        }
        let mut delta = match request.old.filter(|old| evaluator.in_scopes(quota, old)) {
            Some(old) if request.operation == Operation::Update => increase(usage, &evaluator.usage(old)),
            _ => usage,
        };
        delta.retain(|resource, amount| !amount.is_zero() && hard.contains_key(resource));
        if delta.is_empty() {
            return Ok(None);
        }
        let mut after = used.clone();
        amounts::add(&mut after, &delta);
        let exceeded = |resource: &String| delta.contains_key(resource) && after[resource] > hard[resource];
        let failed: BTreeSet<String> = delta.keys().filter(|r| exceeded(r)).cloned().collect();
        if !failed.is_empty() && request.subresource != "status" {
            let only = |list: &Amounts| {
                let part = list.iter().filter(|(r, _)| failed.contains(*r)).map(|(r, a)| (r.clone(), *a));
                amounts::text(&part.collect())
            };
            let (requested, used, limited) = (only(&delta), only(&used), only(&hard));
            return Err(request.forbidden(format!(
                "exceeded quota: {name}, requested: {requested}, used: {used}, limited: {limited}"
            )));
        }
        Ok(Some(after))
    }
}

/// What a write adds; what it gives back is counted by the controller.
fn increase(mut usage: Amounts, before: &Amounts) -> Amounts {
    for (resource, amount) in &mut usage {
        before.get(resource).into_iter().for_each(|b| amount.sub(b));
    }
    usage.retain(|_, amount| amount.sign() >= 0);
    usage
}

/// Whether a write can change what is used.
fn can_charge(evaluator: &Evaluator, request: &Attributes<'_>, object: &Value) -> bool {
    let (create, update) = (request.operation == Operation::Create, request.operation == Operation::Update);
    match (evaluator, request.subresource) {
        (Evaluator::Pods, "") => {
            create || update && request.old.is_some_and(|old| pods::terminating(old) != pods::terminating(object))
        }
        (Evaluator::Pods, "resize") => update,
        (Evaluator::Claims, "status") => request.old.is_some_and(|old| {
            let paths = ["status.allocatedResources.storage", "status.currentVolumeAttributesClassName"];
            paths.iter().any(|path| !same_at(old, object, path))
        }),
        (Evaluator::Services | Evaluator::Claims | Evaluator::ResourceClaims, "") => create || update,
        (Evaluator::Count(_), "") => create,
        _ => false,
    }
}

struct Charge<'a>(&'a Write<'a>);

#[async_trait]
impl Mutation for Charge<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let mut quota = current.object.clone();
        let Some(used) = self.0.charge(&quota)? else { return Ok(Change::Keep(quota)) };
        quota["status"]["used"] = used
            .into_iter()
            .map(|(name, amount)| (name, Value::from(amount.to_string())))
            .collect::<serde_json::Map<_, _>>()
            .into();
        Ok(Change::Put(quota))
    }
}
