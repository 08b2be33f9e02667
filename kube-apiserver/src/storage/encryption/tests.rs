//! Sealing and opening, on the embedded store.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use futures::StreamExt;

use super::{
    config,
    providers::{Cbc, Cipher, Gcm, Secretbox},
    ring::Opened,
    *,
};
use crate::storage::{
    KeyRange, RangeOptions, Store, StoreError, StoreEvent,
    embedded::{self, EmbeddedOptions},
};

const KEY: &str = "/registry/secrets/default/a";
const SECRET: (&str, &str) = ("secrets", "");

/// A configuration in which secrets have these providers, given as YAML.
fn write(dir: &Path, providers: &str) -> std::path::PathBuf {
    let path = dir.join("encryption.yaml");
    std::fs::write(&path, text("[secrets]", providers)).unwrap();
    path
}

fn text(resources: &str, providers: &str) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: {resources}\n  providers: {providers}\n"
    )
}

fn key(cipher: &str, name: &str, byte: u8, length: usize) -> String {
    use base64::Engine;
    let secret = base64::engine::general_purpose::STANDARD.encode(vec![byte; length]);
    format!("{{{cipher}: {{keys: [{{name: {name}, secret: \"{secret}\"}}]}}}}")
}

async fn ring(providers: &str) -> Ring {
    let dir = tempfile::tempdir().unwrap();
    Ring::load(&write(dir.path(), providers)).await.unwrap()
}

