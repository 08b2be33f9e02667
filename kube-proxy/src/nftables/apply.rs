//! Runs nft: one transaction per call, all or nothing.

use std::process::Stdio;

use tokio::{io::AsyncWriteExt, process::Command};

use super::{
    TABLE,
    render::Family,
    ruleset::{Ruleset, difference, replace},
};

/// Why a transaction was not applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    /// The program could not be run at all.
    #[error("running nft (is the nftables package installed?)")]
    Run(#[source] std::io::Error),
    /// nft or the kernel refused.
    #[error("nft refused the transaction: {0}")]
    Refused(String),
}

/// One family's table and what was last applied to it.
#[derive(Debug)]
pub(crate) struct Nft {
    family: Family,
    /// `None`: unknown (start-up, or after a failure), so the table is made anew.
    applied: Option<Ruleset>,
}

impl Nft {
    pub(crate) fn new(family: Family) -> Self {
        Self { family, applied: None }
    }

    fn table(&self) -> String {
        format!("{} {TABLE}", self.family.nft())
    }

    /// Makes the table equal `new`. Returns the number of script lines that it took.
    ///
    /// # Errors
    /// When nft fails; the old table stays whole, and the next call makes it anew.
    pub(crate) async fn apply(&mut self, new: Ruleset) -> Result<usize, NftError> {
        let script = match &self.applied {
            Some(old) => difference(&self.table(), old, &new),
            None => replace(&self.table(), &new),
        };
        if script.is_empty() {
            return Ok(0);
        }
        let lines = script.lines().count();
        match run(&script).await {
            Ok(()) => {
                self.applied = Some(new);
                Ok(lines)
            }
            Err(error) => {
                self.applied = None;
                Err(error)
            }
        }
    }

    /// Whether the kernel still has the table.
    pub(crate) async fn exists(&self) -> bool {
        let table = self.table();
        let words = ["list", "table"].into_iter().chain(table.split(' '));
        let status =
            Command::new("nft").args(["-t"]).args(words).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        status.is_ok_and(|status| status.success())
    }

    /// Forgets what was applied: the next call makes the table anew.
    pub(crate) fn forget(&mut self) {
        self.applied = None;
    }
}

async fn run(script: &str) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NftError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // nft reads everything before it writes; a broken pipe shows in its exit status.
        let _ = stdin.write_all(script.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(NftError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(NftError::Refused(text.lines().take(6).collect::<Vec<_>>().join(" | ")))
}

/// Removes both tables; they may be absent.
///
/// # Errors
/// When nft fails.
pub(crate) async fn cleanup() -> Result<(), NftError> {
    for family in [Family::V4, Family::V6] {
        let table = format!("{} {TABLE}", family.nft());
        run(&format!("add table {table}\ndelete table {table}\n")).await?;
    }
    Ok(())
}
