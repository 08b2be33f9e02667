//! Cluster IPs. An address belongs to a Service when the `IPAddress` object of that name could be created.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use parking_lot::Mutex;
use rand::RngExt as _;
use serde_json::{Value, json};

use super::{Record, RecordError, Records};
use crate::resources::{
    metadata,
    value::{at, is_set, list_at, str_at},
};

/// The label value of records that this allocator made.
const MANAGER: &str = "ipallocator.k8s.io";
/// Free addresses are looked for at this many places at most before the store is asked again.
const MAX_PROBES: u128 = 1 << 17;

#[derive(Debug, thiserror::Error)]
pub(super) enum IpError {
    #[error("range is full")]
    Full,
    #[error("provided IP is already allocated")]
    Allocated,
    #[error("the provided network does not match the current range")]
    Mismatched,
    #[error("the provided IP ({0}) is not in the valid range. The range of valid IPs is {1}")]
    NotInRange(IpAddr, IpNet),
    #[error("{0}")]
    Store(String),
}

impl From<RecordError> for IpError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Exists => IpError::Allocated,
            other => IpError::Store(other.to_string()),
        }
    }
}

pub(super) struct IpAllocator {
    records: Arc<dyn Records>,
    /// Addresses known to be taken: a hint that keeps random probes from running into the store.
    taken: Mutex<HashSet<IpAddr>>,
    /// Records that no Service wanted at the last repair.
    suspects: Mutex<HashSet<String>>,
}

impl IpAllocator {
    pub(super) async fn start(records: Arc<dyn Records>) -> Result<IpAllocator, RecordError> {
        let allocator = IpAllocator { records, taken: Mutex::default(), suspects: Mutex::default() };
        allocator.refresh().await?;
        Ok(allocator)
    }

    /// Reads all taken addresses from the store.
    async fn refresh(&self) -> Result<(), RecordError> {
        let records = self.records.list(Record::IpAddress).await?;
        *self.taken.lock() = records.iter().filter_map(|record| str_at(record, "metadata.name").parse().ok()).collect();
        Ok(())
    }

    /// Ranges that may serve addresses now.
    async fn ranges(&self) -> Result<Vec<IpNet>, RecordError> {
        let mut ranges = Vec::new();
        for record in self.records.list(Record::ServiceCidr).await? {
            let not_ready = list_at(&record, "status.conditions")
                .iter()
                .any(|c| str_at(c, "type") == "Ready" && str_at(c, "status") == "False");
            if not_ready || is_set(&record, "metadata.deletionTimestamp") {
                continue;
            }
            ranges.extend(list_at(&record, "spec.cidrs").iter().filter_map(|c| c.as_str()?.parse::<IpNet>().ok()));
        }
        Ok(ranges)
    }

    /// Takes a chosen address for the Service.
    pub(super) async fn allocate(&self, ip: IpAddr, service: &Value, dry_run: bool) -> Result<(), IpError> {
        let ranges = self.ranges().await?;
        let range = ranges.into_iter().find(|range| range.contains(&ip)).ok_or(IpError::Mismatched)?;
        let (first, last) = usable(range);
        if !(first..=last).contains(&number(ip)) {
            return Err(IpError::NotInRange(ip, range));
        }
        if dry_run {
            return if self.records.get(Record::IpAddress, &ip.to_string()).await?.is_some() {
                Err(IpError::Allocated)
            } else {
                Ok(())
            };
        }
        self.create(ip, service).await
    }

