//! A SPDY/3.1 client, as far as kubelets and container runtimes speak it: streams over one upgraded connection, no flow
//! control, no server push (draft-mbelshe-httpbis-spdy-00).

mod connection;
mod frame;
mod headers;

pub use connection::{Connection, SpdyError, StreamReader, StreamWriter};
