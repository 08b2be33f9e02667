//! Starts daemons again when they end, as systemd does on real machines: after a pause that grows while a daemon keeps
//! ending. One process per cluster; it knows only the record, so it can die and be replaced at any time.

use std::{
    collections::BTreeMap,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    process::{self, Proc},
    state::{Cluster, DaemonState},
};

/// How often the record and the processes are looked at.
const PERIOD: Duration = Duration::from_millis(500);
/// The pause before a daemon that ran well is started again; it doubles with every early end.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Who ran for this long ran well.
const STEADY: Duration = Duration::from_secs(60);

/// What the supervisor remembers of one daemon.
struct Watch {
    /// The process seen last, and since when.
    process: Option<Proc>,
    since: Instant,
    /// The pause after the next end.
    pause: Duration,
    /// When an ended one is to be started.
    due: Option<Instant>,
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self { process: None, since: now, pause: FIRST_PAUSE, due: None }
    }

    /// Whether the daemon is to be started now.
    fn step(&mut self, now: Instant, wanted: bool, process: Option<Proc>, alive: bool) -> bool {
        if self.process != process {
            (self.process, self.since, self.due) = (process, now, None);
        }
        if !wanted || (alive && now - self.since >= STEADY) {
            self.pause = FIRST_PAUSE;
        }
        if !wanted || alive {
            self.due = None;
            return false;
        }
        match self.due {
            None => {
                self.due = Some(now + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                false
            }
            Some(due) if now < due => false,
            // Should the start fail, the next pause begins with the next step.
            Some(_) => {
                self.due = None;
                true
            }
        }
    }
}

/// Supervises the cluster whose state directory is `root`, until the cluster is gone or another supervisor is recorded.
///
/// # Errors
/// When the record can't be read or names no supervisor.
pub fn supervise(root: &Path) -> Result<()> {
    let me = Proc::of(i32::try_from(std::process::id())?).context("reading this process's start time")?;
    // Whoever started this process records it before the lock is free again.
    drop(Cluster::open(root)?.lock()?);
    let mut watches = BTreeMap::new();
    loop {
        let mut cluster = match Cluster::open(root) {
            Ok(cluster) => cluster,
            Err(_) if !root.exists() => return Ok(()),
            Err(error) => return Err(error),
        };
        match cluster.state.supervisor {
            Some(supervisor) if supervisor == me => {}
            Some(other) => bail!("process {} supervises this cluster now", other.pid),
            None => bail!("this cluster wants no supervisor"),
        }
        for name in due(&mut watches, &cluster.state.daemons, Instant::now()) {
            if let Err(error) = cluster.update(|cluster| cluster.revive(&name)) {
                println!("{name} could not be started: {error:#}");
            }
        }
        sleep(PERIOD);
    }
}

/// Which daemons are to be started now.
fn due(watches: &mut BTreeMap<String, Watch>, daemons: &BTreeMap<String, DaemonState>, now: Instant) -> Vec<String> {
    let mut names = Vec::new();
    for (name, daemon) in daemons {
        let watch = watches.entry(name.clone()).or_insert_with(|| Watch::new(now));
        if watch.step(now, daemon.wanted, daemon.process, daemon.process.is_some_and(Proc::alive)) {
            names.push(name.clone());
        }
    }
    names
}

impl Cluster {
    /// Starts an ended daemon again, if it is still wanted. The caller holds the record's lock.
    fn revive(&mut self, name: &str) -> Result<()> {
        let daemon = self.daemon_mut(name)?;
        if !daemon.wanted || daemon.process.is_some_and(Proc::alive) {
            return Ok(());
        }
        daemon.restarts += 1;
        println!("{name} ended; start number {}", daemon.restarts + 1);
        self.launch(name)
    }

    /// Starts the supervisor. Daemons that ended before are started too.
    pub(crate) fn start_supervisor(&mut self) -> Result<()> {
        self.update(|cluster| {
            let root = cluster.layout.root().display().to_string();
            let argv = [cluster.state.program.display().to_string(), "--state".into(), root, "supervise".into()];
            let log = cluster.layout.log("supervisor");
            cluster.state.supervisor = Some(process::spawn(&argv, &BTreeMap::new(), &log)?);
            Ok(())
        })
    }

    /// Starts the supervisor anew, if there was one and it died.
    pub(crate) fn ensure_supervised(&mut self) -> Result<()> {
        match self.state.supervisor {
            Some(supervisor) if !supervisor.alive() => self.start_supervisor(),
            _ => Ok(()),
        }
    }

    /// Ends the supervisor, if there is one. Nothing is started by itself afterwards.
    pub(crate) fn end_supervisor(&mut self) -> Result<()> {
        // While the lock is held it starts nothing, so that nothing is left unrecorded.
        self.update(|cluster| {
            let Some(supervisor) = cluster.state.supervisor.take() else { return Ok(()) };
            supervisor.signal(Signal::SIGKILL)?;
            if !supervisor.wait(Duration::from_secs(10)) {
                bail!("the supervisor (process {}) did not end", supervisor.pid);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_a_daemon_keeps_ending_and_shrink_after_a_long_life() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let process = |pid| Some(Proc { pid, start_time: 1 });
        let mut watch = Watch::new(start);
        // (second, wanted, pid, alive) and whether it is to be started.
        let steps = [
            (0, true, 1, true, false),
            (5, true, 1, false, false),
            (6, true, 1, false, true),
            (6, true, 2, true, false),
            (7, true, 2, false, false),
            (8, true, 2, false, false),
            (9, true, 2, false, true),
            // The start failed: the next pause is longer.
            (9, true, 2, false, false),
            (12, true, 2, false, false),
            (13, true, 2, false, true),
            (14, true, 3, true, false),
            (80, true, 3, true, false),
            (81, true, 3, false, false),
            (82, true, 3, false, true),
        ];
        for (second, wanted, pid, alive, starts) in steps {
            assert_eq!(watch.step(at(second), wanted, process(pid), alive), starts, "after {second} s");
        }
    }

    #[test]
    fn pauses_are_bounded() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        for second in 0..1000 {
            watch.step(start + Duration::from_secs(second), true, None, false);
        }
        assert_eq!(watch.pause, LONGEST_PAUSE);
    }

    #[test]
    fn who_was_stopped_stays_so() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        for second in 0..100 {
            assert!(!watch.step(start + Duration::from_secs(second), false, None, false));
        }
        assert!(!watch.step(start + Duration::from_secs(100), true, None, false));
        assert!(watch.step(start + Duration::from_secs(101), true, None, false));
    }
}
