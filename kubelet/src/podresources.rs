//! The podresources API: tells monitoring agents on a socket of the node which container has which devices, CPUs and memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::grpc::{self, Methods};
use crate::placement::memory::Block;
use crate::pods::{PodRecord, spec};
use crate::shared::Kubelet;

/// Messages, as published.
pub mod wire {
    #![allow(missing_docs, reason = "fields are named as the protocol names them")]

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Empty {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct NumaNode {
        #[prost(int64, tag = "1")]
        pub id: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TopologyInfo {
        #[prost(message, repeated, tag = "1")]
        pub nodes: Vec<NumaNode>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerDevices {
        #[prost(string, tag = "1")]
        pub resource_name: String,
        #[prost(string, repeated, tag = "2")]
        pub device_ids: Vec<String>,
        #[prost(message, optional, tag = "3")]
        pub topology: Option<TopologyInfo>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerMemory {
        #[prost(string, tag = "1")]
        pub memory_type: String,
        #[prost(uint64, tag = "2")]
        pub size: u64,
        #[prost(message, optional, tag = "3")]
        pub topology: Option<TopologyInfo>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct CdiDevice {
        #[prost(string, tag = "1")]
        pub name: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ClaimResource {
        #[prost(message, repeated, tag = "1")]
        pub cdi_devices: Vec<CdiDevice>,
        #[prost(string, tag = "2")]
        pub driver_name: String,
        #[prost(string, tag = "3")]
        pub pool_name: String,
        #[prost(string, tag = "4")]
        pub device_name: String,
        #[prost(string, optional, tag = "5")]
        pub share_id: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct DynamicResource {
        #[prost(string, tag = "2")]
        pub claim_name: String,
        #[prost(string, tag = "3")]
        pub claim_namespace: String,
        #[prost(message, repeated, tag = "4")]
        pub claim_resources: Vec<ClaimResource>,
    }

    /// `v1alpha1` has the first two fields only.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerResources {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, repeated, tag = "2")]
        pub devices: Vec<ContainerDevices>,
        #[prost(int64, repeated, tag = "3")]
        pub cpu_ids: Vec<i64>,
        #[prost(message, repeated, tag = "4")]
        pub memory: Vec<ContainerMemory>,
        #[prost(message, repeated, tag = "5")]
        pub dynamic_resources: Vec<DynamicResource>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PodResources {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub namespace: String,
        #[prost(message, repeated, tag = "3")]
        pub containers: Vec<ContainerResources>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ListPodResourcesResponse {
        #[prost(message, repeated, tag = "1")]
        pub pod_resources: Vec<PodResources>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct AllocatableResourcesResponse {
        #[prost(message, repeated, tag = "1")]
        pub devices: Vec<ContainerDevices>,
        #[prost(int64, repeated, tag = "2")]
        pub cpu_ids: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub memory: Vec<ContainerMemory>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct GetPodResourcesRequest {
        #[prost(string, tag = "1")]
        pub pod_name: String,
        #[prost(string, tag = "2")]
        pub pod_namespace: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct GetPodResourcesResponse {
        #[prost(message, optional, tag = "1")]
        pub pod_resources: Option<PodResources>,
    }
}

use wire::{
    AllocatableResourcesResponse, CdiDevice, ClaimResource, ContainerDevices, ContainerMemory, ContainerResources,
    DynamicResource, Empty, GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesResponse, NumaNode,
    PodResources, TopologyInfo,
};

/// Serves until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let path = kubelet.config.root_dir.join("pod-resources/kubelet.sock");
    let socket = match grpc::listen(&path) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "failed to create listener for podResources endpoint");
            return;
        }
    };
    let of = |kubelet: &Arc<Kubelet>| kubelet.clone();
    let (for_list, for_old, for_get, for_all) = (of(&kubelet), of(&kubelet), of(&kubelet), kubelet);
    let methods = Methods::default()
        .unary("/v1.PodResourcesLister/List", move |_: Empty| {
            let answer = list(&for_list, describe);
            async move { Ok(answer) }
        })
        .unary("/v1alpha1.PodResourcesLister/List", move |_: Empty| {
            let answer = list(&for_old, describe_devices);
            async move { Ok(answer) }
        })
        .unary("/v1.PodResourcesLister/Get", move |request: GetPodResourcesRequest| {
            let answer = get(&for_get, &request);
            async move { answer }
        })
        .unary("/v1.PodResourcesLister/GetAllocatableResources", move |_: Empty| {
            let answer = allocatable(&for_all);
            async move { Ok(answer) }
        });
    grpc::serve(socket, methods, shutdown).await;
}

fn topology(nodes: &[usize]) -> Option<TopologyInfo> {
    let nodes: Vec<NumaNode> =
        nodes.iter().filter_map(|id| i64::try_from(*id).ok()).map(|id| NumaNode { id }).collect();
    (!nodes.is_empty()).then_some(TopologyInfo { nodes })
}

fn devices(by_resource: BTreeMap<String, BTreeMap<String, Vec<usize>>>) -> Vec<ContainerDevices> {
    let each = by_resource.into_iter().flat_map(|(resource_name, devices)| {
        devices.into_iter().map(move |(id, nodes)| ContainerDevices {
            resource_name: resource_name.clone(),
            device_ids: vec![id],
            topology: topology(&nodes),
        })
    });
    each.collect()
}

fn memory(blocks: Vec<Block>) -> Vec<ContainerMemory> {
    let of = |block: Block| ContainerMemory {
        memory_type: block.resource,
        size: block.size,
        topology: topology(&block.nodes),
    };
    blocks.into_iter().map(of).collect()
}

fn ids(cpus: impl Iterator<Item = usize>) -> Vec<i64> {
    cpus.filter_map(|cpu| i64::try_from(cpu).ok()).collect()
}

fn describe_devices(kubelet: &Kubelet, uid: &str, name: &str) -> ContainerResources {
    let devices = devices(kubelet.devices.of(uid, name));
    ContainerResources { name: name.to_owned(), devices, ..ContainerResources::default() }
}

fn claims(kubelet: &Kubelet, uid: &str, container: &str) -> Vec<DynamicResource> {
    let Some(record) = kubelet.pods.get(uid) else { return Vec::new() };
    let shown = kubelet.claims.shown(&record.pod, container).into_iter();
    shown
        .map(|claim| DynamicResource {
            claim_name: claim.name,
            claim_namespace: spec::namespace(&record.pod).to_owned(),
            claim_resources: claim
                .devices
                .into_iter()
                .map(|device| ClaimResource {
                    cdi_devices: device.cdi.into_iter().map(|name| CdiDevice { name }).collect(),
                    driver_name: device.driver,
                    pool_name: device.pool,
                    device_name: device.name,
                    share_id: device.share,
                })
                .collect(),
        })
        .collect()
}

fn describe(kubelet: &Kubelet, uid: &str, name: &str) -> ContainerResources {
    ContainerResources {
        cpu_ids: ids(kubelet.placement.exclusive_cpus(uid, name).iter()),
        memory: memory(kubelet.placement.memory_of(uid, name)),
        dynamic_resources: claims(kubelet, uid, name),
        ..describe_devices(kubelet, uid, name)
    }
}

type Describe = fn(&Kubelet, &str, &str) -> ContainerResources;

/// Sidecars and containers.
fn of_pod(kubelet: &Kubelet, pod: &Pod, describe: Describe) -> PodResources {
    let spec = pod.spec.clone().unwrap_or_default();
    let sidecars = spec.init_containers.iter().flatten().filter(|container| spec::is_sidecar(container));
    let containers = sidecars.chain(&spec.containers);
    PodResources {
        name: spec::name(pod).to_owned(),
        namespace: spec::namespace(pod).to_owned(),
        containers: containers.map(|container| describe(kubelet, spec::uid(pod), &container.name)).collect(),
    }
}

fn is_active(record: &PodRecord) -> bool {
    !matches!(record.status.phase.as_deref(), Some("Failed" | "Succeeded"))
}

fn list(kubelet: &Kubelet, describe: Describe) -> ListPodResourcesResponse {
    let active = kubelet.pods.list().into_iter().filter(is_active);
    ListPodResourcesResponse { pod_resources: active.map(|record| of_pod(kubelet, &record.pod, describe)).collect() }
}

fn get(kubelet: &Kubelet, request: &GetPodResourcesRequest) -> Result<GetPodResourcesResponse, Status> {
    let GetPodResourcesRequest { pod_name, pod_namespace } = request;
    let record = kubelet.pods.find(pod_namespace, pod_name, None).filter(is_active);
    let record =
        record.ok_or_else(|| Status::unknown(format!("pod {pod_name} in namespace {pod_namespace} not found")))?;
    Ok(GetPodResourcesResponse { pod_resources: Some(of_pod(kubelet, &record.pod, describe)) })
}

fn allocatable(kubelet: &Kubelet) -> AllocatableResourcesResponse {
    AllocatableResourcesResponse {
        devices: devices(kubelet.devices.allocatable()),
        cpu_ids: ids(kubelet.placement.allocatable_cpus().iter()),
        memory: memory(kubelet.placement.allocatable_memory()),
    }
}
