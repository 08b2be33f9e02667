//! The cluster as informers see it.

use std::sync::Arc;

use common::informer::{Factory, Informer, InformerOptions};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};

use crate::zone::{View, cluster_ips};

const BY_SERVICE: &str = "service";
const BY_IP: &str = "ip";

/// Caches with the indexes that questions need.
pub(crate) struct Informers {
    services: Arc<Informer<Service>>,
    slices: Arc<Informer<EndpointSlice>>,
    namespaces: Arc<Informer<Namespace>>,
}

impl Informers {
    pub(crate) fn new(factory: &Factory) -> Self {
        let services = factory.informer::<Service>();
        services.add_index(BY_IP, cluster_ips);
        // Only headless services are answered from slices, but a slice does not tell; slices without a service are nobody's.
        let options =
            InformerOptions { label_selector: Some("kubernetes.io/service-name".into()), ..Default::default() };
        let slices = factory.informer_with::<EndpointSlice>(options);
        slices.add_index(BY_SERVICE, |slice| service_key(slice).into_iter().collect());
        slices.add_index(BY_IP, |slice| slice.endpoints.iter().flatten().flat_map(|e| e.addresses.clone()).collect());
        Self { services, slices, namespaces: factory.informer::<Namespace>() }
    }

    pub(crate) fn has_synced(&self) -> bool {
        self.services.has_synced() && self.slices.has_synced() && self.namespaces.has_synced()
    }
}

fn service_key(slice: &EndpointSlice) -> Option<String> {
    let service = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some(format!("{}/{service}", slice.metadata.namespace.as_deref().unwrap_or_default()))
}

impl View for Informers {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(namespace, name)
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_SERVICE, &format!("{namespace}/{service}"))
    }

    fn namespace_exists(&self, namespace: &str) -> bool {
        self.namespaces.get("", namespace).is_some()
    }

    fn services_by_ip(&self, ip: &str) -> Vec<Arc<Service>> {
        self.services.by_index(BY_IP, ip)
    }

    fn slices_by_ip(&self, ip: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_IP, ip)
    }
}
