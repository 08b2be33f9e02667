//! Messages of the protocols that plugins of the node speak, as published. Public, so that fake plugins of tests speak
//! them too. Only what the kubelet uses is here: unknown fields are skipped by the codec.

pub mod csi;
pub mod registration;
