//! Writing every object of a resource again, so that the server stores it in its present version.

use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::json;

use super::NAME;
use crate::shared::apierr;
use crate::shared::discovery::Served;
use crate::shared::meta::MetaExt;

/// Objects are listed in pages of so many.
const PAGE: u32 = 500;
/// A namespace that no one has: the list is empty and still tells the newest resourceVersion.
const NOWHERE: &str = "fake-ns-for-storage-version-migration";

/// Why a migration does not get on.
pub(super) enum Trouble {
    /// Worth another try.
    Later(Error),
    /// The migration has failed.
    Fatal(String),
}

fn sort(error: Error) -> Trouble {
    match apierr::code(&error) {
        Some(code) if !matches!(code, 410 | 429 | 500 | 503 | 504) => Trouble::Fatal(apierr::message(&error)),
        _ => Trouble::Later(error),
    }
}

/// The newest resourceVersion of a resource.
pub(super) async fn newest_version(client: &Client, resource: &Served) -> Result<String, Error> {
    let described = resource.api_resource();
    let api: Api<DynamicObject> = match resource.namespaced {
        true => Api::namespaced_with(client.clone(), NOWHERE, &described),
        false => Api::all_with(client.clone(), &described),
    };
    let list = api.list_metadata(&ListParams::default().limit(1)).await?;
    Ok(list.metadata.resource_version.unwrap_or_default())
}

/// Writes the objects that are not newer than `checkpoint`; a second run finds fewer.
pub(super) async fn migrate(client: &Client, resource: &Served, checkpoint: u64) -> Result<(), Trouble> {
    let described = resource.api_resource();
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &described);
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = all.list_metadata(&page).await.map_err(sort)?;
        for object in &list.items {
            let version = object.version_str();
            let number: u64 = version
                .parse()
                .map_err(|_| Trouble::Fatal(format!("resource version is not well formed: {version}")))?;
            if number > checkpoint {
                continue;
            }
            let api: Api<DynamicObject> = match object.ns_str() {
                "" => all.clone(),
                namespace => Api::namespaced_with(client.clone(), namespace, &described),
            };
            // With UID and resourceVersion an object that was changed, deleted or made anew since is a conflict: it needs nothing.
            let empty = json!({"apiVersion": resource.api_version(), "kind": resource.kind,
                "metadata": {"uid": object.uid_str(), "resourceVersion": version}});
            match api.patch(object.name_str(), &PatchParams::apply(NAME), &Patch::Apply(empty)).await {
                Err(error) if apierr::is_conflict(&error) => {}
                result => drop(result.map_err(sort)?),
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn what_is_worth_another_try() {
        let api = |code: u16| Error::Api(Box::new(Status { code, message: "m".into(), ..Status::default() }));
        for (code, later) in
            [(429, true), (500, true), (503, true), (504, true), (410, true), (403, false), (422, false), (404, false)]
        {
            assert_eq!(matches!(sort(api(code)), Trouble::Later(_)), later, "{code}");
        }
        assert!(matches!(sort(Error::LinesCodecMaxLineLengthExceeded), Trouble::Later(_)), "no answer at all");
    }
}
