//! The kernel log: when the machine as a whole is out of memory and the kernel ends a process for it, the node has an event.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use nix::fcntl::OFlag;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use crate::shared::Kubelet;

const LOG: &str = "/dev/kmsg";

/// A process that the kernel ended.
#[derive(Debug, PartialEq, Eq)]
struct Victim {
    process: String,
    pid: i32,
}

/// Reads a record such as `6,339,514,-;oom-kill:constraint=CONSTRAINT_NONE,...,global_oom,...,task=stress,pid=1234,uid=0`. Processes that a
/// cgroup's own limit ended are none of the node's business.
fn parse(record: &str) -> Option<Victim> {
    let line = record.split_once(';')?.1.lines().next()?;
    let fields = line.strip_prefix("oom-kill:")?;
    let get = |name: &str| fields.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    if get("oom_memcg").is_some_and(|cgroup| cgroup != "/") {
        return None;
    }
    Some(Victim { process: get("task")?.to_owned(), pid: get("pid")?.parse().ok()? })
}

/// Records are read like those of a pipe.
fn open() -> std::io::Result<pipe::Receiver> {
    let mut log = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(LOG)?;
    // What was there before us has been told.
    log.seek(SeekFrom::End(0))?;
    pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(log))
}

/// Watches until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let log = match open() {
        Ok(log) => log,
        Err(error) => {
            tracing::warn!(%error, "cannot read {LOG}: nobody tells when the machine is out of memory");
            return;
        }
    };
    let mut record = vec![0; 8192];
    loop {
        tokio::select! {
            ready = log.readable() => if let Err(error) = ready {
                tracing::warn!(%error, "cannot read {LOG} any more");
                return;
            },
            () = shutdown.cancelled() => return,
        }
        match log.try_read(&mut record) {
            Ok(length) => {
                if let Some(Victim { process, pid }) = parse(&String::from_utf8_lossy(&record[..length])) {
                    let message = format!("System OOM encountered, victim process: {process}, pid: {pid}");
                    kubelet.events.node(true, "SystemOOM", &message);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // Records were overwritten before we read them; the next read goes on behind them.
            Err(error) => {
                tracing::debug!(%error, "lost records of the kernel log");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machines_own_shortage_counts() {
        let record = |fields: &str| {
            format!(
                "6,339,5140900,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),{fields},task=stress,pid=1234,uid=0\n SUBSYSTEM=x\n"
            )
        };
        let victim = Some(Victim { process: "stress".into(), pid: 1234 });
        assert_eq!(parse(&record("cpuset=/,mems_allowed=0,global_oom,task_memcg=/user")), victim);
        assert_eq!(parse(&record("oom_memcg=/,task_memcg=/user")), victim);
        assert_eq!(parse(&record("oom_memcg=/kubepods/pod1,task_memcg=/kubepods/pod1/c")), None);
        for other in ["6,1,2,-;Out of memory: Killed process 1 (x)", "", "6,1,2,-;oom-kill:task=x"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
