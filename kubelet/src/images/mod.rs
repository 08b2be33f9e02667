//! Images: presence, pull policy, pulling with back-off and credentials.

mod credentials;
pub(crate) mod gc;
mod providers;

#[cfg(any(test, feature = "fuzz"))]
pub(crate) use credentials::parse_secret;
pub(crate) use providers::Providers;

use std::time::{Duration, Instant};

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::metrics::METRICS;
use crate::pods::backoff::Backoff;
use crate::pods::spec;
use crate::pods::status::Waiting;
use crate::shared::Kubelet;

const BACKOFF: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// What "parallel, without a bound" means here.
const MAX_PARALLEL: usize = 64;

/// What to fetch, for whom.
pub(crate) struct PullRequest<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) sandbox: &'a cri::PodSandboxConfig,
}

/// An image that is there.
pub(crate) struct Present {
    /// What to create the container from.
    pub(crate) reference: String,
    pub(crate) uid: Option<i64>,
    pub(crate) username: String,
}

/// Fetches images.
pub(crate) struct ImageManager {
    permits: Semaphore,
    backoff: Mutex<Backoff>,
    /// Last failure by back-off key.
    failures: Mutex<std::collections::HashMap<String, (jiff::Timestamp, String)>>,
    pub(super) providers: Providers,
}

fn because(reason: &str, message: String) -> Waiting {
    Waiting { reason: reason.to_owned(), message }
}

impl ImageManager {
    pub(crate) fn new(file: &crate::config::KubeletConfiguration, providers: Providers) -> Self {
        let parallel = match (file.serialize_image_pulls, file.max_parallel_image_pulls) {
            (Some(false), Some(limit)) | (None, Some(limit)) if limit > 1 => usize::try_from(limit).unwrap_or(1),
            (Some(false), _) => MAX_PARALLEL,
            _ => 1,
        };
        Self {
            permits: Semaphore::new(parallel),
            backoff: Mutex::new(Backoff::new(BACKOFF, BACKOFF_MAX)),
            failures: Mutex::default(),
            providers,
        }
    }

    /// Makes sure that a container's image is there.
    pub(crate) async fn ensure(&self, kubelet: &Kubelet, request: PullRequest<'_>) -> Result<Present, Waiting> {
        let (pod, container) = (request.pod, request.container);
        let asked = container.image.clone().unwrap_or_default();
        let image = with_default_tag(&asked).map_err(|message| because("InvalidImageName", message))?;
        let say = |warning, reason: &str, message: &str| match container.name.as_str() {
            "" => kubelet.events.pod(pod, warning, reason, message),
            name => kubelet.events.container(pod, name, warning, reason, message),
        };
        let present = kubelet.runtime.image(&image).await.map_err(|error| {
            let message = format!("Failed to inspect image {asked:?}: {error}");
            say(true, "InspectFailed", &message);
            because("ImageInspectError", message)
        })?;
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        if let Some(present) = present.filter(|_| policy != "Always") {
            let message =
                format!("Container image {asked:?} already present on machine and can be accessed by the pod");
            say(false, "Pulled", &message);
            return Ok(found(present));
        }
        if policy == "Never" {
            let message = format!("Container image {asked:?} is not present with pull policy of Never");
            say(true, "ErrImageNeverPull", &message);
            return Err(because("ErrImageNeverPull", message));
        }
        let key = format!("{}_{image}", spec::uid(pod));
        if let Some(why) = self.backing_off(&key, &asked) {
            say(false, "BackOff", &format!("Back-off pulling image {asked:?}"));
            return Err(why);
        }
        say(false, "Pulling", &format!("Pulling image {asked:?}"));
        self.pull(kubelet, &request, &image, &asked, &key, &say).await
    }

    fn backing_off(&self, key: &str, asked: &str) -> Option<Waiting> {
        let (failed, text) = self.failures.lock().get(key).cloned()?;
        self.backoff.lock().remaining(key, failed, jiff::Timestamp::now())?;
        Some(because("ImagePullBackOff", format!("Back-off pulling image {asked:?}: ErrImagePull: {text}")))
    }

