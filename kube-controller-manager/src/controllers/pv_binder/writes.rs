//! Doing what was decided about claims and volumes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use super::claim::{Step as ClaimStep, Told, external};
use super::volume::{Reclaim, Step as VolumeStep, reclaim};
use super::{Binder, SyncError, objects};
use crate::events::reference;
use crate::shared::apierr;
use crate::shared::meta::MetaExt;
use crate::shared::pod_control::uid_precondition;
use crate::shared::volumes::{claim_phase, phase};

impl Binder {
    pub(super) async fn write_claim(
        &self,
        claim: PersistentVolumeClaim,
    ) -> Result<Arc<PersistentVolumeClaim>, kube::Error> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), claim.ns_str());
        let written = api.replace(claim.name_str(), &PostParams::default(), &claim).await?;
        Ok(self.claims.wrote(written))
    }

    async fn write_claim_status(
        &self,
        claim: PersistentVolumeClaim,
    ) -> Result<Arc<PersistentVolumeClaim>, kube::Error> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), claim.ns_str());
        let written = api.replace_status(claim.name_str(), &PostParams::default(), &claim).await?;
        Ok(self.claims.wrote(written))
    }

    pub(super) async fn write_volume(&self, volume: PersistentVolume) -> Result<Arc<PersistentVolume>, kube::Error> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let written = api.replace(volume.name_str(), &PostParams::default(), &volume).await?;
        Ok(self.volumes.wrote(written))
    }

    async fn set_phase(
        &self,
        volume: Arc<PersistentVolume>,
        wanted: &str,
        message: &str,
    ) -> Result<Arc<PersistentVolume>, kube::Error> {
        let Some(changed) = objects::volume_in_phase(&volume, wanted, message) else { return Ok(volume) };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let written = api.replace_status(changed.name_str(), &PostParams::default(), &changed).await?;
        Ok(self.volumes.wrote(written))
    }

    async fn set_claim_phase(
        &self,
        claim: &PersistentVolumeClaim,
        wanted: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<(), SyncError> {
        if let Some(changed) = objects::claim_in_phase(claim, wanted, volume).map_err(SyncError::Undecided)? {
            self.write_claim_status(changed).await?;
        }
        Ok(())
    }

    fn tell(&self, claim: &PersistentVolumeClaim, told: &Told) {
        let about = reference(claim);
        match told.warning {
            true => self.events.warning(&about, told.reason, told.message.clone()),
            false => self.events.normal(&about, told.reason, told.message.clone()),
        }
    }

    pub(super) async fn do_for_claim(&self, claim: &PersistentVolumeClaim, step: ClaimStep) -> Result<(), SyncError> {
        match step {
            ClaimStep::Bind(volume) => self.bind(claim, volume).await,
            ClaimStep::Pend(told) => {
                told.iter().for_each(|told| self.tell(claim, told));
                self.set_claim_phase(claim, "Pending", None).await
            }
            ClaimStep::Lose(_) if claim_phase(claim) == "Lost" => Ok(()),
            ClaimStep::Lose(told) => {
                self.set_claim_phase(claim, "Lost", None).await?;
                self.tell(claim, &told);
                Ok(())
            }
            ClaimStep::SetClass(name) => {
                let mut wanted = claim.clone();
                wanted.spec.get_or_insert_default().storage_class_name = Some(name);
                self.write_claim(wanted).await?;
                Ok(())
            }
            ClaimStep::Provision(provisioner) => {
                if let Some(wanted) = objects::claim_for_provisioner(claim, &provisioner) {
                    self.write_claim(wanted).await?;
                }
                self.tell(claim, &external(&provisioner));
                Ok(())
            }
            ClaimStep::Tell(told) => {
                self.tell(claim, &told);
                Ok(())
            }
            ClaimStep::Retry(told) => {
                self.tell(claim, &told);
                Err(SyncError::Undecided(format!("invalid binding of claim {:?}: {}", claim.name_str(), told.message)))
            }
        }
    }

    async fn bind(&self, claim: &PersistentVolumeClaim, volume: Arc<PersistentVolume>) -> Result<(), SyncError> {
        let volume = match objects::volume_for_claim(&volume, claim) {
            Some(wanted) => self.write_volume(wanted).await?,
            None => volume,
        };
        let volume = self.set_phase(volume, "Bound", "").await?;
        let claim = match objects::claim_on_volume(claim, &volume) {
            Some(wanted) => self.write_claim(wanted).await?,
            None => Arc::new(claim.clone()),
        };
        self.set_claim_phase(&claim, "Bound", Some(&volume)).await
    }

    pub(super) async fn do_for_volume(
        &self,
        volume: Arc<PersistentVolume>,
        claim: Option<&PersistentVolumeClaim>,
        step: VolumeStep,
    ) -> Result<(), SyncError> {
        match step {
            VolumeStep::Available => self.set_phase(volume, "Available", "").await.map(drop)?,
            VolumeStep::Bound => self.set_phase(volume, "Bound", "").await.map(drop)?,
            VolumeStep::Release { settled } => {
                let volume = match settled {
                    true => volume,
                    false => self.set_phase(volume, "Released", "").await?,
                };
                self.reclaim(volume).await?;
            }
            VolumeStep::Unbind => {
                let freed = self.write_volume(objects::freed_volume(&volume)).await?;
                self.set_phase(freed, "Available", "").await?;
            }
            VolumeStep::LookAtClaim => {
                if let Some(claim) = claim {
                    self.claim_queue.add(common::informer::object_key(claim));
                }
            }
            VolumeStep::TellMismatch => {
                let (of_claim, of_volume) = (claim.map(MetaExt::name_str).unwrap_or_default(), volume.name_str());
                let text = format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim {of_claim:?} due to incompatible volumeMode."
                );
                self.events.warning(&reference(&*volume), "VolumeMismatch", text);
                let text = format!(
                    "Cannot bind PersistentVolume {of_volume:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
                );
                claim.iter().for_each(|claim| self.events.warning(&reference(*claim), "VolumeMismatch", text.clone()));
            }
        }
        Ok(())
    }

    async fn reclaim(&self, volume: Arc<PersistentVolume>) -> Result<(), kube::Error> {
        match reclaim(&volume) {
            Reclaim::Leave => Ok(()),
            Reclaim::Fail(reason, message) => self.fail(volume, reason, message).await,
            Reclaim::DeleteHostPath(path) => {
                let removed = tokio::task::spawn_blocking(move || match std::fs::symlink_metadata(&path) {
                    Ok(found) if found.is_dir() => std::fs::remove_dir_all(&path),
                    Ok(_) => std::fs::remove_file(&path),
                    Err(error) => Err(error),
                });
                match removed.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        self.fail(volume, "VolumeFailedDelete", error.to_string()).await
                    }
                    _ => {
                        let params = uid_precondition(DeleteParams::default(), volume.uid_str());
                        let api: Api<PersistentVolume> = Api::all(self.client.clone());
                        apierr::ignore_not_found(api.delete(volume.name_str(), &params).await)
                    }
                }
            }
        }
    }

    async fn fail(&self, volume: Arc<PersistentVolume>, reason: &str, message: String) -> Result<(), kube::Error> {
        if phase(&volume) == "Failed" {
            return Ok(());
        }
        let volume = self.set_phase(volume, "Failed", &message).await?;
        self.events.warning(&reference(&*volume), reason, message);
        Ok(())
    }
}
