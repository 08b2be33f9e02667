//! What the Corten daemons share.
