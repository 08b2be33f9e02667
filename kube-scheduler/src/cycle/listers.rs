//! Namespaces, Services, controllers and disruption budgets from informers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::informer::{Factory, Informer};
use common::meta::selector::LabelSelector;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::framework::listers::{Budget, Listers};
use crate::framework::template::Template;

/// The informers.
pub struct InformerListers {
    namespaces: Arc<Informer<Namespace>>,
    namespaces_version: Arc<AtomicU64>,
    services: Arc<Informer<Service>>,
    controllers: Arc<Informer<ReplicationController>>,
    replica_sets: Arc<Informer<ReplicaSet>>,
    stateful_sets: Arc<Informer<StatefulSet>>,
    budgets: Arc<Informer<PodDisruptionBudget>>,
}

impl InformerListers {
    /// Registers the informers; the factory must be started after.
    pub fn new(factory: &Factory) -> Self {
        let namespaces = factory.informer::<Namespace>();
        let namespaces_version = Arc::new(AtomicU64::new(0));
        let version = namespaces_version.clone();
        namespaces.on_event(move |_| {
            version.fetch_add(1, Ordering::Relaxed);
        });
        Self {
            namespaces,
            namespaces_version,
            services: factory.informer(),
            controllers: factory.informer(),
            replica_sets: factory.informer(),
            stateful_sets: factory.informer(),
            budgets: factory.informer(),
        }
    }
}

impl Listers for InformerListers {
    fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        self.namespaces.get("", namespace).and_then(|found| found.metadata.labels.clone()).unwrap_or_default()
    }

    fn namespaces_version(&self) -> u64 {
        self.namespaces_version.load(Ordering::Relaxed)
    }

    fn default_selector(&self, template: &Template) -> Option<LabelSelector> {
        let mut labels = BTreeMap::new();
        for service in self.services.list_namespace(&template.namespace) {
            let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { continue };
            if selector.iter().all(|(key, value)| template.labels.get(key) == Some(value)) {
                labels.extend(selector.clone());
            }
        }
        let own = match &template.controller {
            Some((kind, name)) if kind == "ReplicationController" => {
                let found = self.controllers.get(&template.namespace, name);
                let selector = found.and_then(|rc| rc.spec.as_ref().and_then(|spec| spec.selector.clone()));
                labels.extend(selector.unwrap_or_default());
                None
            }
            Some((kind, name)) if kind == "ReplicaSet" => {
                let found = self.replica_sets.get(&template.namespace, name);
                found.and_then(|set| set.spec.as_ref().map(|spec| spec.selector.clone()))
            }
            Some((kind, name)) if kind == "StatefulSet" => {
                let found = self.stateful_sets.get(&template.namespace, name);
                found.and_then(|set| set.spec.as_ref().map(|spec| spec.selector.clone()))
            }
            _ => None,
        };
        let own = own.and_then(|selector| LabelSelector::from_meta(Some(&selector)).ok());
        let mut requirements = LabelSelector::from_map(&labels).requirements().to_vec();
        requirements.extend(own.iter().flat_map(|selector| selector.requirements().to_vec()));
        (!requirements.is_empty()).then(|| LabelSelector::from_requirements(requirements))
    }

    fn budgets(&self, namespace: &str) -> Vec<Budget> {
        let budget = |budget: Arc<PodDisruptionBudget>| {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let status = budget.status.as_ref();
            Budget {
                selector: LabelSelector::from_meta(selector).unwrap_or_else(|_| LabelSelector::nothing()),
                allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
                disrupted: status
                    .and_then(|status| status.disrupted_pods.as_ref())
                    .map(|pods| pods.keys().cloned().collect())
                    .unwrap_or_default(),
            }
        };
        self.budgets.list_namespace(namespace).into_iter().map(budget).collect()
    }
}
