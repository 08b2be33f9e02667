//! Which providers a resource has: the first seals, whichever knows the prefix opens.

use std::{collections::HashMap, path::Path, sync::Arc};

use bytes::Bytes;

use super::{
    ConfigError, CryptError,
    config::{self, split},
    kms::Kms,
    providers::{Cbc, Cipher, Gcm, Secretbox},
};

/// What every sealed value starts with.
const RESERVED: &[u8] = b"k8s:enc:";
const NO_MATCH: &str = "no matching prefix found";
const SEALED: &str = "identity transformer tried to read encrypted data";

enum Provider {
    Identity,
    /// `k8s:enc:<cipher>:v1:`, then the key's name and a colon, then what the cipher made.
    Keys {
        prefix: Vec<u8>,
        keys: Vec<(Vec<u8>, Box<dyn Cipher>)>,
    },
    Kms {
        prefix: Vec<u8>,
        kms: Arc<Kms>,
    },
}

/// A value as it was before it was stored, and whether it would be stored differently today.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub value: Bytes,
    pub stale: bool,
}

/// The providers of all resources.
#[derive(Default)]
pub struct Ring {
    by_resource: HashMap<(String, String), Vec<Arc<Provider>>>,
    services: Vec<Arc<Kms>>,
}

impl Ring {
    /// Reads a configuration file and reaches the key services it names.
    ///
    /// # Errors
    /// The file is missing or breaks a rule.
    pub async fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut ring = Self::default();
        for entry in config::load(path)? {
            let mut providers = Vec::new();
            for provider in &entry.providers {
                providers.push(Arc::new(ring.provider(provider).await.map_err(|e| ConfigError(e.0))?));
            }
            for name in &entry.resources {
                let (resource, group) = split(name);
                // A wildcard that came earlier makes this entry void.
                let masked = [("*", group), ("*", "*")].iter().any(|(r, g)| {
                    (*r, *g) != (resource, group) && ring.by_resource.contains_key(&((*r).to_owned(), (*g).to_owned()))
                });
                if !masked {
                    let key = (resource.to_owned(), group.to_owned());
                    ring.by_resource.entry(key).or_default().extend(providers.iter().cloned());
                }
            }
        }
        Ok(ring)
    }

    async fn provider(&mut self, provider: &config::Provider) -> Result<Provider, CryptError> {
        fn keys<C: Cipher + 'static>(
            prefix: &str,
            keys: &config::Keys,
            cipher: impl Fn(Vec<u8>) -> Result<C, CryptError>,
        ) -> Result<Provider, CryptError> {
            let boxed = |key: &config::Key| {
                let cipher: Box<dyn Cipher> = Box::new(cipher(key.bytes())?);
                Ok((format!("{}:", key.name).into_bytes(), cipher))
            };
            let keys = keys.keys.iter().map(boxed).collect::<Result<_, _>>()?;
            Ok(Provider::Keys { prefix: prefix.as_bytes().to_vec(), keys })
        }
        if let Some(found) = &provider.aesgcm {
            return keys("k8s:enc:aesgcm:v1:", found, |key| Gcm::new(&key));
        }
        if let Some(found) = &provider.aescbc {
            return keys("k8s:enc:aescbc:v1:", found, |key| Ok(Cbc(key)));
        }
        if let Some(found) = &provider.secretbox {
            return keys("k8s:enc:secretbox:v1:", found, |key| Secretbox::new(&key));
        }
        let Some(found) = &provider.kms else { return Ok(Provider::Identity) };
        let kms = Kms::start(&found.name, &found.endpoint, found.timeout()).await;
        self.services.push(Arc::clone(&kms));
        Ok(Provider::Kms { prefix: format!("k8s:enc:kms:v2:{}:", found.name).into_bytes(), kms })
    }

    /// Whether the key services answer, for /healthz.
    ///
    /// # Errors
    /// Which one does not.
    pub fn health(&self) -> Result<(), String> {
        self.services.iter().try_for_each(|kms| kms.health())
    }

    /// Whether any key service is in use.
    #[must_use]
    pub fn has_services(&self) -> bool {
        !self.services.is_empty()
    }

    /// The providers of a resource: its own, its group's, everybody's.
    fn of(&self, resource: &str, group: &str) -> &[Arc<Provider>] {
        let tries = [(resource, group), ("*", group), ("*", "*")];
        let found = tries.iter().find_map(|(r, g)| self.by_resource.get(&((*r).to_owned(), (*g).to_owned())));
        found.map_or(&[], Vec::as_slice)
    }

    /// Seals a value with the first provider.
    pub(super) async fn seal(
        &self,
        (resource, group): (&str, &str),
        key: &str,
        value: Bytes,
    ) -> Result<Bytes, CryptError> {
        let Some(first) = self.of(resource, group).first() else { return Ok(value) };
        let sealed = match &**first {
            Provider::Identity => return Ok(value),
            Provider::Keys { prefix, keys } => {
                let (name, cipher) = keys.first().ok_or_else(|| CryptError::new("no key"))?;
                [prefix, name, &cipher.seal(&value, key.as_bytes())?].map(Vec::as_slice).concat()
            }
            Provider::Kms { prefix, kms } => [prefix.as_slice(), &kms.seal(&value, key.as_bytes()).await?].concat(),
        };
        Ok(sealed.into())
    }

    /// Opens a value with whichever provider knows it.
    pub(super) async fn open(
        &self,
        (resource, group): (&str, &str),
        key: &str,
        value: Bytes,
    ) -> Result<Opened, CryptError> {
        let providers = self.of(resource, group);
        let plain = !value.starts_with(RESERVED);
        if providers.is_empty() {
            return if plain { Ok(Opened { value, stale: false }) } else { Err(CryptError::new(SEALED)) };
        }
        let mut failures: Vec<String> = Vec::new();
        for (index, provider) in providers.iter().enumerate() {
            let opened = match &**provider {
                Provider::Identity if plain => return Ok(Opened { value, stale: index != 0 }),
                Provider::Identity => continue,
                Provider::Keys { prefix, keys } => {
                    let Some(rest) = value.strip_prefix(prefix.as_slice()) else { continue };
                    open_with_keys(keys, rest, key.as_bytes())
                }
                Provider::Kms { prefix, kms } => {
                    let Some(rest) = value.strip_prefix(prefix.as_slice()) else { continue };
                    kms.open(rest, key.as_bytes()).await
                }
            };
            match opened {
                Ok((value, stale)) => return Ok(Opened { value: value.into(), stale: stale || index != 0 }),
                Err(error) => failures.push(error.0),
            }
        }
        Err(match failures.as_slice() {
            [] => CryptError::new(NO_MATCH),
            [one] => CryptError::new(one),
            many => CryptError::new(format!("[{}]", many.join(", "))),
        })
    }
}

/// Names may be prefixes of each other, so a failure does not end the search.
fn open_with_keys(
    keys: &[(Vec<u8>, Box<dyn Cipher>)],
    sealed: &[u8],
    context: &[u8],
) -> Result<(Vec<u8>, bool), CryptError> {
    let mut failure = CryptError::new(NO_MATCH);
    for (index, (name, cipher)) in keys.iter().enumerate() {
        let Some(rest) = sealed.strip_prefix(name.as_slice()) else { continue };
        match cipher.open(rest, context) {
            Ok(value) => return Ok((value, index != 0)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
