//! Runs iptables, iptables-save and iptables-restore of one family.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    process::{Command, Output, Stdio},
};

use crate::model::Family;

/// Seconds to wait for another program that holds the lock.
const WAIT: &str = "5";

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IptablesError {
    /// The program could not be run at all.
    #[error("running {program} (is the iptables package installed?)")]
    Run {
        program: String,
        #[source]
        source: io::Error,
    },
    /// The program or the kernel refused.
    #[error("{program} {doing}: {reason}")]
    Refused { program: String, doing: String, reason: String },
}

/// The programs of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program(pub Family);

impl Program {
    fn name(self, suffix: &str) -> String {
        let prefix = if self.0.is_v6() { "ip6tables" } else { "iptables" };
        format!("{prefix}{suffix}")
    }

    fn output(self, suffix: &str, arguments: &[&str], input: Option<&str>) -> Result<Output, IptablesError> {
        let program = self.name(suffix);
        let failed = |source| IptablesError::Run { program: program.clone(), source };
        let mut command = Command::new(&program);
        command.args(arguments).stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // It reads everything before it writes; a broken pipe shows in its exit status.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output().map_err(failed)
    }

    fn run(self, suffix: &str, arguments: &[&str], input: Option<&str>) -> Result<String, IptablesError> {
        let output = self.output(suffix, arguments, input)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        let reason = reason.lines().take(6).collect::<Vec<_>>().join(" | ");
        Err(IptablesError::Refused { program: self.name(suffix), doing: arguments.join(" "), reason })
    }

    /// Whether the programs are there and the kernel lets them read.
    ///
    /// # Errors
    /// When not.
    pub(crate) fn check(self) -> Result<(), IptablesError> {
        self.run("", &["-w", WAIT, "-t", "nat", "-S", "POSTROUTING", "1"], None).map(drop)
    }

    /// Whether a command succeeds.
    pub(super) fn succeeds(self, arguments: &[&str]) -> Result<bool, IptablesError> {
        Ok(self.output("", &[&["-w", WAIT], arguments].concat(), None)?.status.success())
    }

    /// Makes a chain unless it is there.
    pub(super) fn ensure_chain(self, table: &str, chain: &str) -> Result<(), IptablesError> {
        if self.succeeds(&["-t", table, "-N", chain])? {
            return Ok(());
        }
        self.run("", &["-w", WAIT, "-t", table, "-S", chain, "1"], None).map(drop)
    }

    /// Puts a rule first in its chain unless it is there.
    pub(super) fn ensure_rule(self, table: &str, chain: &str, rule: &[&str]) -> Result<(), IptablesError> {
        if self.succeeds(&[&["-t", table, "-C", chain], rule].concat())? {
            return Ok(());
        }
        self.run("", &[&["-w", WAIT, "-t", table, "-I", chain], rule].concat(), None).map(drop)
    }

    /// A table as text.
    pub(super) fn save(self, table: &str) -> Result<String, IptablesError> {
        self.run("-save", &["-t", table], None)
    }

    /// Changes what the text names and nothing else.
    pub(super) fn restore(self, text: &str) -> Result<(), IptablesError> {
        self.run("-restore", &["-w", WAIT, "--noflush", "--counters"], Some(text)).map(drop)
    }
}

/// Names of the chains of a saved table.
pub(super) fn chains(saved: &str) -> BTreeSet<&str> {
    saved.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next()).collect()
}
