//! Authentication: who sends a request, one file per mechanism.
