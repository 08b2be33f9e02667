//! Credential provider plugins: programs that are given an image's name and answer with credentials of registries
//! (`--image-credential-provider-config`, `--image-credential-provider-bin-dir`).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_cri::v1::AuthConfig;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::config::GoDuration;

const CONFIG_KIND: &str = "CredentialProviderConfig";
const CONFIG_VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
const API_GROUP: &str = "credentialprovider.kubelet.k8s.io/";
/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Answers larger than this are refused.
const MAX_ANSWER: u64 = 1 << 20;
/// Answers kept per program.
const MAX_KEPT: usize = 256;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(rename = "apiVersion")]
    _version: String,
    #[serde(rename = "kind")]
    _kind: String,
    providers: Vec<Settings>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: GoDuration,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    /// Of service accounts' tokens; providers that need one are refused.
    #[serde(default)]
    token_attributes: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'static str,
    api_version: &'a str,
    image: &'a str,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    kind: String,
    api_version: String,
    cache_key_type: String,
    #[serde(default)]
    cache_duration: Option<GoDuration>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Credentials>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Credentials {
    username: String,
    password: String,
}

type Auths = BTreeMap<String, Credentials>;

struct Provider {
    settings: Settings,
    program: PathBuf,
    /// Answers by image, registry or nothing, as the program said, and until when they hold. One question at a time.
    kept: tokio::sync::Mutex<HashMap<String, (Instant, Auths)>>,
}

/// All plugins.
#[derive(Default)]
pub(crate) struct Providers(Vec<Provider>);

/// Whether a pattern such as `*.example.com:5000/path` covers an image: as many parts of the host, the same port if one is named, and
/// the path in front of the image's.
fn matches(pattern: &str, image: &str) -> bool {
    let split = |text: &str| {
        let text = text.trim_start_matches("https://").trim_start_matches("http://").to_owned();
        let (host, path) = text.split_once('/').map_or((text.as_str(), ""), |(host, path)| (host, path));
        let (host, port) = host.split_once(':').map_or((host, ""), |(host, port)| (host, port));
        (host.to_owned(), port.to_owned(), path.to_owned())
    };
    let (wanted, image) = (split(pattern), split(image));
    let parts: (Vec<&str>, Vec<&str>) = (wanted.0.split('.').collect(), image.0.split('.').collect());
    parts.0.len() == parts.1.len()
        && parts.0.iter().zip(&parts.1).all(|(pattern, part)| glob(pattern, part))
        && wanted.1 == image.1
        && image.2.starts_with(&wanted.2)
}

/// `*` is any text.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|start| rest.is_char_boundary(start) && glob(after, &rest[start..]))
        }),
    }
}

fn registry(image: &str) -> &str {
    image.split('/').next().unwrap_or(image)
}

impl Providers {
    /// Reads the configuration; every program must be there.
    pub(crate) fn load(config: &Path, programs: &Path) -> anyhow::Result<Self> {
        let failed = || format!("error reading credential provider config {}", config.display());
        let text = std::fs::read_to_string(config).with_context(failed)?;
        let tree: serde_json::Value = serde_saphyr::from_str(&text).with_context(failed)?;
        let version = tree["apiVersion"].as_str().unwrap_or_default();
        if tree["kind"] != CONFIG_KIND || !CONFIG_VERSIONS.contains(&version) {
            bail!("{}: want kind {CONFIG_KIND} of {CONFIG_VERSIONS:?}", failed());
        }
        let file: File = serde_json::from_value(tree).with_context(failed)?;
        if file.providers.is_empty() {
            bail!("{}: providers: Required value: at least 1 item in plugins is required", failed());
        }
        let mut providers: Vec<Provider> = Vec::new();
        for settings in file.providers {
            let (name, at) = (&settings.name, failed());
            if name.is_empty() || name.contains(['/', ' ']) || name == "." || name == ".." {
                bail!("{at}: providers.name: Invalid value: {name:?}");
            }
            if providers.iter().any(|provider| provider.settings.name == *name) {
                bail!("{at}: providers.name: Duplicate value: {name:?}");
            }
            if settings.match_images.is_empty() {
                bail!("{at}: providers.matchImages: Required value: at least one matchImages is required");
            }
            if !["v1", "v1beta1", "v1alpha1"]
                .iter()
                .any(|version| settings.api_version == format!("{API_GROUP}{version}"))
            {
                bail!("{at}: providers.apiVersion: Unsupported value: {:?}", settings.api_version);
            }
            if settings.token_attributes.is_some() {
                bail!(
                    "{at}: providers.tokenAttributes: service accounts' tokens for {name:?} are not supported by this kubelet"
                );
            }
            let program = programs.join(name);
            if !program.is_file() {
                bail!("plugin binary executable {} did not exist", program.display());
            }
            providers.push(Provider { program, settings, kept: tokio::sync::Mutex::default() });
        }
        Ok(Self(providers))
    }

    /// Credentials for an image, the most special first.
    pub(super) async fn ask(&self, image: &str) -> Vec<AuthConfig> {
        let mut found = Vec::new();
        for provider in &self.0 {
            if !provider.settings.match_images.iter().any(|pattern| matches(pattern, image)) {
                continue;
            }
            match provider.auths(image).await {
                Ok(auths) => found.extend(auths.into_iter().filter(|(pattern, _)| matches(pattern, image))),
                Err(error) => {
                    let name = &provider.settings.name;
                    tracing::error!(provider = name, error = %format!("{error:#}"), "failed getting credential from external registry credential provider");
                }
            }
        }
        found.sort_by(|(one, _), (other, _)| other.cmp(one));
        let auth = |(server_address, credentials): (String, Credentials)| AuthConfig {
            username: credentials.username,
            password: credentials.password,
            server_address,
            ..AuthConfig::default()
        };
        found.into_iter().map(auth).collect()
    }
}

