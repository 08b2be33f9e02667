//! What the cluster tests share: a namespace per test, waiting for conditions, requests from machines and pods.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    image::{self, Image},
    node::run_on,
    state::Cluster,
};

/// How long tests wait for something that should take seconds: machines are shared and noisy.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The running cluster that CORTEN_CLUSTER names.
///
/// # Errors
/// When there is none: these tests are never skipped silently.
pub fn cluster() -> Result<Cluster> {
    let state = std::env::var("CORTEN_CLUSTER")
        .context("CORTEN_CLUSTER is not set: run hack/test.sh, which brings a cluster up (as root)")?;
    Cluster::open(&PathBuf::from(state))
}

/// A static program that `hack/build.sh` built.
pub fn program(name: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../_output/bin");
    let paths = ["debug", "release"].map(|profile| built.join(profile).join(name));
    paths.iter().find(|path| path.exists()).unwrap_or(&paths[0]).clone()
}

/// Waits until `probe` succeeds and returns what it found; fails with its last error.
///
/// # Errors
/// The probe's last one, after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > end => return Err(error.context(format!("waited {PATIENCE:?} for {what}"))),
            Err(_) => sleep(Duration::from_millis(200)),
        }
    }
}

/// A namespace that goes with the test.
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    /// Its name.
    pub name: String,
}

impl<'a> Namespace<'a> {
    /// Creates a namespace; a left-over of an earlier run is replaced.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn create(cluster: &'a Cluster, name: &str) -> Result<Self> {
        cluster.kubectl_ok(&["delete", "namespace", name, "--ignore-not-found", "--timeout=120s"])?;
        cluster.kubectl_ok(&["create", "namespace", name])?;
        Ok(Self { cluster, name: name.to_owned() })
    }

    /// kubectl in this namespace; wants success.
    ///
    /// # Errors
    /// With what kubectl printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["-n", &self.name];
        all.extend_from_slice(arguments);
        self.cluster.kubectl_ok(&all)
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// With what kubectl printed.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let output = self.cluster.kubectl_stdin(&["-n", &self.name, "apply", "-f", "-"], manifest)?;
        if output.success { Ok(()) } else { bail!("kubectl apply: {}", output.stderr.trim()) }
    }

    /// A field of an object, by jsonpath.
    ///
    /// # Errors
    /// With what kubectl printed.
    pub fn field(&self, object: &str, jsonpath: &str) -> Result<String> {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={jsonpath}")])
    }

    /// A command's output in a pod.
    ///
    /// # Errors
    /// With what kubectl printed.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        let mut all = vec!["exec", pod, "--"];
        all.extend_from_slice(command);
        self.kubectl(&all)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // Not waited for: the next test need not stand in line, and a failure here hides the real one.
        let _ = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"]);
    }
}

impl Cluster {
    /// A command's output on a machine.
    ///
    /// # Errors
    /// With its standard error.
    pub fn run_on(&self, node: &str, argv: &[&str]) -> Result<String> {
        run_on(self.node(node)?, argv)
    }

    /// Makes an image of static programs and brings it to every node.
    ///
    /// # Errors
    /// When a program is not there, or containerd refuses the image.
    pub fn import_image(&self, image: &Image) -> Result<()> {
        let name = image.reference.replace(['/', ':'], "-");
        let archive = self.layout.root().join(format!("{name}.tar"));
        image::write(image, &archive)?;
        for worker in self.workers() {
            let path = archive.display().to_string();
            run_on(worker, &["ctr", "-n", "k8s.io", "images", "import", &path])?;
        }
        Ok(())
    }

    /// How often each distinct answer came to `count` requests from a machine.
    ///
    /// # Errors
    /// When a request fails.
    pub fn answers(&self, node: &str, url: &str, count: usize) -> Result<BTreeMap<String, usize>> {
        let mut answers = BTreeMap::new();
        for _ in 0..count {
            let answer = self.run_on(node, &["curl", "-sS", "--fail", "--max-time", "5", url])?;
            *answers.entry(answer.trim().to_owned()).or_default() += 1;
        }
        Ok(answers)
    }

    /// kubectl that keeps running, its output piped.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn kubectl_background(&self, arguments: &[&str]) -> Result<Background> {
        let child = self
            .kubectl_command()?
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting kubectl")?;
        Ok(Background(child))
    }
}

/// A process that ends with its owner.
pub struct Background(pub Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
