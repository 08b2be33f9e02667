//! The process that holds a pod's namespaces open: it sleeps, reaps orphans when pods share a process namespace, and ends
//! on SIGINT or SIGTERM.

use std::process::ExitCode;

use nix::sys::{
    signal::{SigSet, Signal},
    wait::{WaitPidFlag, WaitStatus, waitpid},
};

fn main() -> ExitCode {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD] {
        signals.add(signal);
    }
    if let Err(error) = signals.thread_block() {
        eprintln!("pause: blocking signals: {error}");
        return ExitCode::FAILURE;
    }
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {
                while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
                {
                }
            }
            Ok(signal) => {
                eprintln!("Shutting down, got {signal}");
                return ExitCode::SUCCESS;
            }
            Err(error) => {
                eprintln!("pause: waiting for signals: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
}
