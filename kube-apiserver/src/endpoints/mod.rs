//! The verbs, one file each, generic over resources.
