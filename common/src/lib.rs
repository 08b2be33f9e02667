//! What the Corten daemons share.

pub mod api;
pub mod schema;
