//! A DNS server for the Kubernetes DNS specification 1.1.
