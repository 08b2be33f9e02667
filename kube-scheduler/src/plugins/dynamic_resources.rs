//! DynamicResources: until claims can be allocated, pods that use any are refused, saying so; for all others only
//! upstream's PostFilter message remains.

use std::sync::Arc;

use crate::framework::plugin::{
    CycleContext, Plugin, PostFilter, PostFilterContext, PostFiltered, PreFilter, PreFiltered,
};
use crate::framework::status::Status;

/// The plugin.
pub struct DynamicResources;

/// Upstream's name.
pub const NAME: &str = "DynamicResources";

extension_points!(DynamicResources { as_pre_filter: PreFilter, as_post_filter: PostFilter });

impl PreFilter for DynamicResources {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        match cx.pod.template.resource_claims.first() {
            None => Ok(PreFiltered::Skip),
            Some(claim) => {
                let reason = format!("resource claim {claim:?} cannot be allocated: not supported by this build yet");
                Err(Status::unresolvable(NAME, reason))
            }
        }
    }
}

impl PostFilter for DynamicResources {
    fn post_filter(&self, cx: &PostFilterContext<'_>) -> Result<PostFiltered, Arc<Status>> {
        let none = cx.cycle.pod.template.resource_claims.is_empty();
        let message = if none { "no new claims to deallocate" } else { "still not schedulable" };
        Ok(PostFiltered { message: message.into(), ..PostFiltered::default() })
    }
}
