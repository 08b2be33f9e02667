//! Encryption at rest: upstream's `EncryptionConfiguration` in front of whatever store runs. Values are sealed and
//! opened here and nowhere else; they are stored behind upstream's prefixes (`k8s:enc:aescbc:v1:key1:...`), so that an
//! upstream apiserver with the same configuration reads them and the other way round.

mod config;
mod kms;
mod providers;
mod reload;
mod ring;
mod store;

#[cfg(test)]
mod kms_tests;
#[cfg(test)]
mod tests;

pub use config::ConfigError;
pub use reload::Reloader;
pub use ring::Ring;
pub use store::Encrypted;

/// Why a value cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CryptError(pub String);

impl CryptError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}
