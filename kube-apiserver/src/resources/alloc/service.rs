//! What a Service needs allocated when it is created, changed and deleted, as a transaction around the write of the Service.

use std::{net::IpAddr, sync::Arc};

use serde_json::{Value, json};

use super::{
    AllocError, Config, Record, RecordError, Records,
    families::{family_of, init, unchanged_prefer_dual},
    ip::{IpAllocator, IpError},
    port::{PortAllocator, PortError},
};
use crate::resources::{
    field::{ErrorList, Path},
    metadata::{fill_system_fields, time},
    service::{needs_cluster_ip, needs_health_check_port, needs_node_ports, normalize_cluster_ips},
    value::{at, existing, int_at, list_at, set, str_at},
};

/// The allocators of one server.
pub struct Allocators {
    records: Arc<dyn Records>,
    ips: IpAllocator,
    ports: PortAllocator,
    families: Vec<&'static str>,
}

/// Allocations that belong to one write: call `commit` after the write succeeded, `revert` after it failed.
#[must_use = "allocations leak until the next start unless committed or reverted"]
#[derive(Default)]
pub struct Transaction {
    service: Value,
    new_ips: Vec<IpAddr>,
    new_ports: Vec<i64>,
    old_ips: Vec<IpAddr>,
    old_ports: Vec<i64>,
    dry_run: bool,
}

impl Allocators {
    /// Ensures the `kubernetes` ServiceCIDR, learns what is taken and repairs once.
    pub async fn start(records: Arc<dyn Records>, config: Config) -> Result<Allocators, RecordError> {
        ensure_default_cidr(records.as_ref(), &config).await?;
        let ips = IpAllocator::start(Arc::clone(&records)).await?;
        let ports = PortAllocator::new(Arc::clone(&records), config.node_ports);
        let families = config.service_cidrs.iter().map(|cidr| family_of(&cidr.to_string())).collect();
        let allocators = Allocators { records, ips, ports, families };
        allocators.repair().await?;
        Ok(allocators)
    }

    /// Makes records follow the Services: what a Service has is recorded, what nobody had in two repairs in a row is free.
    /// To be called every few minutes by one server (upstream: 3 minutes); safe beside writes and other servers.
    pub async fn repair(&self) -> Result<(), RecordError> {
        let services = self.records.list(Record::Service).await?;
        let used: Vec<u16> = services.iter().flat_map(used_ports).filter_map(|port| u16::try_from(port).ok()).collect();
        self.ports.repair(&used).await?;
        for service in &services {
            for ip in cluster_ips(service) {
                if let Err(error @ IpError::Store(_)) = self.ips.allocate(ip, service, false).await {
                    tracing::warn!(%ip, %error, "cannot repair the allocation of a cluster IP");
                }
            }
        }
        self.ips.remove_leaks(&services.iter().flat_map(cluster_ips).collect()).await
    }

    /// Allocates for a Service that is about to be created, writing the results into it.
    pub async fn allocate_create(&self, service: &mut Value, dry_run: bool) -> Result<Transaction, AllocError> {
        normalize_cluster_ips(service, None);
        self.allocate(service, None, dry_run).await
    }

    /// Allocates for a Service that is about to change.
    pub async fn allocate_update(
        &self,
        service: &mut Value,
        old: &Value,
        dry_run: bool,
    ) -> Result<Transaction, AllocError> {
        crate::resources::service::patch_allocated(service, old);
        normalize_cluster_ips(service, Some(old));
        self.allocate(service, Some(old), dry_run).await
    }

