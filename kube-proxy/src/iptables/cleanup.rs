//! Removes what this mode, ours or upstream's, has made. The kubelet's chains stay.

use std::fmt::Write;

use super::{
    apply::{CANARY, FILTER, JUMPS, NAT},
    program::{IptablesError, Program, chains},
    render::is_own_chain,
};
use crate::model::Family;

/// Removes all rules and chains of both families. Where iptables is missing there is nothing to remove.
///
/// # Errors
/// When iptables refuses.
pub(crate) fn cleanup() -> Result<(), IptablesError> {
    for family in Family::BOTH {
        let program = Program(family);
        if program.check().is_ok() {
            remove(program)?;
        }
    }
    Ok(())
}

fn remove(program: Program) -> Result<(), IptablesError> {
    for (table, ours) in [("nat", &NAT[..]), ("filter", &FILTER[..])] {
        let saved = program.save(table)?;
        let existing = chains(&saved);
        for jump in JUMPS.iter().filter(|jump| jump.table == table && existing.contains(jump.to)) {
            // Each may be there more than once.
            while program.succeeds(&[&["-t", table, "-D", jump.from], &jump.rule()[..]].concat())? {}
        }
        let is_ours = |name: &&str| ours.contains(name) || *name == CANARY || (table == "nat" && is_own_chain(name));
        let gone: Vec<&str> = existing.into_iter().filter(is_ours).collect();
        if gone.is_empty() {
            continue;
        }
        // Naming a chain empties it; only then nothing leads to the others.
        let mut text = format!("*{table}\n");
        for chain in &gone {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for chain in &gone {
            let _ = writeln!(text, "-X {chain}");
        }
        text.push_str("COMMIT\n");
        program.restore(&text)?;
    }
    // It may not exist.
    program.succeeds(&["-t", "mangle", "-X", CANARY])?;
    Ok(())
}
