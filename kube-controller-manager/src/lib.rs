//! The Kubernetes controller manager.
