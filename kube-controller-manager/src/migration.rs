//! Leader migration: controllers that move between controller managers run under a lease of their own, which both sides know, so that
//! each of them has one owner while some instances are new and some old.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;
use common::config::{flags::LeaderElection, load_any_version};
use serde::{Deserialize, Serialize};

const VERSIONS: &[&str] = &[
    "controllermanager.config.k8s.io/v1",
    "controllermanager.config.k8s.io/v1beta1",
    "controllermanager.config.k8s.io/v1alpha1",
];

/// `--enable-leader-migration` and its file.
#[derive(Debug, Clone, Default, Args)]
pub struct MigrationFlags {
    /// Whether to enable controller leader migration.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_leader_migration: bool,
    /// Path to the config file for controller leader migration, or empty to use the value that reflects default configuration of the controller manager. The config file should be of type LeaderMigrationConfiguration, group controllermanager.config.k8s.io, version v1alpha1.
    #[arg(long)]
    pub leader_migration_config: Option<PathBuf>,
}

/// `LeaderMigrationConfiguration`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all(deserialize = "camelCase", serialize = "PascalCase"))]
pub(crate) struct Migration {
    #[serde(default)]
    leader_name: String,
    #[serde(default = "leases")]
    resource_lock: String,
    #[serde(default)]
    controller_leaders: Vec<Leader>,
}

/// Which component runs a controller; `*`: whichever holds the lease.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all(deserialize = "camelCase", serialize = "PascalCase"))]
struct Leader {
    #[serde(default)]
    name: String,
    #[serde(default)]
    component: String,
}

fn leases() -> String {
    "leases".to_owned()
}

/// Under which lease a controller runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// The daemon's own.
    Main,
    /// That of the migration.
    Migration,
    /// None of ours: another component runs it.
    Elsewhere,
}

impl Migration {
    /// What the flags say; None without migration, or without an election.
    ///
    /// # Errors
    /// The file cannot be read, or what it says cannot be.
    pub(crate) fn of(flags: &MigrationFlags, election: &LeaderElection) -> anyhow::Result<Option<Self>> {
        if !flags.enable_leader_migration {
            return Ok(None);
        }
        let path = flags.leader_migration_config.as_ref().filter(|path| !path.as_os_str().is_empty());
        let migration = match path {
            Some(path) => load_any_version(path, VERSIONS, "LeaderMigrationConfiguration")?,
            None => Self::default(),
        };
        migration.validate()?;
        Ok(election.leader_elect.then_some(migration))
    }

    fn validate(&self) -> anyhow::Result<()> {
        let fail = |what: String| anyhow::anyhow!("failed to parse leader migration configuration: {what}");
        if self.leader_name.is_empty() {
            let what = "leaderName: Required value: leaderName must be set for LeaderMigrationConfiguration";
            return Err(fail(what.to_owned()));
        }
        if self.resource_lock != "leases" {
            return Err(fail(format!(
                "resourceLock: Invalid value: {:?}: resource Lock must be one of 'leases' or 'endpoints'",
                self.resource_lock
            )));
        }
        for (i, leader) in self.controller_leaders.iter().enumerate() {
            for (field, value) in [("component", &leader.component), ("name", &leader.name)] {
                if value.is_empty() {
                    return Err(fail(format!("controllerLeaders[{i}].{field}: Required value")));
                }
            }
        }
        Ok(())
    }

    /// Where a controller of this daemon runs.
    pub(crate) fn lock_of(&self, controller: &str) -> Lock {
        let leaders: HashMap<&str, &str> =
            self.controller_leaders.iter().map(|l| (l.name.as_str(), l.component.as_str())).collect();
        match leaders.get(controller) {
            None => Lock::Main,
            Some(&"*" | &crate::NAME) => Lock::Migration,
            Some(_) => Lock::Elsewhere,
        }
    }

    /// The election of the migration's lease: as the daemon's own, but for the name.
    pub(crate) fn election(&self, own: &LeaderElection) -> LeaderElection {
        LeaderElection { leader_elect_resource_name: Some(self.leader_name.clone()), ..own.clone() }
    }
}

impl Default for Migration {
    /// What upstream takes without a file.
    fn default() -> Self {
        let leader = |name: &str| Leader { name: name.to_owned(), component: "*".to_owned() };
        let names = ["route-controller", "service-controller", "cloud-node-lifecycle-controller"];
        Self {
            leader_name: "cloud-provider-extraction-migration".to_owned(),
            resource_lock: leases(),
            controller_leaders: names.map(leader).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(text: &str) -> Result<Migration, String> {
        let path = std::env::temp_dir().join(format!("corten-migration-{}", uuid::Uuid::new_v4()));
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        let flags = MigrationFlags { enable_leader_migration: true, leader_migration_config: Some(path.clone()) };
        let read = Migration::of(&flags, &LeaderElection::default());
        std::fs::remove_file(path).unwrap();
        read.map(Option::unwrap).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_file_upstreams_default() {
        let flags = MigrationFlags { enable_leader_migration: true, leader_migration_config: None };
        let election = LeaderElection::default();
        let migration = Migration::of(&flags, &election).unwrap().unwrap();
        assert_eq!(migration.leader_name, "cloud-provider-extraction-migration");
        assert_eq!(migration.lock_of("route-controller"), Lock::Migration);
        assert_eq!(migration.lock_of("deployment-controller"), Lock::Main);
        let alone = LeaderElection { leader_elect: false, ..election.clone() };
        assert_eq!(Migration::of(&flags, &alone).unwrap(), None);
        assert_eq!(Migration::of(&MigrationFlags::default(), &election).unwrap(), None);
    }

    #[test]
    fn a_file_says_who_runs_what() {
        let migration = read(
            "apiVersion: controllermanager.config.k8s.io/v1\nkind: LeaderMigrationConfiguration\nleaderName: move\ncontrollerLeaders:\n- {name: node-ipam-controller, component: kube-controller-manager}\n- {name: service-lb-controller, component: cloud-controller-manager}\n",
        )
        .unwrap();
        for (controller, lock) in [
            ("node-ipam-controller", Lock::Migration),
            ("service-lb-controller", Lock::Elsewhere),
            ("job-controller", Lock::Main),
        ] {
            assert_eq!(migration.lock_of(controller), lock, "{controller}");
        }
        let election = migration.election(&LeaderElection::default());
        assert_eq!(election.leader_elect_resource_name.as_deref(), Some("move"));
    }

    #[test]
    fn bad_files_are_told() {
        let head = "kind: LeaderMigrationConfiguration\napiVersion: controllermanager.config.k8s.io/";
        for (text, want) in [
            (format!("{head}v1\n"), "leaderName must be set"),
            (format!("{head}v1beta1\nleaderName: x\nresourceLock: pods\n"), "must be one of 'leases' or 'endpoints'"),
            (
                format!("{head}v1\nleaderName: x\ncontrollerLeaders: [{{name: a}}]\n"),
                "controllerLeaders[0].component: Required value",
            ),
            (format!("{head}v1\nleaderName: x\nnoSuch: 1\n"), "noSuch"),
            (
                format!("{head}v9\nleaderName: x\n"),
                "no kind \"LeaderMigrationConfiguration\" is registered for version",
            ),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}
