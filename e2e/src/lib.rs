//! The local cluster and the black-box tests that run on it.