#[tokio::test]
async fn every_cipher_opens_what_it_sealed_and_nothing_else() {
    for (cipher, length) in [
        ("aescbc", 16),
        ("aescbc", 24),
        ("aescbc", 32),
        ("aesgcm", 16),
        ("aesgcm", 24),
        ("aesgcm", 32),
        ("secretbox", 32),
    ] {
        let keys = ring(&format!("[{}]", key(cipher, "key1", 7, length))).await;
        let others = ring(&format!("[{}]", key(cipher, "key1", 8, length))).await;
        for plain in [&b""[..], b"x", &[9; 16], &[9; 1000]] {
            let plain = Bytes::copy_from_slice(plain);
            let sealed = keys.seal(SECRET, KEY, plain.clone()).await.unwrap();
            assert!(sealed.starts_with(format!("k8s:enc:{cipher}:v1:key1:").as_bytes()));
            let opened = keys.open(SECRET, KEY, sealed.clone()).await.unwrap();
            assert_eq!(opened, Opened { value: plain, stale: false }, "{cipher} {length}");
            if cipher != "aescbc" {
                assert!(others.open(SECRET, KEY, sealed.clone()).await.is_err());
            }
            if cipher == "aesgcm" {
                assert!(keys.open(SECRET, "/registry/secrets/default/b", sealed).await.is_err(), "bound to its key");
            }
        }
        for damaged in ["", "x", "0123456789012345", "01234567890123456789012345678901234567890"] {
            let value = Bytes::from(format!("k8s:enc:{cipher}:v1:key1:{damaged}"));
            assert!(keys.open(SECRET, KEY, value).await.is_err(), "{cipher} {damaged:?}");
        }
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Vectors that others published: NIST's for AES, NaCl's for secretbox.
#[test]
fn values_of_other_implementations_are_opened() {
    // SP 800-38A F.2.5: its plaintext is not padded, so that alone is wrong.
    let key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
    let sealed = hex("000102030405060708090a0b0c0d0e0ff58c4c04d6e5f1ba779eabfb5f7bfbd6");
    assert_eq!(Cbc(key).open(&sealed, b"").unwrap_err().0, "invalid padding on input");
    // The GCM specification's test case 14: a zero key, a zero nonce, sixteen zero bytes.
    let sealed = hex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919");
    let opened = Gcm::new(&[0; 32]).unwrap().open(&[vec![0; 12], sealed].concat(), b"").unwrap();
    assert_eq!(opened, [0; 16]);
    // "Cryptography in NaCl", section 10.
    let key = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
    let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
    let sealed = hex(concat!(
        "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a",
        "c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae",
        "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5"
    ));
    let opened = Secretbox::new(&key).unwrap().open(&[nonce, sealed].concat(), b"").unwrap();
    assert_eq!(opened[..8], hex("be075fc53c81f2d5"));
    assert_eq!(opened.len(), 131);
}

#[tokio::test]
async fn keys_rotate_and_encryption_can_be_given_up() {
    let (old, new) = (key("aescbc", "old", 1, 32), key("secretbox", "new", 2, 32));
    let before = ring(&format!("[{old}, {{identity: {{}}}}]")).await;
    let plain = Bytes::from_static(b"value");
    let sealed = before.seal(SECRET, KEY, plain.clone()).await.unwrap();
    let opened = before.open(SECRET, KEY, plain.clone()).await.unwrap();
    assert!(opened.stale, "written before there was encryption");
    let rotated = ring(&format!("[{new}, {old}]")).await;
    assert_eq!(rotated.open(SECRET, KEY, sealed.clone()).await.unwrap(), Opened { value: plain.clone(), stale: true });
    let leaving = ring(&format!("[{{identity: {{}}}}, {old}]")).await;
    assert_eq!(leaving.seal(SECRET, KEY, plain.clone()).await.unwrap(), plain);
    assert_eq!(leaving.open(SECRET, KEY, sealed.clone()).await.unwrap(), Opened { value: plain, stale: true });
    let without = ring(&format!("[{new}]")).await;
    assert_eq!(without.open(SECRET, KEY, sealed.clone()).await.unwrap_err().0, "no matching prefix found");
    let other = without.open(("pods", ""), KEY, sealed).await.unwrap_err();
    assert_eq!(other.0, "identity transformer tried to read encrypted data");
}

#[test]
fn files_that_break_a_rule_are_refused_with_the_field() {
    let identity = "[{identity: {}}]";
    for (text, why) in [
        ("kind: Pod\napiVersion: v1\n".to_owned(), "no kind \"Pod\" is registered for version \"v1\""),
        (text("[]", identity), "resources[0].resources: Required value"),
        (text("[secrets, '*.']", identity), "overlapping resources"),
        (text("[secrets, secrets]", identity), "the same resource cannot be specified multiple times"),
        (text("[Secrets]", identity), "resource name should not contain capital letters"),
        (text("['*']", identity), "use '*.' to encrypt all the resources from core API group"),
        (text("['pods.*']", identity), "encrypting the same resource across groups is not supported"),
        (text("[secrets]", "[]"), "resources[0].providers: Required value"),
        (text("[secrets]", "[{}]"), "provider does not contain any of the expected providers"),
        (text("[secrets]", "[{identity: {}, aesgcm: {keys: []}}]"), "more than one provider specified"),
        (
            text("[secrets]", &format!("[{}]", key("aescbc", "a", 1, 8))),
            "providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 8, expected one of [16 24 32]",
        ),
        (text("[secrets]", "[{kms: {name: a, endpoint: 'unix:///x'}}]"), "KMSv1 is deprecated"),
        (text("[secrets]", "[{kms: {apiVersion: v2, name: 'a:b', endpoint: 'tcp://x'}}]"), "must not contain ':'"),
        (text("[secrets]", "[{rot13: {}}]"), "unknown field"),
    ] {
        let error = config::parse(&text).unwrap_err().0;
        assert!(error.contains(why), "{error}\nshould say {why}");
    }
    assert!(config::parse(&text("['*.*']", identity)).is_ok());
}

#[tokio::test]
async fn wildcards_reach_what_nothing_else_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("encryption.yaml");
    let entry = |resources: &str, providers: &str| format!("- resources: {resources}\n  providers: {providers}\n");
    let text = text("[events]", "[{identity: {}}]")
        + &entry("['*.apps']", &format!("[{}]", key("aescbc", "apps", 1, 32)))
        + &entry("['*.*']", &format!("[{}]", key("aesgcm", "all", 2, 32)));
    std::fs::write(&path, text).unwrap();
    let ring = Ring::load(&path).await.unwrap();
    for (resource, prefix) in [
        (("events", ""), &b"{}"[..]),
        (("deployments", "apps"), b"k8s:enc:aescbc:v1:apps:"),
        (("pandas", "bears.example"), b"k8s:enc:aesgcm:v1:all:"),
    ] {
        let sealed = ring.seal(resource, KEY, Bytes::from_static(b"{}")).await.unwrap();
        assert!(sealed.starts_with(prefix), "{resource:?}");
    }
}

#[tokio::test]
async fn a_store_seals_what_it_keeps_and_takes_up_new_keys() {
    let dir = tempfile::tempdir().unwrap();
    let compaction_interval = std::time::Duration::from_secs(300);
    let options = EmbeddedOptions { directory: dir.path().join("data"), compaction_interval };
    let raw = embedded::open(options).await.unwrap();
    let path = write(dir.path(), &format!("[{}]", key("aesgcm", "one", 1, 32)));
    let mut reloader = Reloader::load(path).await.unwrap();
    let store = Encrypted::new(Arc::clone(&raw), "/registry", Arc::clone(&reloader.ring));
    let value = Bytes::from_static(b"{\"kind\":\"Secret\"}");
    let first = store.create(KEY, value.clone(), None).await.unwrap();
    let mut watch = store.watch("/registry/secrets/", 0).await.unwrap();
    let batch = watch.batches.next().await.unwrap().unwrap();
    assert!(matches!(&batch.events[0], StoreEvent::Put(kv) if kv.value == value));
    let kept = raw.get(KEY, None).await.unwrap().0.unwrap();
    assert!(kept.value.starts_with(b"k8s:enc:aesgcm:v1:one:"));
    assert_eq!(store.get(KEY, None).await.unwrap().0.unwrap().value, value);
    let conflict = store.update(KEY, first + 5, value.clone(), None).await;
    let Err(StoreError::Conflict { current: Some(current), .. }) = conflict else { panic!("{conflict:?}") };
    assert_eq!(current.value, value);
    let pod = "/registry/pods/default/a";
    store.create(pod, value.clone(), None).await.unwrap();
    assert_eq!(raw.get(pod, None).await.unwrap().0.unwrap().value, value, "only secrets are sealed");

    assert!(!store.is_stale(KEY).await.unwrap());
    write(dir.path(), "[{nonsense: {}}]");
    reloader.look().await;
    assert!(store.get(KEY, None).await.is_ok(), "an unusable file changes nothing");
    write(dir.path(), &format!("[{}, {}]", key("secretbox", "two", 2, 32), key("aesgcm", "one", 1, 32)));
    reloader.look().await;
    assert!(store.is_stale(KEY).await.unwrap());
    store.update(KEY, first, value.clone(), None).await.unwrap();
    assert!(!store.is_stale(KEY).await.unwrap());
    assert!(raw.get(KEY, None).await.unwrap().0.unwrap().value.starts_with(b"k8s:enc:secretbox:v1:two:"));
    write(dir.path(), &format!("[{}]", key("aesgcm", "one", 1, 32)));
    reloader.look().await;
    let error = store.range(KeyRange::prefix("/registry/secrets/"), RangeOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("unable to transform key \"/registry/secrets/default/a\""), "{error}");
    raw.close().await;
}
