//! Reads the text form of the type table.

use super::table::Table;

pub(super) fn parse(text: &'static str) -> Table {
    Table { text: text.into(), ..Table::default() }
}
