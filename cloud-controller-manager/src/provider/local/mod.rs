//! The provider for bare machines: load-balancer addresses from a pool, machines' addresses and zones from a file.

mod config;
mod pool;

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, NodeAddress, Service};
use parking_lot::Mutex;

use super::{CloudProvider, InstanceMetadata, Instances, LoadBalancer, ProviderError, Routes};
use config::{LocalCloudConfig, Machine};
use pool::Pool;

/// The local provider.
pub struct Local {
    machines: Arc<Machines>,
    balancer: Option<Arc<Balancer>>,
}

impl Local {
    /// Reads the configuration; without a file there are no pools and every machine exists.
    ///
    /// # Errors
    /// When the file can't be read or makes no sense.
    pub fn load(path: Option<&Path>) -> Result<Self, ProviderError> {
        let config = match path {
            Some(path) => LocalCloudConfig::load(path)?,
            None => LocalCloudConfig::default(),
        };
        Self::new(config).map_err(|reason| ProviderError::Config {
            path: path.map(|p| p.display().to_string()).unwrap_or_default(),
            reason,
        })
    }

    fn new(config: LocalCloudConfig) -> Result<Self, String> {
        let pool = Pool::parse(&config.load_balancer_pools)?;
        let balancer =
            (!config.load_balancer_pools.is_empty()).then(|| Arc::new(Balancer { pool, taken: Mutex::default() }));
        Ok(Self { machines: Arc::new(Machines { listed: config.nodes, region: config.region }), balancer })
    }
}

impl CloudProvider for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn instances(&self) -> Option<Arc<dyn Instances>> {
        Some(self.machines.clone())
    }

    fn load_balancer(&self) -> Option<Arc<dyn LoadBalancer>> {
        self.balancer.clone().map(|balancer| balancer as Arc<dyn LoadBalancer>)
    }

    /// Bare machines route by themselves (CNI, or a network administrator).
    fn routes(&self) -> Option<Arc<dyn Routes>> {
        None
    }
}

struct Machines {
    listed: BTreeMap<String, Machine>,
    region: String,
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

#[async_trait]
impl Instances for Machines {
    /// A machine that the file does not list is left alone: taking its node away is the administrator's decision.
    async fn exists(&self, node: &Node) -> Result<bool, ProviderError> {
        Ok(!self.listed.get(name(node)).is_some_and(|machine| machine.removed))
    }

    async fn is_shut_down(&self, node: &Node) -> Result<bool, ProviderError> {
        Ok(self.listed.get(name(node)).is_some_and(|machine| machine.shut_down))
    }

    async fn metadata(&self, node: &Node) -> Result<InstanceMetadata, ProviderError> {
        let machine = self.listed.get(name(node)).cloned().unwrap_or_default();
        let address = |kind: &str, address: &String| NodeAddress { type_: kind.to_owned(), address: address.clone() };
        let mut addresses: Vec<NodeAddress> = machine.internal_ips.iter().map(|ip| address("InternalIP", ip)).collect();
        addresses.extend(machine.external_ips.iter().map(|ip| address("ExternalIP", ip)));
        if addresses.is_empty() {
            // The kubelet's own words are all that is known.
            addresses = node.status.as_ref().and_then(|status| status.addresses.clone()).unwrap_or_default();
        } else {
            addresses.push(address("Hostname", &name(node).to_owned()));
        }
        Ok(InstanceMetadata {
            provider_id: format!("local://{}", name(node)),
            instance_type: machine.instance_type,
            addresses,
            zone: machine.zone,
            region: if machine.region.is_empty() { self.region.clone() } else { machine.region },
            labels: machine.labels,
        })
    }
}

/// Namespace and name of a Service.
type Owner = (String, String);

/// Hands addresses out; kube-proxy on every node serves them. The Services' statuses are the durable record.
struct Balancer {
    pool: Pool,
    taken: Mutex<BTreeMap<IpAddr, Owner>>,
}

fn owner(service: &Service) -> Owner {
    (service.metadata.namespace.clone().unwrap_or_default(), service.metadata.name.clone().unwrap_or_default())
}

/// The family of the Service's first cluster address, which is the one that it is reached by.
fn is_v4(service: &Service) -> bool {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref());
    families.and_then(|families| families.first()).is_none_or(|family| family != "IPv6")
}

fn assigned(service: &Service) -> Vec<IpAddr> {
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|entry| entry.ip.as_ref()?.parse().ok()).collect()
}

