//! Command-line flags, with upstream's names and defaults.
