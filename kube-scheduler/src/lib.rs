//! The Kubernetes scheduler.
