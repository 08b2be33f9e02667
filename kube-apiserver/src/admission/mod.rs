//! Admission: plugins that may change or refuse a write, one file each, in upstream's order.
