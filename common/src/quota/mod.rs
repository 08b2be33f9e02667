//! What objects cost, and which quotas they count for: the rules that admission and the quota controller share.
//!
//! Everything works on JSON trees and does no I/O.

pub mod amounts;
mod evaluate;
pub mod pods;
pub mod qos;

pub use evaluate::{Evaluator, is_ignored};