impl Provider {
    async fn auths(&self, image: &str) -> anyhow::Result<Auths> {
        let mut kept = self.kept.lock().await;
        let now = Instant::now();
        kept.retain(|_, (until, _)| *until > now);
        for key in [image, registry(image), ""] {
            if let Some((_, auths)) = kept.get(key) {
                return Ok(auths.clone());
            }
        }
        let answer = self.run(image).await?;
        let auths = answer.auth.unwrap_or_default();
        let key = match answer.cache_key_type.as_str() {
            "Image" => image,
            "Registry" => registry(image),
            "Global" => "",
            other => bail!("credential provider plugin did not return a valid cacheKeyType: {other:?}"),
        };
        let duration = answer.cache_duration.unwrap_or(self.settings.default_cache_duration).0;
        if !duration.is_zero() && kept.len() < MAX_KEPT {
            kept.insert(key.to_owned(), (now + duration, auths.clone()));
        }
        Ok(auths)
    }

    async fn run(&self, image: &str) -> anyhow::Result<Answer> {
        let settings = &self.settings;
        let request = Request { kind: "CredentialProviderRequest", api_version: &settings.api_version, image };
        let mut child = tokio::process::Command::new(&self.program)
            .args(&settings.args)
            .envs(settings.env.iter().map(|variable| (&variable.name, &variable.value)))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("error execing credential provider plugin {}", settings.name))?;
        let talk = async {
            if let Some(mut stdin) = child.stdin.take() {
                // A program that does not read its input may still answer.
                let _ = stdin.write_all(&serde_json::to_vec(&request)?).await;
            }
            let mut output = Vec::new();
            if let Some(stdout) = child.stdout.take() {
                stdout.take(MAX_ANSWER).read_to_end(&mut output).await?;
            }
            let status = child.wait().await?;
            if !status.success() {
                bail!("error execing credential provider plugin {}: {status}", settings.name);
            }
            let answer: Answer = serde_json::from_slice(&output)
                .context("error decoding credential provider plugin response from stdout")?;
            if answer.kind != "CredentialProviderResponse" || answer.api_version != settings.api_version {
                bail!("the plugin answered with {} of {}", answer.kind, answer.api_version);
            }
            Ok(answer)
        };
        match tokio::time::timeout(PATIENCE, talk).await {
            Ok(answer) => answer,
            Err(_) => bail!("error execing credential provider plugin {}: context deadline exceeded", settings.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn patterns() {
        for (pattern, image, want) in [
            ("registry.example", "registry.example/a:1", true),
            ("registry.example/a", "registry.example/a/b", true),
            ("registry.example/b", "registry.example/a", false),
            ("*.example.com", "eu.example.com/x", true),
            ("*.example.com", "a.eu.example.com/x", false),
            ("r*y.example", "registry.example/x", true),
            ("registry.example:5000", "registry.example:5000/x", true),
            ("registry.example", "registry.example:5000/x", false),
        ] {
            assert_eq!(matches(pattern, image), want, "{pattern} {image}");
        }
    }

    fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    const CONFIG: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: helper\n  matchImages: ['*.example']\n  defaultCacheDuration: 1m\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  args: [get]\n  env: [{name: WORD, value: secret}]\n";

    #[tokio::test]
    async fn a_program_is_asked_once_per_registry() {
        let directory = tempfile::tempdir().unwrap();
        let config = write(directory.path(), "config.yaml", CONFIG);
        let script = format!(
            "#!/bin/sh\ncat >> {0}/asked\necho >> {0}/asked\nprintf '{{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"cacheKeyType\":\"Registry\",\"auth\":{{\"*.example\":{{\"username\":\"%s\",\"password\":\"%s\"}},\"other.example\":{{\"username\":\"x\",\"password\":\"y\"}}}}}}' \"$1\" \"$WORD\"\n",
            directory.path().display()
        );
        write(directory.path(), "helper", &script);
        let providers = Providers::load(&config, directory.path()).unwrap();
        for image in ["one.example/a:1", "one.example/b:2", "two.example/a", "one.test/a"] {
            let found = providers.ask(image).await;
            let pairs: Vec<_> = found.iter().map(|auth| (auth.username.as_str(), auth.password.as_str())).collect();
            let want: &[(&str, &str)] = if image.contains(".example") { &[("get", "secret")] } else { &[] };
            assert_eq!(pairs, want, "{image}");
        }
        let asked = std::fs::read_to_string(directory.path().join("asked")).unwrap();
        let images: Vec<&str> = asked.lines().filter_map(|line| line.split("\"image\":\"").nth(1)).collect();
        assert_eq!(images, ["one.example/a:1\"}", "two.example/a\"}"], "{asked}");
        write(directory.path(), "helper", "#!/bin/sh\nexit 1\n");
        assert!(providers.ask("three.example/a").await.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let directory = tempfile::tempdir().unwrap();
        for (from, to, want) in [
            ("name: helper", "name: a/b", "providers.name"),
            ("['*.example']", "[]", "providers.matchImages"),
            ("io/v1\n  args", "io/v9\n  args", "providers.apiVersion"),
            ("kind: Cred", "kind: Dred", "want kind CredentialProviderConfig"),
            ("args: [get]", "argz: [get]", "argz"),
            ("", "", "did not exist"),
        ] {
            let config = write(directory.path(), "config.yaml", &CONFIG.replacen(from, to, 1));
            let error = format!("{:#}", Providers::load(&config, directory.path()).err().unwrap());
            assert!(error.contains(want), "{error}");
        }
    }
}
