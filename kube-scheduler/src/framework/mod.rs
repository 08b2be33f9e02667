//! Extension points, profiles and the values that travel between them.

pub mod bitset;
pub mod diagnosis;
pub mod events;
pub mod groups;
pub mod listers;
pub mod matches;
pub mod memo;
pub mod plugin;
pub mod pod;
pub mod profile;
pub mod profiles;
pub mod requests;
pub mod status;
pub mod tally;
pub mod template;
pub mod volumes;
