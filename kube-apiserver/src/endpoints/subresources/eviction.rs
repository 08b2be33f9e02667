//! `pods/eviction`: deletes a pod on behalf of somebody who drains a node. Disruption budgets come with their controller.

use http::Response;
use hyper::body::Incoming;

use super::super::{Target, delete, write};
use crate::{
    admission::Operation,
    request::{
        ApiError, ApiResult,
        body::Expected,
        options::{DeleteOptions, WriteOptions},
    },
    server::{Call, response::Body},
};

const EVICTION: Expected<'static> = Expected { group: "policy", version: "v1", kind: "Eviction" };

/// Serves POST.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>, body: Incoming) -> ApiResult<Response<Body>> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let mut eviction = write::read_object(call, body, EVICTION, &options).await?;
    let (name, own) = (call.info.name.as_str(), write::name_of(&eviction).to_owned());
    if own != name {
        return Err(ApiError::bad_request(format!(
            "name in URL does not match name in Eviction object: {name:?} != {own:?}"
        )));
    }
    write::settle_namespace(&mut eviction, true, &call.info.namespace)?;
    let request = write::attributes(call, target, Operation::Create, name, None, options.dry_run);
    call.admission.admit(&request, &mut eviction).await?;
    call.admission.validate(&request, Some(&eviction)).await?;
    let mut delete_options: DeleteOptions = match eviction.get("deleteOptions") {
        Some(options) => serde_json::from_value(options.clone()).map_err(|e| ApiError::bad_request(e.to_string()))?,
        None => DeleteOptions::default(),
    };
    delete_options.validate()?;
    if options.dry_run && !delete_options.is_dry_run() {
        delete_options.dry_run = vec!["All".to_owned()];
    }
    let pod = Target { sub: None, ..target };
    delete::delete(call, pod, &call.info.namespace, name, &delete_options).await?;
    call.reply(201, &super::success(201))
}
