//! Pure rules over API metadata: quantities, selectors, owners, conditions, names, addresses, int-or-percent, sysctls.

pub mod conditions;
pub mod intstr;
pub mod ip;
pub mod names;
pub mod nodeselector;
pub mod owner;
pub mod quantity;
pub mod selector;
pub mod sysctls;
pub mod tolerations;
pub mod value;

pub use owner::{controller_of, new_controller_ref};
pub use quantity::Quantity;
pub use selector::{FieldSelector, LabelSelector};
