//! Authorization: may this user do this. Mechanisms are asked in the order of `--authorization-mode`; the first that
//! allows decides.

mod attributes;
pub mod node;
pub mod rbac;
pub mod rules;

pub use attributes::Attributes;
use node::NodeAuthorizer;
use rbac::Rbac;

use crate::{authn::MASTERS, request::ApiError};

/// One value of `--authorization-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything is allowed.
    AlwaysAllow,
    /// Nothing is allowed.
    AlwaysDeny,
    /// The Node authorizer.
    Node,
    /// Role-based access control.
    Rbac,
}

impl Mode {
    /// Parses a flag's values.
    ///
    /// # Errors
    /// Names the mode that is unknown or not supported yet.
    pub fn parse_all(values: &[String]) -> Result<Vec<Self>, String> {
        let mut modes = Vec::new();
        for value in values.iter().flat_map(|v| v.split(',')).map(str::trim) {
            let mode = match value {
                "AlwaysAllow" => Self::AlwaysAllow,
                "AlwaysDeny" => Self::AlwaysDeny,
                "Node" => Self::Node,
                "RBAC" => Self::Rbac,
                "Webhook" | "ABAC" => {
                    return Err(format!("authorization-mode {value:?} is not supported yet; use Node,RBAC"));
                }
                other => return Err(format!("authorization-mode {other:?} is not a valid mode")),
            };
            if modes.contains(&mode) {
                return Err(format!("authorization-mode {value:?} has mode specified more than once"));
            }
            modes.push(mode);
        }
        if modes.is_empty() {
            return Err("at least one authorization-mode must be passed".to_owned());
        }
        Ok(modes)
    }
}

/// The chain of authorizers.
pub struct Authorizer {
    modes: Vec<Mode>,
    /// RBAC state (kept current even when the mode is off: escalation checks use it).
    pub rbac: Rbac,
    /// Node graph.
    pub node: NodeAuthorizer,
}

/// What the chain says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Allowed.
    pub allowed: bool,
    /// Denied outright rather than not allowed by anyone.
    pub denied: bool,
    /// Why.
    pub reason: String,
}

impl Authorizer {
    /// A chain of `modes`; `node_rules` is what every node may do.
    #[must_use]
    pub fn new(modes: Vec<Mode>, node_rules: Vec<rules::Rule>) -> Self {
        Self { modes, rbac: Rbac::default(), node: NodeAuthorizer::new(node_rules) }
    }

    /// Whether a mode is on.
    #[must_use]
    pub fn has(&self, mode: Mode) -> bool {
        self.modes.contains(&mode)
    }

    /// Decides.
    #[must_use]
    pub fn decide(&self, request: &Attributes<'_>) -> Decision {
        let allow = |reason: String| Decision { allowed: true, denied: false, reason };
        if request.user.groups.iter().any(|g| g == MASTERS) {
            return allow(String::new());
        }
        let mut reasons = Vec::new();
        for mode in &self.modes {
            match mode {
                Mode::AlwaysAllow => return allow(String::new()),
                Mode::AlwaysDeny => reasons.push("Everything is forbidden.".to_owned()),
                Mode::Node => match self.node.authorize(request) {
                    Ok(()) => return allow(String::new()),
                    Err(reason) => reasons.push(reason),
                },
                Mode::Rbac => {
                    let verdict = self.rbac.authorize(request);
                    if verdict.allowed {
                        return allow(verdict.reason);
                    }
                    reasons.push(verdict.reason);
                }
            }
        }
        reasons.retain(|r| !r.is_empty());
        Decision { allowed: false, denied: false, reason: reasons.join("\n") }
    }

    /// Decides, with upstream's 403 as the error.
    ///
    /// # Errors
    /// 403.
    pub fn check(&self, request: &Attributes<'_>) -> Result<(), ApiError> {
        let decision = self.decide(request);
        if decision.allowed { Ok(()) } else { Err(request.forbidden(&decision.reason)) }
    }

    /// Shorthand for a boolean question.
    #[must_use]
    pub fn allows(&self, request: &Attributes<'_>) -> bool {
        self.decide(request).allowed
    }
}