    async fn allocate(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<Transaction, AllocError> {
        init(service, old, &self.families).map_err(AllocError::Invalid)?;
        let mut transaction = Transaction { service: identity(service), dry_run, ..Transaction::default() };
        let mut result = self.cluster_ips(service, old, &mut transaction).await;
        if result.is_ok() {
            result = self.node_ports(service, old, &mut transaction).await;
        }
        match result {
            Ok(()) => Ok(transaction),
            Err(error) => {
                self.revert(transaction).await;
                Err(error)
            }
        }
    }

    async fn cluster_ips(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        t: &mut Transaction,
    ) -> Result<(), AllocError> {
        if unchanged_prefer_dual(service, old) {
            return Ok(());
        }
        let before: Vec<IpAddr> = old.map(cluster_ips).unwrap_or_default();
        if !needs_cluster_ip(service) {
            t.old_ips = before;
            return Ok(());
        }
        let mut wanted: Vec<String> = list_at(service, "spec.clusterIPs").iter().filter_map(text).collect();
        if wanted.first().is_some_and(|ip| ip == "None") {
            return Ok(());
        }
        let families: Vec<String> = list_at(service, "spec.ipFamilies").iter().filter_map(text).collect();
        wanted.truncate(families.len());
        wanted.resize(families.len(), String::new());
        for (slot, family) in wanted.iter_mut().zip(&families) {
            if let Ok(ip) = slot.parse::<IpAddr>() {
                if !before.contains(&ip) {
                    self.ips.allocate(ip, service, t.dry_run).await.map_err(|e| ip_error(service, Some(ip), &e))?;
                    t.new_ips.push(ip);
                }
            } else {
                let next = self.ips.allocate_next(family == "IPv6", service, t.dry_run).await;
                let ip = next.map_err(|e| ip_error(service, None, &e))?;
                t.new_ips.push(ip);
                *slot = ip.to_string();
            }
        }
        t.old_ips = before.into_iter().filter(|ip| !wanted.contains(&ip.to_string())).collect();
        if let Some(spec) = existing(service, "spec") {
            set(spec, "clusterIP", wanted.first().cloned().unwrap_or_default());
            set(spec, "clusterIPs", json!(wanted));
        }
        Ok(())
    }

    async fn node_ports(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        t: &mut Transaction,
    ) -> Result<(), AllocError> {
        let before: Vec<i64> = old.map(used_ports).unwrap_or_default();
        if needs_node_ports(service) {
            self.service_ports(service, &before, t).await?;
        }
        if needs_health_check_port(service) {
            let wanted = int_at(service, "spec.healthCheckNodePort").unwrap_or_default();
            if wanted == 0 {
                let port = self.next_port(t).await.map_err(|error| {
                    AllocError::Internal(format!("failed to allocate a HealthCheck NodePort 0: {error}"))
                })?;
                if let Some(spec) = existing(service, "spec") {
                    set(spec, "healthCheckNodePort", port);
                }
            } else if !before.contains(&wanted) {
                self.take_port(wanted, t).await.map_err(|error| {
                    AllocError::Internal(format!("failed to allocate requested HealthCheck NodePort {wanted}: {error}"))
                })?;
            }
        }
        let after = if needs_node_ports(service) { used_ports(service) } else { Vec::new() };
        t.old_ports = before.into_iter().filter(|port| !after.contains(port)).collect();
        Ok(())
    }

    /// Ports of one number but different protocols share a node port.
    async fn service_ports(&self, service: &mut Value, before: &[i64], t: &mut Transaction) -> Result<(), AllocError> {
        let automatic = str_at(service, "spec.type") == "NodePort"
            || at(service, "spec.allocateLoadBalancerNodePorts").and_then(Value::as_bool).unwrap_or(true);
        let mut ports = list_at(service, "spec.ports").to_vec();
        let mut by_number: Vec<(i64, i64)> = Vec::new();
        for i in 0..ports.len() {
            let number = int_at(&ports[i], "port").unwrap_or_default();
            let own = int_at(&ports[i], "nodePort").unwrap_or_default();
            if own == 0 && !automatic {
                continue;
            }
            let shared = by_number.iter().find(|(port, _)| *port == number).map(|(_, node)| *node);
            let requested =
                if own != 0 { own } else { shared.or_else(|| requested(&ports, number)).unwrap_or_default() };
            let node = if requested == 0 {
                self.next_port(t)
                    .await
                    .map_err(|e| AllocError::Internal(format!("failed to allocate a nodePort: {e}")))?
            } else {
                if !before.contains(&requested) && shared != Some(requested) {
                    self.take_port(requested, t).await.map_err(|e| port_error(i, requested, &e))?;
                }
                requested
            };
            by_number.push((number, node));
            set(&mut ports[i], "nodePort", node);
        }
        if let Some(spec) = existing(service, "spec") {
            set(spec, "ports", ports);
        }
        Ok(())
    }

    async fn next_port(&self, t: &mut Transaction) -> Result<i64, PortError> {
        let port = if t.dry_run { self.ports.peek(&t.new_ports).await? } else { self.ports.allocate_next().await? };
        t.new_ports.push(port);
        Ok(port)
    }

    async fn take_port(&self, port: i64, t: &mut Transaction) -> Result<(), PortError> {
        if t.dry_run {
            self.ports.check(port, &t.new_ports).await?
        } else {
            self.ports.allocate(port).await?
        }
        t.new_ports.push(port);
        Ok(())
    }

    /// After the write: gives back what the Service had and no longer has.
    pub async fn commit(&self, t: Transaction) {
        if !t.dry_run {
            self.give_back(&t.service, &t.old_ips, &t.old_ports).await;
        }
    }

    /// After a failed write: gives back what was allocated for it.
    pub async fn revert(&self, t: Transaction) {
        if !t.dry_run {
            self.give_back(&t.service, &t.new_ips, &t.new_ports).await;
        }
    }

    /// After a Service was removed from the store.
    pub async fn release(&self, service: &Value) {
        self.give_back(service, &cluster_ips(service), &used_ports(service)).await;
    }

    /// A failure here leaks until the repair at the next start, as upstream's does until its repair loop.
    async fn give_back(&self, service: &Value, ips: &[IpAddr], ports: &[i64]) {
        for ip in ips {
            if let Err(error) = self.ips.release(*ip, service).await {
                tracing::warn!(%ip, %error, "cannot release a cluster IP");
            }
        }
        if let Err(error) = self.ports.release(ports).await {
            tracing::warn!(?ports, %error, "cannot release node ports");
        }
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

fn identity(service: &Value) -> Value {
    json!({"metadata": {
        "namespace": str_at(service, "metadata.namespace"),
        "name": str_at(service, "metadata.name"),
    }})
}

fn requested(ports: &[Value], number: i64) -> Option<i64> {
    ports
        .iter()
        .filter(|port| int_at(port, "port") == Some(number))
        .find_map(|p| int_at(p, "nodePort").filter(|n| *n != 0))
}

/// The addresses of a Service; none for headless ones.
fn cluster_ips(service: &Value) -> Vec<IpAddr> {
    if !needs_cluster_ip(service) {
        return Vec::new();
    }
    let mut ips: Vec<IpAddr> =
        list_at(service, "spec.clusterIPs").iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    if ips.is_empty() {
        ips.extend(str_at(service, "spec.clusterIP").parse::<IpAddr>());
    }
    ips
}

/// The node ports of a Service, the health check port included, each once.
fn used_ports(service: &Value) -> Vec<i64> {
    let mut ports: Vec<i64> =
        list_at(service, "spec.ports").iter().filter_map(|port| int_at(port, "nodePort")).collect();
    if needs_health_check_port(service) {
        ports.extend(int_at(service, "spec.healthCheckNodePort"));
    }
    ports.retain(|port| *port != 0);
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn ip_error(service: &Value, ip: Option<IpAddr>, error: &IpError) -> AllocError {
    if matches!(error, IpError::Full) {
        let name = str_at(service, "metadata.name");
        return AllocError::Internal(format!("failed to allocate a serviceIP for Service \"{name}\": {error}"));
    }
    let shown = match ip {
        Some(ip) => format!("failed to allocate IP {ip}: {error}"),
        None => format!("failed to allocate IP: {error}"),
    };
    let mut errs = ErrorList::new();
    errs.invalid(&Path::root("spec.clusterIPs"), list_at(service, "spec.clusterIPs").to_vec(), shown);
    AllocError::Invalid(errs)
}

fn port_error(index: usize, port: i64, error: &PortError) -> AllocError {
    let mut errs = ErrorList::new();
    errs.invalid(&Path::root("spec.ports").index(index).child("nodePort"), port, error.to_string());
    AllocError::Invalid(errs)
}

/// The ranges of the command line appear as the ServiceCIDR `kubernetes`, as upstream's default-servicecidr controller makes it.
async fn ensure_default_cidr(records: &dyn Records, config: &Config) -> Result<(), RecordError> {
    if records.get(Record::ServiceCidr, "kubernetes").await?.is_some() {
        return Ok(());
    }
    let cidrs: Vec<String> = config.service_cidrs.iter().map(ToString::to_string).collect();
    let now = jiff::Timestamp::now();
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes", "generation": 1},
        "spec": {"cidrs": cidrs},
        "status": {"conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "",
            "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": time(now),
        }]},
    });
    fill_system_fields(&mut object, now);
    match records.create(Record::ServiceCidr, "kubernetes", object).await {
        Ok(()) | Err(RecordError::Exists) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use async_trait::async_trait;
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Memory(Mutex<BTreeMap<(u8, String), (u64, Value)>>);

    fn slot(record: Record, name: &str) -> (u8, String) {
        (record as u8, name.to_string())
    }

    #[async_trait]
    impl Records for Memory {
        async fn get(&self, record: Record, name: &str) -> Result<Option<Value>, RecordError> {
            Ok(self.0.lock().get(&slot(record, name)).map(|(revision, value)| {
                let mut value = value.clone();
                value["metadata"]["resourceVersion"] = revision.to_string().into();
                value
            }))
        }
        async fn list(&self, record: Record) -> Result<Vec<Value>, RecordError> {
            Ok(self
                .0
                .lock()
                .iter()
                .filter(|((kind, _), _)| *kind == record as u8)
                .map(|(_, (_, v))| v.clone())
                .collect())
        }
        async fn create(&self, record: Record, name: &str, object: Value) -> Result<(), RecordError> {
            match self.0.lock().entry(slot(record, name)) {
                std::collections::btree_map::Entry::Occupied(_) => Err(RecordError::Exists),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert((1, object));
                    Ok(())
                }
            }
        }
        async fn update(&self, record: Record, name: &str, object: Value) -> Result<(), RecordError> {
            let mut map = self.0.lock();
            let (revision, value) = map.get_mut(&slot(record, name)).ok_or(RecordError::Conflict)?;
            if object["metadata"]["resourceVersion"].as_str() != Some(revision.to_string().as_str()) {
                return Err(RecordError::Conflict);
            }
            *revision += 1;
            *value = object;
            Ok(())
        }
        async fn delete(&self, record: Record, name: &str) -> Result<(), RecordError> {
            self.0.lock().remove(&slot(record, name));
            Ok(())
        }
    }

