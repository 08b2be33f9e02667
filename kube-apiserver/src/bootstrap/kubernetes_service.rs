//! The `kubernetes` Service in `default`, and the Endpoints and EndpointSlice that lead to the living apiservers.
//!
//! Every apiserver keeps a lease below `/registry/masterleases/`; the endpoints are the addresses that hold one.

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

use super::ensure::{complete, ensure};
use crate::{
    request::{ApiError, ApiResult},
    server::{ApiServer, Change, Mutation, Stored},
    storage::{KeyRange, RangeOptions, StoreError, codec},
};

const NAME: &str = "kubernetes";
const LEASE: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(10);
const DISCOVERY: &str = "discovery.k8s.io";

/// Makes the Service and brings the endpoints up to date once; renewal goes on in the background.
///
/// # Errors
/// The store is unavailable.
pub async fn ensure_service(server: Arc<ApiServer>) -> ApiResult<()> {
    create_service(&server).await?;
    renew(&server).await?;
    tokio::spawn(keep(server));
    Ok(())
}

async fn keep(server: Arc<ApiServer>) {
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => break,
            () = tokio::time::sleep(RENEW) => {}
        }
        if let Err(error) = create_service(&server).await {
            tracing::warn!(%error, "cannot keep the kubernetes service");
        }
        if let Err(error) = renew(&server).await {
            tracing::warn!(%error, "cannot keep the endpoints of the kubernetes service");
        }
    }
}

/// Takes this apiserver out of the endpoints.
///
/// # Errors
/// The store is unavailable.
pub async fn leave(server: &ApiServer) -> ApiResult<()> {
    let key = lease_key(server);
    let (found, _) = server.registry.store().get(&key, None).await.map_err(ApiError::internal)?;
    if let Some(kv) = found {
        server.registry.store().delete(&key, kv.mod_revision).await.map_err(ApiError::internal)?;
    }
    publish(server).await
}

async fn create_service(server: &ApiServer) -> ApiResult<()> {
    let store = server.registry.core("services")?;
    if store.find("default", NAME).await?.is_some() {
        return Ok(());
    }
    let Some(ip) = server.config.kubernetes_service_ip() else { return Ok(()) };
    let mut service = complete(
        server,
        "",
        "services",
        "default",
        json!({
            "metadata": {
                "name": NAME,
                "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": ip.to_string(),
                "clusterIPs": [ip.to_string()],
                "ipFamilyPolicy": "SingleStack",
                "ipFamilies": [if ip.is_ipv4() { "IPv4" } else { "IPv6" }],
                "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": server.config.options.serving.secure_port}],
            },
        }),
    );
    let allocators = server.allocators().await?;
    let transaction =
        allocators.allocate_create(&mut service, false).await.map_err(|e| ApiError::internal(e.to_string()))?;
    match store.create("default", NAME, &mut service).await {
        Ok(()) => {
            allocators.commit(transaction).await;
            Ok(())
        }
        // Another apiserver was faster; the address is the Service's in any case.
        Err(error) if error.is_already_exists() => {
            allocators.commit(transaction).await;
            Ok(())
        }
        Err(error) => {
            allocators.revert(transaction).await;
            Err(error)
        }
    }
}

fn lease_key(server: &ApiServer) -> String {
    server.registry.key(&format!("masterleases/{}", server.config.advertise_address))
}

/// Renews this server's lease and publishes all living addresses.
async fn renew(server: &ApiServer) -> ApiResult<()> {
    let key = lease_key(server);
    let value = json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {},
        "subsets": [{"addresses": [{"ip": server.config.advertise_address.to_string()}]}]});
    let bytes = codec::encode(&value, server.registry.media_type()).map(Bytes::from).map_err(ApiError::internal)?;
    let store = server.registry.store();
    let written = match store.create(&key, bytes.clone(), Some(LEASE)).await {
        Err(StoreError::Exists { .. }) => {
            let (found, _) = store.get(&key, None).await.map_err(ApiError::internal)?;
            match found {
                Some(kv) => store.update(&key, kv.mod_revision, bytes, Some(LEASE)).await,
                None => store.create(&key, bytes, Some(LEASE)).await,
            }
        }
        other => other,
    };
    written.map_err(ApiError::internal)?;
    publish(server).await
}

/// The addresses of the living apiservers, in order.
async fn living(server: &ApiServer) -> ApiResult<Vec<String>> {
    let prefix = server.registry.key("masterleases/");
    let found = server.registry.store().range(KeyRange::prefix(&prefix), RangeOptions::default()).await;
    let mut addresses: Vec<IpAddr> = found
        .map_err(ApiError::internal)?
        .kvs
        .iter()
        .filter_map(|kv| kv.key.strip_prefix(&prefix)?.parse().ok())
        .collect();
    addresses.sort_unstable();
    Ok(addresses.into_iter().map(|a| a.to_string()).collect())
}

async fn publish(server: &ApiServer) -> ApiResult<()> {
    if server.config.options.cluster.endpoint_reconciler_type == "none" {
        return Ok(());
    }
    let addresses = living(server).await?;
    let port = server.config.options.serving.secure_port;
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let subsets: Value = if addresses.is_empty() {
        json!([])
    } else {
        let list: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        json!([{"addresses": list, "ports": ports}])
    };
    let endpoints = json!({
        "metadata": {"name": NAME, "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": subsets,
    });
    let list: Vec<Value> =
        addresses.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    let family = if server.config.advertise_address.is_ipv4() { "IPv4" } else { "IPv6" };
    let slice = json!({
        "metadata": {"name": NAME, "namespace": "default", "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": family,
        "endpoints": list,
        "ports": ports,
    });
    put(server, "", "endpoints", endpoints, &["subsets"]).await?;
    put(server, DISCOVERY, "endpointslices", slice, &["endpoints", "ports"]).await
}

async fn put(server: &ApiServer, group: &str, resource: &str, wanted: Value, fields: &[&str]) -> ApiResult<()> {
    if ensure(server, group, resource, wanted.clone()).await? {
        return Ok(());
    }
    let store = server.registry.of(group, resource)?;
    let mut wanted = wanted;
    store.strategy.default(&mut wanted);
    super::ensure::modify(store, "default", NAME, &mut Publish { wanted: &wanted, fields }).await.map(drop)
}

struct Publish<'a> {
    wanted: &'a Value,
    fields: &'a [&'a str],
}

#[async_trait]
impl Mutation for Publish<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let mut object = current.object.clone();
        for field in self.fields {
            object[*field] = self.wanted[*field].clone();
        }
        if let Some(generation) = object["metadata"]["generation"].as_i64().filter(|_| object != current.object) {
            object["metadata"]["generation"] = (generation + 1).into();
        }
        Ok(Change::Put(object))
    }
}
