//! The two ways to the kernel: scripts for nft, and netlink for elements and for looking.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    process::{Command, Stdio},
};

use super::{
    TABLE,
    element::{Bytes, CONTAINERS, Container, Key, Value},
};
use crate::{
    model::Family,
    netlink::{Attributes, Batch, CREATE, IPV4, IPV6, NFTABLES, Netlink, nested},
};

const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const GET_SET: u16 = 10;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;
/// In lists of chains, sets and elements alike.
const NAME_OF_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const SET_NAME: u16 = 2;
const RULE_CHAIN: u16 = 2;
const ELEMENTS: u16 = 3;
const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
/// An attribute's length has 16 bits: elements of a message end well before that.
const MESSAGE: usize = 48 << 10;

/// Why a change was not applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    /// The program could not be run at all.
    #[error("running nft (is the nftables package installed?)")]
    Run(#[source] io::Error),
    /// nft or the kernel refused a script.
    #[error("nft refused the transaction: {0}")]
    Refused(String),
    /// The kernel refused elements, or an answer.
    #[error("nftables over netlink: {doing}")]
    Netlink {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Runs a script: one transaction, all or nothing.
pub(super) fn run(script: &str) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NftError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // nft reads everything before it writes; a broken pipe shows in its exit status.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(NftError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(NftError::Refused(text.lines().take(6).collect::<Vec<_>>().join(" | ")))
}

/// Whether there is an nft that can be run.
///
/// # Errors
/// When there is none.
pub(crate) fn check() -> Result<(), NftError> {
    let status = Command::new("nft").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match status.map_err(NftError::Run)?.success() {
        true => Ok(()),
        false => Err(NftError::Refused("nft --version failed".into())),
    }
}

/// Removes both tables; they may be absent, and nft may be, too: then there is nothing to remove.
///
/// # Errors
/// When nft fails.
pub(crate) fn cleanup() -> Result<(), NftError> {
    if check().is_err() {
        return Ok(());
    }
    for family in ["ip", "ip6"] {
        run(&format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n"))?;
    }
    Ok(())
}

/// What an element says, short: two that say the same have the same digest.
fn digest(data: Option<&[u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (kind, value) in nested(data.unwrap_or_default()) {
        kind.hash(&mut hasher);
        if kind == DATA_VALUE {
            value.hash(&mut hasher);
        } else {
            nested(value).for_each(|attribute| attribute.hash(&mut hasher));
        }
    }
    hasher.finish()
}

/// As [`digest`], of what we would write.
pub(super) fn digest_of(value: &Value) -> u64 {
    let mut writer = crate::netlink::Writer::default();
    value.write(&mut writer, ELEMENT_DATA);
    digest(writer.bytes.get(4..))
}

/// Elements that the kernel has, by container and key.
pub(super) type Stored = HashMap<(&'static str, Bytes), u64>;

/// The kernel's side of one family's table.
pub(super) struct Kernel {
    netlink: Netlink,
    family: u8,
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> NftError {
    move |source| NftError::Netlink { doing, source }
}

impl Kernel {
    pub(super) fn open(family: Family) -> Result<Self, NftError> {
        let netlink = Netlink::open().map_err(failed("opening a socket"))?;
        Ok(Self { netlink, family: if family.is_v6() { IPV6 } else { IPV4 } })
    }

    /// Lists with a retry: a list that changes meanwhile is to be asked for again.
    fn dump(
        &mut self,
        doing: &'static str,
        kind: u16,
        names: &[(u16, &str)],
        mut each: impl FnMut(Attributes<'_>),
    ) -> Result<(), NftError> {
        let fill = |writer: &mut crate::netlink::Writer| names.iter().for_each(|(kind, name)| writer.text(*kind, name));
        match self.netlink.dump(NFTABLES, kind, self.family, fill, &mut each) {
            // No such table, or no such set: an empty list.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.netlink.dump(NFTABLES, kind, self.family, fill, each).map_err(failed(doing))
            }
            result => result.map_err(failed(doing)),
        }
    }

    /// Names of the table's chains.
    pub(super) fn chains(&mut self) -> Result<BTreeSet<String>, NftError> {
        let mut names = BTreeSet::new();
        self.dump("listing chains", GET_CHAIN, &[], |chain| {
            if chain.text(NAME_OF_TABLE) == Some(TABLE) {
                names.extend(chain.text(CHAIN_NAME).map(str::to_owned));
            }
        })?;
        Ok(names)
    }

    /// Names of the table's sets and maps.
    pub(super) fn sets(&mut self) -> Result<BTreeSet<String>, NftError> {
        let mut names = BTreeSet::new();
        self.dump("listing sets", GET_SET, &[(NAME_OF_TABLE, TABLE)], |set| {
            names.extend(set.text(SET_NAME).filter(|name| !name.starts_with("__")).map(str::to_owned));
        })?;
        Ok(names)
    }

    /// How many rules the chain has.
    pub(super) fn rules(&mut self, chain: &str) -> Result<usize, NftError> {
        let mut count = 0;
        self.dump("listing rules", GET_RULE, &[(NAME_OF_TABLE, TABLE), (RULE_CHAIN, chain)], |rule| {
            count += usize::from(rule.text(RULE_CHAIN) == Some(chain));
        })?;
        Ok(count)
    }

    /// All elements of our containers.
    pub(super) fn elements(&mut self) -> Result<Stored, NftError> {
        let mut stored = Stored::new();
        for container in &CONTAINERS {
            self.dump(
                "listing elements",
                GET_ELEMENT,
                &[(NAME_OF_TABLE, TABLE), (SET_NAME, container.name)],
                |answer| {
                    for (_, item) in answer.get(ELEMENTS).map(nested).into_iter().flatten() {
                        let item = nested(item);
                        let key = item.inside(ELEMENT_KEY).and_then(|key| key.get(DATA_VALUE));
                        if let Some(key) = key {
                            stored.insert((container.name, Bytes::new(key)), digest(item.get(ELEMENT_DATA)));
                        }
                    }
                },
            )?;
        }
        Ok(stored)
    }

    /// Deletes and adds elements in one transaction.
    pub(super) fn change(&mut self, delete: &[Deletion], add: &[(Key, Value)]) -> Result<(), NftError> {
        let mut batch = Batch::new(NFTABLES);
        for container in &CONTAINERS {
            let mut ours = delete.iter().filter(|deletion| deletion.0 == container.name).peekable();
            while ours.peek().is_some() {
                self.push(&mut batch, container, DELETE_ELEMENT, 0, |writer, room| {
                    while let Some((_, bytes)) = ours.next_if(|_| room(writer)) {
                        let item = writer.open(LIST_ITEM);
                        write_key(writer, bytes);
                        writer.close(item);
                    }
                });
            }
        }
        for container in &CONTAINERS {
            let mut ours = add.iter().filter(|(key, _)| key.container() == container).peekable();
            while ours.peek().is_some() {
                self.push(&mut batch, container, NEW_ELEMENT, CREATE, |writer, room| {
                    while let Some((key, value)) = ours.next_if(|_| room(writer)) {
                        let item = writer.open(LIST_ITEM);
                        write_key(writer, &key.bytes());
                        value.write(writer, ELEMENT_DATA);
                        writer.close(item);
                    }
                });
            }
        }
        self.netlink.apply(batch).map_err(failed("changing elements"))
    }

    /// One message: `fill` writes items while there is room.
    fn push(
        &self,
        batch: &mut Batch,
        container: &Container,
        kind: u16,
        flags: u16,
        mut fill: impl FnMut(&mut crate::netlink::Writer, &dyn Fn(&crate::netlink::Writer) -> bool),
    ) {
        let start = batch.len();
        batch.push(kind, flags, self.family, |writer| {
            writer.text(NAME_OF_TABLE, TABLE);
            writer.text(SET_NAME, container.name);
            let items = writer.open(ELEMENTS);
            fill(writer, &|writer| writer.bytes.len() - start < MESSAGE);
            writer.close(items);
        });
    }
}

/// An element to delete: its container and key.
pub(super) type Deletion = (&'static str, Bytes);

fn write_key(writer: &mut crate::netlink::Writer, bytes: &Bytes) {
    let key = writer.open(ELEMENT_KEY);
    writer.attribute(DATA_VALUE, bytes.as_slice());
    writer.close(key);
}
