//! Descriptions: k8s-openapi carries upstream's texts in its JSON schemas; they are read at run time, never copied.

use std::collections::BTreeSet;

use common::schema::Type;
use k8s_openapi::schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

/// The texts of every type that a set of types refers to, by definition name.
pub(super) struct Descriptions(Map<String, Value>);

impl Descriptions {
    /// The texts about the given types.
    pub(super) fn of(types: &[Type<'_>]) -> Self {
        let packages: BTreeSet<String> = types.iter().filter_map(|ty| Some(ty.package()?.replace('-', "_"))).collect();
        let mut generator = SchemaGenerator::default();
        let wanted = ROOTS.iter().filter(|(package, _)| packages.contains(*package));
        for root in wanted.flat_map(|(_, roots)| roots.iter()) {
            root(&mut generator);
        }
        Self(generator.take_definitions(false))
    }

    /// The text about a type.
    pub(super) fn of_type(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.get("description")?.as_str()
    }

    /// The text about a field of a type.
    pub(super) fn of_field(&self, name: &str, field: &str) -> Option<&str> {
        self.0.get(name)?.get("properties")?.get(field)?.get("description")?.as_str()
    }
}

/// Adds a type, and all it refers to, to a generator.
type Root = fn(&mut SchemaGenerator);

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

/// The package `a::b` of k8s-openapi holds the definitions `io.k8s.a.b.*` (underscores stand for dashes).
macro_rules! roots {
    ($($($part:ident)::+ { $($name:ident),+ })*) => {
        /// The types with a kind, by package; all others are reachable from them.
        const ROOTS: &[(&str, &[Root])] = &[
            $((concat!("io.k8s", $(".", stringify!($part)),+), {
                use k8s_openapi::$($part)::+ as types;
                const LIST: &[Root] = &[$(add::<types::$name>),+];
                LIST
            })),*
        ];
    };
}

roots! {
    api::admissionregistration::v1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration }
    api::admissionregistration::v1alpha1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding }
    api::admissionregistration::v1beta1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding }
    api::apiserverinternal::v1alpha1 { StorageVersion }
    api::apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
    api::authentication::v1 { SelfSubjectReview, TokenRequest, TokenReview }
    api::authorization::v1 { LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview }
    api::autoscaling::v1 { HorizontalPodAutoscaler, Scale }
    api::autoscaling::v2 { HorizontalPodAutoscaler }
    api::batch::v1 { CronJob, Job }
    api::certificates::v1 { CertificateSigningRequest }
    api::certificates::v1alpha1 { ClusterTrustBundle }
    api::certificates::v1beta1 { ClusterTrustBundle, PodCertificateRequest }
    api::coordination::v1 { Lease }
    api::coordination::v1alpha2 { LeaseCandidate }
    api::coordination::v1beta1 { LeaseCandidate }
    api::core::v1 { Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount }
    api::discovery::v1 { EndpointSlice }
    api::events::v1 { Event }
    api::flowcontrol::v1 { FlowSchema, PriorityLevelConfiguration }
    api::networking::v1 { IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR }
    api::networking::v1beta1 { IPAddress, ServiceCIDR }
    api::node::v1 { RuntimeClass }
    api::policy::v1 { Eviction, PodDisruptionBudget }
    api::rbac::v1 { ClusterRole, ClusterRoleBinding, Role, RoleBinding }
    api::resource::v1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
    api::resource::v1alpha3 { DeviceTaintRule, ResourcePoolStatusRequest }
    api::resource::v1beta1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
    api::resource::v1beta2 { DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
    api::scheduling::v1 { PriorityClass }
    api::scheduling::v1alpha2 { PodGroup, Workload }
    api::storage::v1 { CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass }
    api::storage::v1beta1 { VolumeAttributesClass }
    api::storagemigration::v1beta1 { StorageVersionMigration }
    apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
    apimachinery::pkg::apis::meta::v1 { APIGroup, APIGroupList, APIResourceList, APIVersions, DeleteOptions, ListMeta, Patch, Status }
    kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
}
