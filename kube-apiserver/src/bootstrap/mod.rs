//! What a new cluster needs before anyone can use it: namespaces, roles, the `kubernetes` Service.
