//! Addresses. They are constants, as each cluster has its own networks.

use std::net::Ipv4Addr;

/// The control plane's address on the bridge.
pub(crate) const HUB: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// Prefix length of the machines' network.
pub(crate) const MACHINES_PREFIX: u8 = 24;
/// Network of all pods.
pub(crate) const PODS: &str = "10.244.0.0/16";
/// Network of all Services.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// Cluster IP of the Service `kubernetes`.
pub(crate) const KUBERNETES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The apiserver's port.
pub(crate) const API_PORT: u16 = 6443;
/// The cluster's DNS domain.
pub(crate) const DOMAIN: &str = "cluster.local";

/// Address of node `number`, counted from 1.
pub(crate) fn node(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, 10 + number)
}

/// Network of the pods of node `number`.
pub(crate) fn pods(number: u8) -> String {
    format!("10.244.{number}.0/24")
}

/// The apiserver's URL inside the cluster's network.
pub(crate) fn api() -> String {
    format!("https://{HUB}:{API_PORT}")
}
