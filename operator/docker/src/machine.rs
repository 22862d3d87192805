//! The Engine's machine: its GPUs as containers get them, and as the single node that `plan` knows.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use contract::Endpoint;
use operator_api::{DeviceNodes, GpuClass, names};
use operator_discovery::gpus::{self, Roots};
use operator_plan::facts::{Gpu, Node, NodeFacts};
use operator_plan::validate::Validated;

use crate::render::Device;

/// The machine and the way its GPUs are found.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Host name.
    pub name: String,
    /// Where the machine's /dev and /sys are mounted in the operator's file system.
    pub roots: Roots,
    /// Render nodes from `--gpu`. If there are any, GPUs are not detected.
    pub configured: Vec<RenderNode>,
}

/// A render node from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderNode {
    /// Path on the Engine's machine.
    pub path: String,
    /// Group that owns it.
    pub gid: u32,
}

impl RenderNode {
    /// Parses `PATH` of a node on this machine, or `PATH:GID` of a node on another one.
    ///
    /// # Errors
    ///
    /// If the text is malformed, or if the node is not on this machine and has no group.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, gid) = if let Some((path, gid)) = text.split_once(':') {
            (path, gid.parse().map_err(|_| format!("{gid:?} is not a group ID; write {path}:105"))?)
        } else {
            let found = std::fs::metadata(text).map_err(|error| {
                format!("{text}: {error}; if it is on another machine, append its group: {text}:105")
            })?;
            (text, found.gid())
        };
        if !path.starts_with('/') {
            return Err(format!("{path:?} is not a device node; write a path such as /dev/dri/renderD128"));
        }
        Ok(Self { path: path.to_owned(), gid })
    }
}

impl Machine {
    /// Healthy GPUs, with their paths on the Engine's machine.
    pub fn gpus(&self) -> Vec<Gpu> {
        if !self.configured.is_empty() {
            let gpu = |node: &RenderNode| Gpu {
                name: node.path.trim_start_matches('/').replace('/', "-"),
                driver: String::new(),
                class: GpuClass::Any,
                render: node.path.clone(),
                card: None,
                render_gid: node.gid,
                three_d: None,
            };
            return self.configured.iter().map(gpu).collect();
        }
        let found = gpus::find(&self.roots).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot detect GPUs");
            Vec::new()
        });
        let healthy = found.into_iter().filter(|found| found.healthy).map(|found| found.gpu);
        healthy
            .map(|gpu| Gpu {
                render: self.path_on_machine(&gpu.render),
                card: gpu.card.as_deref().map(|card| self.path_on_machine(card)),
                ..gpu
            })
            .collect()
    }

    /// A device path of ours as a path on the Engine's machine, whose /dev may be mounted elsewhere here.
    fn path_on_machine(&self, path: &str) -> String {
        let inside = Path::new(path).strip_prefix(&self.roots.dev).ok();
        inside.map_or_else(|| path.to_owned(), |inside| Path::new("/dev").join(inside).display().to_string())
    }

    fn path_here(&self, path: &str) -> PathBuf {
        self.roots.dev.join(path.strip_prefix("/dev/").unwrap_or(path))
    }

    /// The machine as a node. Any number of streams may share a GPU; `spec.gpu.count` counts different ones.
    pub fn node(&self, gpus: Vec<Gpu>, host_agents: BTreeMap<String, Vec<Endpoint>>) -> Node {
        let mut devices = BTreeMap::new();
        for gpu in &gpus {
            let families = GpuClass::FAMILIES.into_iter().filter(|class| matches(*class, gpu));
            for class in families.chain([GpuClass::Any]) {
                *devices.entry(names::resource(class, false)).or_insert(0) += 1;
                if gpu.card.is_some() {
                    *devices.entry(names::resource(class, true)).or_insert(0) += 1;
                }
            }
        }
        Node {
            name: self.name.clone(),
            facts: NodeFacts { version: env!("CARGO_PKG_VERSION").to_owned(), gpus, host_agents },
            devices,
            ready: true,
            ..Node::default()
        }
    }

    /// The devices that a stream gets; `None` if the machine has too few of the class.
    pub fn devices(&self, stream: &Validated, gpus: &[Gpu]) -> Option<Vec<Device>> {
        let wanted = &stream.spec.gpu;
        let with_card = wanted.device_nodes == DeviceNodes::RenderAndCard;
        let fitting =
            gpus.iter().filter(|gpu| matches(wanted.class, gpu) && (!with_card || gpu.card.is_some()));
        let chosen: Vec<Device> = fitting
            .take(wanted.count as usize)
            .map(|gpu| {
                let card = gpu.card.clone().filter(|_| with_card);
                let card_gid = card
                    .as_ref()
                    .and_then(|card| std::fs::metadata(self.path_here(card)).ok())
                    .map(|it| it.gid());
                Device {
                    render: gpu.render.clone(),
                    gids: std::iter::once(gpu.render_gid).chain(card_gid).collect(),
                    card,
                }
            })
            .collect();
        (chosen.len() == wanted.count as usize).then_some(chosen)
    }
}

