//! The core group without pods, services and controllers.

use super::rules::Rules;

pub(crate) mod config;
mod endpoints;
mod event;
mod limit_range;
pub mod namespace;
pub(crate) mod node;
mod quota;
mod volume;

pub(crate) use volume::{claim_defaults, validate_claim_spec};

pub(crate) const RULES: &[&[Rules]] =
    &[config::RULES, endpoints::RULES, event::RULES, namespace::RULES, node::RULES, quota::RULES, volume::RULES];
