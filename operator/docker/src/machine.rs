//! The engine's machine: its GPUs, as containers get them, and what `plan` calls its node.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::render::Device;
use operator_api::{GpuClass, GpuNodes, names};
use operator_discovery::gpus::{self, Roots};
use operator_plan::facts::{Gpu, Node, NodeFacts};
use operator_plan::validate::Validated;

/// How GPUs are found.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Where its /dev and /sys are here.
    pub roots: Roots,
    /// GPUs that were given by hand; then none is looked for.
    pub given: Vec<Given>,
}

/// A GPU given by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Its render node, on the engine's machine.
    pub render: String,
    /// The group that owns it.
    pub gid: u32,
}

impl Given {
    /// `/dev/dri/renderD128` of this machine, or with `:GID` of another.
    pub fn read(text: &str) -> Result<Self, String> {
        let (render, gid) = if let Some((render, gid)) = text.split_once(':') {
            (render, gid.parse().map_err(|_| format!("{gid:?} is no group's number, as in {render}:105"))?)
        } else {
            let found = std::fs::metadata(text).map_err(|error| {
                format!("{text}: {error}; of another machine, give its group, as in {text}:105")
            })?;
            (text, found.gid())
        };
        if !render.starts_with('/') {
            return Err(format!("{render:?} is no device node: write one such as /dev/dri/renderD128"));
        }
        Ok(Self { render: render.to_owned(), gid })
    }
}

impl Machine {
    /// GPUs that can be handed out now, under their names on the engine's machine.
    pub fn gpus(&self) -> Vec<Gpu> {
        if !self.given.is_empty() {
            let gpu = |given: &Given| Gpu {
                name: given.render.trim_start_matches('/').replace('/', "-"),
                driver: String::new(),
                class: GpuClass::Any,
                render: given.render.clone(),
                card: None,
                render_gid: given.gid,
                three_d: None,
            };
            return self.given.iter().map(gpu).collect();
        }
        let found = gpus::find(&self.roots).unwrap_or_else(|error| {
            tracing::warn!(%error, "can't look for GPUs");
            Vec::new()
        });
        let healthy = found.into_iter().filter(|found| found.healthy).map(|found| found.gpu);
        healthy
            .map(|gpu| Gpu {
                render: self.there(&gpu.render),
                card: gpu.card.as_deref().map(|card| self.there(card)),
                ..gpu
            })
            .collect()
    }

    /// A device file's name on the engine's machine, whose /dev may be elsewhere here.
    fn there(&self, path: &str) -> String {
        let inside = Path::new(path).strip_prefix(&self.roots.dev).ok();
        inside.map_or_else(|| path.to_owned(), |inside| Path::new("/dev").join(inside).display().to_string())
    }

    fn here(&self, path: &str) -> PathBuf {
        self.roots.dev.join(path.strip_prefix("/dev/").unwrap_or(path))
    }

    /// As `plan` sees it. GPUs are shared by as many streams as there are; one stream's `count` are different ones.
    pub fn node(&self, gpus: Vec<Gpu>, host_agents: BTreeMap<String, Vec<String>>) -> Node {
        let mut devices = BTreeMap::new();
        for gpu in &gpus {
            let families = GpuClass::FAMILIES.into_iter().filter(|class| fits(*class, gpu));
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

    /// The GPUs that a stream gets; `None` if there are too few.
    pub fn devices(&self, stream: &Validated, gpus: &[Gpu]) -> Option<Vec<Device>> {
        let want = &stream.spec.gpu;
        let with_card = want.nodes == GpuNodes::RenderAndCard;
        let fitting = gpus.iter().filter(|gpu| fits(want.class, gpu) && (!with_card || gpu.card.is_some()));
        let chosen: Vec<Device> = fitting
            .take(want.count as usize)
            .map(|gpu| {
                let card = gpu.card.clone().filter(|_| with_card);
                let of_card =
                    card.as_ref().and_then(|card| std::fs::metadata(self.here(card)).ok()).map(|it| it.gid());
                Device {
                    render: gpu.render.clone(),
                    gids: std::iter::once(gpu.render_gid).chain(of_card).collect(),
                    card,
                }
            })
            .collect();
        (chosen.len() == want.count as usize).then_some(chosen)
    }
}

/// Of one that was given by hand nobody knows the driver.
fn fits(class: GpuClass, gpu: &Gpu) -> bool {
    class == GpuClass::Any || gpu.class == class || gpu.class == GpuClass::Any
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use operator_discovery::testing::machine;
    use operator_plan::testing::validated;

    #[test]
    fn a_stream_gets_gpus_of_its_class_under_their_own_names() {
        let root = tempfile::tempdir().expect("a folder");
        let gpus = [("0000:00:02.0", "i915", 0, None), ("0000:00:03.0", "virtio_gpu", 1, Some("1"))];
        let machine = Machine { name: "m".to_owned(), roots: machine(root.path(), &gpus), given: Vec::new() };
        let gpus = machine.gpus();
        let gets = |spec| machine.devices(&validated(&json!({"spec": {"gpu": spec}})), &gpus);
        let virtio = gets(json!({"class": "Virtio"})).expect("one");
        assert_eq!(virtio[0].render, "/dev/dri/renderD129");
        assert_eq!((virtio[0].card.as_deref(), virtio[0].gids.len()), (None, 1));
        let card = gets(json!({"nodes": "RenderAndCard"})).expect("one");
        assert_eq!((card[0].card.as_deref(), card[0].gids.len()), (Some("/dev/dri/card0"), 2));
        assert_eq!(gets(json!({"count": 2})).map(|all| all.len()), Some(2));
        assert_eq!(gets(json!({"count": 3})), None);
        assert_eq!(gets(json!({"class": "Amd"})), None);
        let node = machine.node(gpus.clone(), BTreeMap::new());
        assert!(node.offers(GpuClass::Any, GpuNodes::RenderOnly, 2));
        assert!(!node.offers(GpuClass::Amd, GpuNodes::RenderOnly, 1));
    }

    #[test]
    fn one_given_by_hand_fits_everybody() {
        let given = Given::read("/dev/dri/renderD128:44").expect("reads");
        assert!(Given::read("renderD128:1").is_err() && Given::read("/dev/nowhere").is_err());
        let roots = Roots { dev: "/dev".into(), sys: "/nowhere".into(), more_drivers: Vec::new() };
        let machine = Machine { name: "m".to_owned(), roots, given: vec![given] };
        let stream = validated(&json!({"spec": {"gpu": {"class": "Virtio"}}}));
        let devices = machine.devices(&stream, &machine.gpus()).expect("one");
        assert_eq!(devices[0].gids, [44]);
    }
}