    async fn allocators(records: &Arc<Memory>) -> Allocators {
        let config = Config { service_cidrs: vec!["10.96.0.0/24".parse().unwrap()], node_ports: 30000..=30031 };
        Allocators::start(Arc::clone(records) as Arc<dyn Records>, config).await.unwrap()
    }

    fn service(name: &str, spec: Value) -> Value {
        json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})
    }

    #[tokio::test]
    async fn two_servers_never_hand_out_the_same_address() {
        let records = Arc::new(Memory::default());
        let (one, two) = (allocators(&records).await, allocators(&records).await);
        let mut seen = std::collections::BTreeSet::new();
        for i in 0..120 {
            let mut svc = service(&format!("s{i}"), json!({"type": "ClusterIP"}));
            let server = if i % 2 == 0 { &one } else { &two };
            let t = server.allocate_create(&mut svc, false).await.unwrap();
            server.commit(t).await;
            assert!(seen.insert(svc["spec"]["clusterIP"].as_str().unwrap().to_string()));
            assert_eq!(svc["spec"]["ipFamilies"], json!(["IPv4"]));
            assert_eq!(svc["spec"]["ipFamilyPolicy"], "SingleStack");
        }
    }

    #[tokio::test]
    async fn chosen_addresses_and_ports_are_checked() {
        let records = Arc::new(Memory::default());
        let server = allocators(&records).await;
        let mut first = service(
            "a",
            json!({"type": "NodePort", "clusterIP": "10.96.0.10", "ports": [{"port": 80, "nodePort": 30001}]}),
        );
        let t = server.allocate_create(&mut first, false).await.unwrap();
        server.commit(t).await;
        let mut second = service("b", json!({"type": "ClusterIP", "clusterIP": "10.96.0.10"}));
        let error = server.allocate_create(&mut second, false).await.err().unwrap().to_string();
        assert_eq!(
            error,
            "spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to allocate IP 10.96.0.10: provided IP is already allocated"
        );
        let mut third = service("c", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}));
        let error = server.allocate_create(&mut third, false).await.err().unwrap().to_string();
        assert_eq!(error, "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated");
        server.release(&first).await;
        let t = server.allocate_create(&mut third, false).await.unwrap();
        server.revert(t).await;
        let t = server.allocate_create(&mut third, false).await.unwrap();
        server.commit(t).await;
    }

    #[tokio::test]
    async fn leaks_are_freed_by_the_second_repair() {
        let records = Arc::new(Memory::default());
        let server = allocators(&records).await;
        let mut lost = service("lost", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30005}]}));
        let t = server.allocate_create(&mut lost, false).await.unwrap();
        server.commit(t).await;
        let again = async || {
            let mut other = service("other", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30005}]}));
            server.allocate_create(&mut other, true).await.map(drop).is_ok()
        };
        server.repair().await.unwrap();
        assert!(!again().await, "one repair must not free what may be in the middle of a write");
        server.repair().await.unwrap();
        assert!(again().await);
        assert!(records.list(Record::IpAddress).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_type_change_gives_everything_back() {
        let records = Arc::new(Memory::default());
        let server = allocators(&records).await;
        let mut old = service(
            "a",
            json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}]}),
        );
        let t = server.allocate_create(&mut old, false).await.unwrap();
        server.commit(t).await;
        assert_eq!(old["spec"]["ports"][0]["nodePort"], old["spec"]["ports"][1]["nodePort"]);
        let mut new = service("a", json!({"type": "ExternalName", "externalName": "x.y"}));
        let t = server.allocate_update(&mut new, &old, false).await.unwrap();
        server.commit(t).await;
        assert!(records.list(Record::IpAddress).await.unwrap().is_empty());
    }
}
