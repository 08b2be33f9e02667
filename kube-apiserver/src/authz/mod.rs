//! Authorization: may this user do this, one file per mechanism.
