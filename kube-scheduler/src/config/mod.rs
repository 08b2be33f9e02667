//! The configuration file: types, defaults, validation, and the plugins that a profile ends up with.

pub mod args;
pub mod defaults;
pub mod types;
pub mod validation;

#[cfg(test)]
mod tests;
