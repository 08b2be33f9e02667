//! Streaming subresources: log, exec, attach, portforward, proxy.
