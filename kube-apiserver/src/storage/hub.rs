//! The ordered log of what was just committed.
