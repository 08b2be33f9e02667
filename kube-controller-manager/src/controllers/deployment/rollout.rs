//! The order of steps of one run: which sets are resized, created or cleaned up, and the status after it.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::facts::{DeploymentExt, ReplicaSetExt, split, sum};
use super::plan::Resize;
use super::{Controller, plan, status};
use crate::shared::meta::{MetaExt, now};

/// The Deployment's sets as this run sees and changes them.
pub(super) struct Sets {
    pub(super) new: Option<ReplicaSet>,
    pub(super) old: Vec<ReplicaSet>,
}

impl Sets {
    pub(super) fn old_refs(&self) -> Vec<&ReplicaSet> {
        self.old.iter().collect()
    }

    pub(super) fn all_refs(&self) -> Vec<&ReplicaSet> {
        self.old.iter().chain(&self.new).collect()
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut ReplicaSet> {
        self.old.iter_mut().chain(&mut self.new).find(|rs| rs.name_str() == name)
    }
}

impl Controller {
    pub(super) async fn reconcile(&self, mut d: Deployment, sets: Vec<ReplicaSet>) -> Result<(), kube::Error> {
        let (new, old) = split(&d, sets);
        let mut sets = Sets { new, old };
        if d.is_deleting() {
            return self.plain_status(&mut d, &sets).await;
        }
        if self.refresh_current(&mut d, &mut sets).await? {
            return Ok(());
        }
        if d.paused() || plan::is_scaling(&d, &sets.all_refs()) {
            let resizes = plan::scale(&d, &sets.old_refs(), sets.new.as_ref());
            self.resize_all(&d, &mut sets, resizes).await?;
            if d.paused() {
                self.clean_up(&d, &sets).await?;
            }
            return self.plain_status(&mut d, &sets).await;
        }
        if d.is_rolling() { self.roll(&mut d, sets).await } else { self.recreate(&mut d, sets).await }
    }

    async fn roll(&self, d: &mut Deployment, mut sets: Sets) -> Result<(), kube::Error> {
        if sets.new.is_none() && !self.create_current(d, &mut sets).await? {
            return Ok(());
        }
        if let Some(new) = &sets.new
            && let Some(step) = plan::roll_new(d, &sets.all_refs(), new)
        {
            self.resize_all(d, &mut sets, vec![step]).await?;
            return self.rollout_status(d, &sets).await;
        }
        let shrink = sets.new.as_ref().map(|new| plan::roll_old(d, &sets.old_refs(), new)).unwrap_or_default();
        if !shrink.is_empty() {
            self.resize_all(d, &mut sets, shrink).await?;
            return self.rollout_status(d, &sets).await;
        }
        self.finish(d, &sets).await
    }

    async fn recreate(&self, d: &mut Deployment, mut sets: Sets) -> Result<(), kube::Error> {
        let zero = |rs: &&ReplicaSet| rs.size() > 0;
        let shrink: Vec<Resize> = sets
            .old
            .iter()
            .filter(zero)
            .map(|rs| Resize { name: rs.name_str().to_owned(), to: 0, force: false })
            .collect();
        if !shrink.is_empty() {
            self.resize_all(d, &mut sets, shrink).await?;
            return self.rollout_status(d, &sets).await;
        }
        let counted = sum(&sets.old_refs(), |rs| rs.rstatus().replicas);
        if counted > 0 || self.old_pods_running(&sets.old, sets.new.as_ref().map(MetaExt::uid_str)) {
            return self.rollout_status(d, &sets).await;
        }
        if sets.new.is_none() && !self.create_current(d, &mut sets).await? {
            return Ok(());
        }
        if let Some(new) = sets.new.as_ref().filter(|rs| rs.size() != d.replicas()) {
            let grow = Resize { name: new.name_str().to_owned(), to: d.replicas(), force: false };
            self.resize_all(d, &mut sets, vec![grow]).await?;
        }
        self.finish(d, &sets).await
    }

    async fn finish(&self, d: &mut Deployment, sets: &Sets) -> Result<(), kube::Error> {
        if d.status.as_ref().is_some_and(|s| status::is_complete(d, s)) {
            self.clean_up(d, sets).await?;
        }
        self.rollout_status(d, sets).await
    }

    async fn resize_all(&self, d: &Deployment, sets: &mut Sets, resizes: Vec<Resize>) -> Result<(), kube::Error> {
        for step in resizes {
            if let Some(rs) = sets.get_mut(&step.name) {
                self.resize(d, rs, &step).await?;
            }
        }
        Ok(())
    }

    async fn plain_status(&self, d: &mut Deployment, sets: &Sets) -> Result<(), kube::Error> {
        let status = status::calculate(d, &sets.all_refs(), sets.new.as_ref(), now());
        if d.status.as_ref() == Some(&status) {
            return Ok(());
        }
        self.write_status(d, status).await
    }

    async fn rollout_status(&self, d: &mut Deployment, sets: &Sets) -> Result<(), kube::Error> {
        let status = status::rollout(d, &sets.all_refs(), sets.new.as_ref(), now());
        self.revisit(d, &status);
        if d.status.as_ref() == Some(&status) {
            return Ok(());
        }
        self.write_status(d, status).await
    }
}
