//! The machine's login manager: it delays a shutdown as long as we hold a lock, and tells when one is about to happen.

use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use super::bus::{Bus, Method, Value};

/// The system bus.
pub(super) const SOCKET: &str = "/run/dbus/system_bus_socket";
/// Where the kubelet raises the delay that logind grants.
pub(super) const OVERRIDES: &str = "/etc/systemd/logind.conf.d";

const NAME: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const HANGUP: i32 = 1;

/// Delays shutdowns till it is dropped.
pub(super) struct Lock(RawFd);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = nix::unistd::close(self.0) {
            tracing::warn!(%error, "cannot give the shutdown lock back");
        }
    }
}

/// The connection.
pub(super) struct Logind(Bus);

impl Logind {
    /// Connects and asks to be told of shutdowns.
    pub(super) fn connect(socket: &Path) -> anyhow::Result<Self> {
        let mut bus = Bus::connect(socket)?;
        let own = "org.freedesktop.DBus";
        let add = Method { destination: own, path: "/org/freedesktop/DBus", interface: own, member: "AddMatch" };
        let rule = format!("type='signal',interface='{MANAGER}',member='PrepareForShutdown',path='{PATH}'");
        bus.call(&add, &[Value::Text(&rule)])?;
        Ok(Self(bus))
    }

    fn delay(&mut self) -> anyhow::Result<Duration> {
        let get = Method { destination: NAME, path: PATH, interface: "org.freedesktop.DBus.Properties", member: "Get" };
        let answer = self.0.call(&get, &[Value::Text(MANAGER), Value::Text("InhibitDelayMaxUSec")])?;
        // A variant: signature `t`, then eight bytes at the next multiple of eight.
        let micros = answer.body.get(8..16).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        micros.map(Duration::from_micros).context("logind does not tell InhibitDelayMaxUSec")
    }

    /// Makes sure that a shutdown can be delayed that long: raises logind's limit if need be.
    pub(super) fn allow(&mut self, wanted: Duration, overrides: &Path) -> anyhow::Result<()> {
        let allowed = self.delay()?;
        if wanted <= allowed {
            return Ok(());
        }
        tracing::info!(?wanted, ?allowed, "raising logind's InhibitDelayMaxSec");
        let text = format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={}\n", wanted.as_secs());
        std::fs::create_dir_all(overrides)
            .and_then(|()| std::fs::write(overrides.join("99-kubelet.conf"), text))
            .with_context(|| format!("unable to write logind shutdown inhibit config below {}", overrides.display()))?;
        let kill = Method {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "KillUnit",
        };
        self.0.call(&kill, &[Value::Text("systemd-logind.service"), Value::Text("all"), Value::Number(HANGUP)])?;
        // It reads its configuration in its own time.
        for _ in 0..20 {
            if self.delay()? >= wanted {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let allowed = self.delay()?;
        bail!(
            "node shutdown manager was unable to update logind InhibitDelayMaxSec to {wanted:?} (ShutdownGracePeriod), current value of InhibitDelayMaxSec ({allowed:?}) is less than requested ShutdownGracePeriod"
        );
    }

    pub(super) fn lock(&mut self) -> anyhow::Result<Lock> {
        let inhibit = Method { destination: NAME, path: PATH, interface: MANAGER, member: "Inhibit" };
        let words = ["shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay"];
        let answer = self.0.call(&inhibit, &words.map(Value::Text))?;
        answer.descriptor.map(Lock).context("failed creating systemd inhibitor: no lock was given")
    }

    /// Waits until a shutdown is about to happen (true) or has been called off (false).
    pub(super) fn next(&mut self) -> anyhow::Result<bool> {
        loop {
            let signal = self.0.signal()?;
            if signal.is_signal("PrepareForShutdown") {
                return Ok(signal.number(0) != Some(0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_shutdown_is_told_and_delayed() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bus");
        let ((said, heard), (signal, signals)) = (channel(), channel());
        let server = super::super::bus::tests::fake(&socket, 5_000_000, said, signals);
        let mut logind = Logind::connect(&socket).unwrap();
        logind.allow(Duration::from_secs(5), directory.path()).unwrap();
        assert!(!directory.path().join("99-kubelet.conf").exists());
        let error = logind.allow(Duration::from_secs(30), directory.path()).unwrap_err().to_string();
        assert!(error.contains("less than requested ShutdownGracePeriod"), "{error}");
        let text = std::fs::read_to_string(directory.path().join("99-kubelet.conf")).unwrap();
        assert!(text.ends_with("[Login]\nInhibitDelayMaxSec=30\n"), "{text}");
        let lock = logind.lock().unwrap();
        drop(lock);
        for active in [true, false] {
            signal.send(active).unwrap();
            assert_eq!(logind.next().unwrap(), active);
        }
        drop((signal, logind));
        server.join().unwrap();
        let words: Vec<String> = heard.iter().collect();
        assert_eq!(words[..3], ["Hello", "AddMatch", "Get"]);
        assert!(words.contains(&"KillUnit".to_owned()) && words.contains(&"Inhibit".to_owned()), "{words:?}");
    }
}
