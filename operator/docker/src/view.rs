//! The Engine's objects of a project at one moment.

use std::collections::{BTreeSet, HashMap};

use contract::StreamName;

use crate::container::Container;
use crate::engine::Listing;
use crate::names::{Role, StreamKey};

/// Objects of a project.
#[derive(Debug, Default)]
pub struct View {
    containers: HashMap<(StreamKey, Role), Container>,
    /// Networks by name.
    pub networks: HashMap<String, Network>,
    /// Labels of the volumes, by name.
    pub volumes: HashMap<String, HashMap<String, String>>,
}

/// An existing network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// The host's address in it, if it has a gateway.
    pub gateway: Option<String>,
}

impl From<Listing> for View {
    fn from(listing: Listing) -> Self {
        let network = |network: &bollard::models::Network| {
            let configs = network.ipam.as_ref().and_then(|ipam| ipam.config.as_ref());
            let gateway = configs.into_iter().flatten().find_map(|config| config.gateway.clone());
            (network.name.clone().unwrap_or_default(), Network { gateway })
        };
        let containers = listing.containers.iter().map(Container::from);
        Self {
            containers: containers.filter_map(|it| Some((it.owner()?, it))).collect(),
            networks: listing.networks.iter().map(network).collect(),
            volumes: listing.volumes.into_iter().map(|it| (it.name, it.labels)).collect(),
        }
    }
}

impl View {
    /// The container of a stream with this role.
    pub fn container(&self, key: &StreamKey, role: Role) -> Option<&Container> {
        self.containers.get(&(key.clone(), role))
    }

    /// Whether there are no containers.
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty()
    }

    /// Whether the stream has a container or a volume.
    pub fn has_objects(&self, key: &StreamKey) -> bool {
        let has_container = |role| self.container(key, role).is_some();
        let has_volume = |role| self.volumes.contains_key(&key.object(role));
        [Role::Desktop, Role::Sidecar].into_iter().any(has_container)
            || [Role::Runtime, Role::Secrets, Role::Home].into_iter().any(has_volume)
    }

    /// Streams that have containers.
    pub fn streams(&self) -> BTreeSet<StreamName> {
        self.containers.keys().map(|(key, _)| key.stream.clone()).collect()
    }
}