    /// Takes any free address of the family, preferring the upper part of a range: the lower is for chosen ones.
    pub(super) async fn allocate_next(&self, v6: bool, service: &Value, dry_run: bool) -> Result<IpAddr, IpError> {
        let ranges: Vec<IpNet> =
            self.ranges().await?.into_iter().filter(|range| matches!(range, IpNet::V6(_)) == v6).collect();
        for attempt in 0..2 {
            for range in &ranges {
                while let Some(ip) = self.free(*range) {
                    if dry_run {
                        return Ok(ip);
                    }
                    match self.create(ip, service).await {
                        Ok(()) => return Ok(ip),
                        Err(IpError::Allocated) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            if attempt == 0 {
                self.refresh().await?;
            }
        }
        Err(IpError::Full)
    }

    /// Removes records of ours whose Service does not have the address, once they were seen so in two repairs in a row.
    pub(super) async fn remove_leaks(&self, wanted: &HashSet<IpAddr>) -> Result<(), RecordError> {
        let records = self.records.list(Record::IpAddress).await?;
        let before = std::mem::take(&mut *self.suspects.lock());
        let mut suspects = HashSet::new();
        for record in &records {
            let ours = at(record, "metadata.labels").and_then(|l| l.get("ipaddress.kubernetes.io/managed-by"));
            let name = str_at(record, "metadata.name");
            let Ok(ip) = name.parse::<IpAddr>() else { continue };
            if ours.is_none_or(|manager| manager != MANAGER) || wanted.contains(&ip) {
                continue;
            }
            if before.contains(name) {
                self.records.delete(Record::IpAddress, name).await?;
                self.taken.lock().remove(&ip);
            } else {
                suspects.insert(name.to_string());
            }
        }
        *self.suspects.lock() = suspects;
        Ok(())
    }

    fn free(&self, range: IpNet) -> Option<IpAddr> {
        let (first, last) = usable(range);
        let offset = reserved(range);
        let taken = self.taken.lock();
        let pick = |low: u128, high: u128| {
            if low > high {
                return None;
            }
            let size = high - low + 1;
            let start = rand::rng().random_range(0..size);
            (0..size.min(MAX_PROBES)).map(|i| address(low + (start + i) % size, range)).find(|ip| !taken.contains(ip))
        };
        pick(first + offset, last).or_else(|| if offset == 0 { None } else { pick(first, first + offset - 1) })
    }

    async fn create(&self, ip: IpAddr, service: &Value) -> Result<(), IpError> {
        let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
        let mut object = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IPAddress",
            "metadata": {
                "name": ip.to_string(),
                "labels": {
                    "ipaddress.kubernetes.io/ip-family": family,
                    "ipaddress.kubernetes.io/managed-by": MANAGER,
                },
            },
            "spec": {"parentRef": {
                "resource": "services",
                "namespace": str_at(service, "metadata.namespace"),
                "name": str_at(service, "metadata.name"),
            }},
        });
        metadata::fill_system_fields(&mut object, jiff::Timestamp::now());
        if let Some(meta) = object.get_mut("metadata") {
            crate::resources::value::set(meta, "generation", 1);
        }
        let result = self.records.create(Record::IpAddress, &ip.to_string(), object).await;
        if matches!(result, Ok(()) | Err(RecordError::Exists)) {
            self.taken.lock().insert(ip);
        }
        Ok(result?)
    }

    /// Gives an address back, unless it belongs to another Service by now.
    pub(super) async fn release(&self, ip: IpAddr, service: &Value) -> Result<(), RecordError> {
        let name = ip.to_string();
        if let Some(record) = self.records.get(Record::IpAddress, &name).await? {
            let owner =
                |path: &str| at(&record, "spec.parentRef").map(|parent| str_at(parent, path)).unwrap_or_default();
            if owner("namespace") != str_at(service, "metadata.namespace")
                || owner("name") != str_at(service, "metadata.name")
            {
                return Ok(());
            }
            self.records.delete(Record::IpAddress, &name).await?;
        }
        self.taken.lock().remove(&ip);
        Ok(())
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, like: IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    }
}

/// First and last address that a Service may have: not the network's, and not an IPv4 broadcast address.
fn usable(range: IpNet) -> (u128, u128) {
    let (network, broadcast) = (number(range.network()), number(range.broadcast()));
    match range {
        IpNet::V4(_) => (network + 1, broadcast.saturating_sub(1)),
        IpNet::V6(_) => (network + 1, broadcast),
    }
}

/// How many addresses at the start of a range are kept for Services that choose theirs: 1/16, between 16 and 256.
fn reserved(range: IpNet) -> u128 {
    let size = number(range.broadcast()) - number(range.network()) + 1;
    if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_band() {
        for (cidr, want) in [("10.96.0.0/16", 256), ("10.0.0.0/24", 16), ("10.0.0.0/28", 0), ("10.0.0.0/20", 256)] {
            assert_eq!(reserved(cidr.parse().unwrap()), want, "{cidr}");
        }
        let (first, last) = usable("10.0.0.0/24".parse().unwrap());
        assert_eq!(address(first, "10.0.0.0/24".parse().unwrap()).to_string(), "10.0.0.1");
        assert_eq!(address(last, "10.0.0.0/24".parse().unwrap()).to_string(), "10.0.0.254");
    }
}
