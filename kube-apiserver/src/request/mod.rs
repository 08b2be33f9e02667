//! What a request asks for: its attributes, options and negotiation; and how it fails.

pub mod body;
pub mod deprecated;
pub mod info;
pub mod negotiate;
pub mod options;
pub mod query;
pub mod selector;
pub mod status;
pub mod type_meta;

pub use info::RequestInfo;
pub use query::Query;
pub use status::{ApiError, ApiResult};
