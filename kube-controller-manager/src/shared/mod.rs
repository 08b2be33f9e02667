//! What several controllers need and no single one owns: pod predicates, claiming by
//! controllerRef, expectations, batches, hashes. Everything here but `pod_control` is pure.

pub(crate) mod apierr;
pub(crate) mod backoff;
pub(crate) mod batch;
pub(crate) mod bootstrap_token;
pub(crate) mod consistency;
pub(crate) mod csr;
pub(crate) mod discovery;
mod dump;
pub(crate) mod eviction;
pub(crate) mod expectations;
pub(crate) mod freshness;
pub(crate) mod hash;
pub(crate) mod history;
pub(crate) mod meta;
pub(crate) mod metrics;
pub(crate) mod overlay;
pub(crate) mod owned;
pub(crate) mod owner;
pub(crate) mod pod_control;
pub(crate) mod pods;
pub(crate) mod protection;
pub(crate) mod ranking;
pub(crate) mod scale;
pub(crate) mod selector;
pub(crate) mod services;
pub(crate) mod token_secret;
pub(crate) mod volumes;