    async fn pull(
        &self,
        kubelet: &Kubelet,
        request: &PullRequest<'_>,
        image: &str,
        asked: &str,
        key: &str,
        say: &(dyn Fn(bool, &str, &str) + Sync),
    ) -> Result<Present, Waiting> {
        let begin = Instant::now();
        let permit = self.permits.acquire().await;
        let pulling = Instant::now();
        let mut outcome = Err("no credentials could be tried".to_owned());
        for auth in credentials::candidates(kubelet, request.pod, image).await {
            let pulled = kubelet.runtime.pull_image(image, auth, Some(request.sandbox.clone())).await;
            outcome = pulled.map_err(|error| error.to_string());
            if outcome.is_ok() {
                break;
            }
        }
        let took = pulling.elapsed();
        drop(permit);
        match outcome {
            Ok(reference) => {
                self.failures.lock().remove(key);
                let image = kubelet.runtime.image(&reference).await.ok().flatten();
                let size = image.as_ref().map_or(0, |image| image.size);
                METRICS.image_pull.with_label_values(&[size_class(size)]).observe(took.as_secs_f64());
                let seconds = |duration: Duration| format!("{:.3}s", duration.as_secs_f64());
                say(
                    false,
                    "Pulled",
                    &format!(
                        "Successfully pulled image {asked:?} in {} ({} including waiting). Image size: {size} bytes.",
                        seconds(took),
                        seconds(begin.elapsed())
                    ),
                );
                Ok(image.map_or(Present { reference, uid: None, username: String::new() }, found))
            }
            Err(error) => {
                say(true, "Failed", &format!("Failed to pull image {asked:?}: {error}"));
                let now = jiff::Timestamp::now();
                self.backoff.lock().next(key, now, now);
                self.failures.lock().insert(key.to_owned(), (now, error.clone()));
                Err(because("ErrImagePull", error))
            }
        }
    }

    /// Forgets failures of pods that are gone.
    pub(crate) fn retain(&self, alive: impl Fn(&str) -> bool) {
        let keep = |key: &str| key.split('_').next().is_some_and(&alive);
        self.backoff.lock().retain(keep);
        self.failures.lock().retain(|key, _| keep(key));
    }
}

/// The label of a size in metrics.
fn size_class(bytes: u64) -> &'static str {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    match bytes {
        0 => "N/A",
        bytes if bytes < 10 * MIB => "0-10MB",
        bytes if bytes < 100 * MIB => "10MB-100MB",
        bytes if bytes < 500 * MIB => "100MB-500MB",
        bytes if bytes < GIB => "500MB-1GB",
        bytes if bytes < 5 * GIB => "1GB-5GB",
        bytes if bytes < 10 * GIB => "5GB-10GB",
        bytes if bytes < 20 * GIB => "10GB-20GB",
        bytes if bytes < 30 * GIB => "20GB-30GB",
        bytes if bytes < 40 * GIB => "30GB-40GB",
        bytes if bytes < 60 * GIB => "40GB-60GB",
        bytes if bytes < 100 * GIB => "60GB-100GB",
        _ => "GT100GB",
    }
}

fn found(image: cri::Image) -> Present {
    Present { reference: image.id, uid: image.uid.map(|uid| uid.value), username: image.username }
}

/// Adds `:latest` to a name without tag and digest; refuses what is no image name.
fn with_default_tag(image: &str) -> Result<String, String> {
    let refuse = || {
        format!(
            "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format"
        )
    };
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match name[slash..].split_once(':') {
        Some((last, tag)) => (format!("{}{last}", &name[..slash]), Some(tag)),
        None => (name.to_owned(), None),
    };
    let path_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let parts: Vec<&str> = repository.split('/').collect();
    // The first part may be a registry: with a port, and in upper case.
    let parts_ok = parts.iter().enumerate().all(|(index, part)| {
        let registry =
            index == 0 && parts.len() > 1 && part.contains(['.', ':']) || (index == 0 && *part == "localhost");
        let good = |c: char| path_ok(c) || registry && (c.is_ascii_uppercase() || ":[]".contains(c));
        !part.is_empty()
            && part.chars().all(good)
            && part.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '[')
    });
    let tag_ok = tag.is_none_or(|tag| {
        !tag.is_empty() && tag.len() <= 128 && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    });
    let is_id = image.len() == 64 && image.chars().all(|c| c.is_ascii_hexdigit());
    if !parts_ok || !tag_ok || is_id || digest.is_some_and(|digest| !digest.contains(':')) {
        return Err(refuse());
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{image}:latest") } else { image.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_or_refused() {
        assert_eq!(with_default_tag("busybox").as_deref(), Ok("busybox:latest"));
        assert_eq!(with_default_tag("localhost:5000/a/b").as_deref(), Ok("localhost:5000/a/b:latest"));
        assert_eq!(with_default_tag("a/b:1.0").as_deref(), Ok("a/b:1.0"));
        assert_eq!(with_default_tag("b@sha256:00").as_deref(), Ok("b@sha256:00"));
        for bad in ["", "FOO", "a b", "a:", "a//b", "http://a", "x@y"] {
            assert!(with_default_tag(bad).is_err(), "{bad}");
        }
    }
}