/// Whether a GPU satisfies a class. The driver of a GPU from the command line is unknown, so it satisfies all classes.
fn matches(class: GpuClass, gpu: &Gpu) -> bool {
    class == GpuClass::Any || gpu.class == class || gpu.class == GpuClass::Any
}

#[cfg(test)]
mod tests {
    use operator_discovery::testing::machine;
    use operator_plan::testing::validated;
    use serde_json::json;

    use super::*;

    #[test]
    fn stream_gets_gpus_of_its_class_with_their_paths_on_the_machine() {
        let root = tempfile::tempdir().expect("a folder");
        let gpus = [("0000:00:02.0", "i915", 0, None), ("0000:00:03.0", "virtio_gpu", 1, Some("1"))];
        let machine =
            Machine { name: "m".to_owned(), roots: machine(root.path(), &gpus), configured: Vec::new() };
        let gpus = machine.gpus();
        let devices = |spec| machine.devices(&validated(&json!({"spec": {"gpu": spec}})), &gpus);
        let virtio = devices(json!({"class": "Virtio"})).expect("one");
        assert_eq!(virtio[0].render, "/dev/dri/renderD129");
        assert_eq!((virtio[0].card.as_deref(), virtio[0].gids.len()), (None, 1));
        let card = devices(json!({"deviceNodes": "RenderAndCard"})).expect("one");
        assert_eq!((card[0].card.as_deref(), card[0].gids.len()), (Some("/dev/dri/card0"), 2));
        assert_eq!(devices(json!({"count": 2})).map(|all| all.len()), Some(2));
        assert_eq!(devices(json!({"count": 3})), None);
        assert_eq!(devices(json!({"class": "Amd"})), None);
        let node = machine.node(gpus.clone(), BTreeMap::new());
        assert!(node.offers(GpuClass::Any, DeviceNodes::RenderOnly, 2));
        assert!(!node.offers(GpuClass::Amd, DeviceNodes::RenderOnly, 1));
    }

    #[test]
    fn configured_render_node_satisfies_every_class() {
        let node = RenderNode::parse("/dev/dri/renderD128:44").expect("parses");
        assert!(RenderNode::parse("renderD128:1").is_err() && RenderNode::parse("/dev/nowhere").is_err());
        let roots = Roots { dev: "/dev".into(), sys: "/nowhere".into(), more_drivers: Vec::new() };
        let machine = Machine { name: "m".to_owned(), roots, configured: vec![node] };
        let stream = validated(&json!({"spec": {"gpu": {"class": "Virtio"}}}));
        let devices = machine.devices(&stream, &machine.gpus()).expect("one");
        assert_eq!(devices[0].gids, [44]);
    }
}
