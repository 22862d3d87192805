//! Who has which address. Fixed: each cluster has networks of its own.

use std::net::Ipv4Addr;

/// The control plane, on the bridge.
pub(crate) const HUB: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// All machines.
pub(crate) const MACHINES_PREFIX: u8 = 24;
/// All pods.
pub(crate) const PODS: &str = "10.244.0.0/16";
/// All Services.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// The Service `kubernetes`, the first of them.
pub(crate) const KUBERNETES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Where the apiserver listens.
pub(crate) const API_PORT: u16 = 6443;
/// The cluster's domain.
pub(crate) const DOMAIN: &str = "cluster.local";

/// The `number`th node's, counted from 1.
pub(crate) fn node(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, 10 + number)
}

/// Its pods'.
pub(crate) fn pods(number: u8) -> String {
    format!("10.244.{number}.0/24")
}

/// The apiserver, from within.
pub(crate) fn api() -> String {
    format!("https://{HUB}:{API_PORT}")
}
