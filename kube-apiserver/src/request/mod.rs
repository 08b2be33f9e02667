//! What a request asks for: its attributes, options and negotiation; and how it fails.

pub mod info;
pub mod query;
pub mod status;

pub use info::RequestInfo;
pub use query::Query;
pub use status::{ApiError, ApiResult};