impl Balancer {
    /// The Service's address: the one that it has, the one that it wants, or a free one.
    fn assign(&self, service: &Service) -> Result<IpAddr, ProviderError> {
        let mut taken = self.taken.lock();
        let owner = owner(service);
        let held = taken.iter().find(|(_, other)| **other == owner).map(|(ip, _)| *ip);
        let wanted =
            service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref()).filter(|text| !text.is_empty());
        let ip = match wanted {
            Some(text) => {
                let unavailable =
                    |reason: &str| ProviderError::Unavailable { address: text.to_owned(), reason: reason.to_owned() };
                let ip: IpAddr = text.parse().map_err(|_| unavailable("not an IP address"))?;
                if !self.pool.contains(ip) {
                    return Err(unavailable("outside of the load-balancer pools"));
                }
                if taken.get(&ip).is_some_and(|other| *other != owner) {
                    return Err(unavailable("in use by another Service"));
                }
                ip
            }
            None => match held {
                Some(ip) => ip,
                None => self
                    .pool
                    .first_free(is_v4(service), |ip| taken.contains_key(ip))
                    .ok_or_else(|| ProviderError::Exhausted(self.pool.to_string()))?,
            },
        };
        taken.retain(|_, other| *other != owner);
        taken.insert(ip, owner);
        Ok(ip)
    }
}

#[async_trait]
impl LoadBalancer for Balancer {
    async fn exists(&self, service: &Service) -> Result<bool, ProviderError> {
        let owner = owner(service);
        Ok(self.taken.lock().values().any(|other| *other == owner))
    }

    async fn ensure(&self, service: &Service, _: &[Arc<Node>]) -> Result<LoadBalancerStatus, ProviderError> {
        let ip = self.assign(service)?;
        let entry = LoadBalancerIngress { ip: Some(ip.to_string()), ip_mode: Some("VIP".into()), ..Default::default() };
        Ok(LoadBalancerStatus { ingress: Some(vec![entry]) })
    }

    async fn update_nodes(&self, _: &Service, _: &[Arc<Node>]) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn ensure_deleted(&self, service: &Service) -> Result<(), ProviderError> {
        let owner = owner(service);
        self.taken.lock().retain(|_, other| *other != owner);
        Ok(())
    }

    fn adopt(&self, services: &[Arc<Service>]) {
        let mut taken = self.taken.lock();
        for service in services {
            for ip in assigned(service).into_iter().filter(|ip| self.pool.contains(*ip)) {
                taken.entry(ip).or_insert_with(|| owner(service));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn balancer(pool: &str) -> Balancer {
        Balancer { pool: Pool::parse(&[pool.to_owned()]).unwrap(), taken: Mutex::default() }
    }

    fn service(name: &str, wanted: &str, has: &str) -> Service {
        let ingress = if has.is_empty() { json!([]) } else { json!([{"ip": has}]) };
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "x"}, "spec": {"loadBalancerIP": wanted},
            "status": {"loadBalancer": {"ingress": ingress}}}))
        .unwrap()
    }

    #[test]
    fn a_service_keeps_its_address_and_others_get_others() {
        let balancer = balancer("192.0.2.1-192.0.2.2");
        balancer.adopt(&[Arc::new(service("b", "", "192.0.2.1"))]);
        assert_eq!(balancer.assign(&service("a", "", "")).unwrap().to_string(), "192.0.2.2");
        assert_eq!(balancer.assign(&service("a", "", "")).unwrap().to_string(), "192.0.2.2");
        assert_eq!(balancer.assign(&service("b", "", "")).unwrap().to_string(), "192.0.2.1");
        assert!(matches!(balancer.assign(&service("c", "", "")), Err(ProviderError::Exhausted(_))));
    }

    #[test]
    fn the_family_is_the_services() {
        let pool = Pool::parse(&["192.0.2.1-192.0.2.2".to_owned(), "fd00::1-fd00::2".to_owned()]).unwrap();
        let balancer = Balancer { pool, taken: Mutex::default() };
        let mut six = service("six", "", "");
        six.spec.as_mut().unwrap().ip_families = Some(vec!["IPv6".to_owned()]);
        assert_eq!(balancer.assign(&six).unwrap().to_string(), "fd00::1");
        assert_eq!(balancer.assign(&service("four", "", "")).unwrap().to_string(), "192.0.2.1");
    }

    #[test]
    fn a_wanted_address_is_given_or_refused() {
        let balancer = balancer("192.0.2.0/29");
        assert_eq!(balancer.assign(&service("a", "192.0.2.5", "")).unwrap().to_string(), "192.0.2.5");
        assert!(
            balancer
                .assign(&service("b", "192.0.2.5", ""))
                .unwrap_err()
                .to_string()
                .contains("in use by another Service")
        );
        assert!(balancer.assign(&service("b", "198.51.100.1", "")).unwrap_err().to_string().contains("outside"));
        assert_eq!(balancer.assign(&service("a", "192.0.2.6", "")).unwrap().to_string(), "192.0.2.6");
        assert_eq!(balancer.assign(&service("b", "192.0.2.5", "")).unwrap().to_string(), "192.0.2.5");
    }
}
