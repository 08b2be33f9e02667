//! The Kubernetes service proxy.
