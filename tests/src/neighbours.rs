//! Containers beside a stream (the victim) in one VM: an attacker, harmless work, a timer; and what they do to the stream.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use contract::FramePath;
use lab::container::{Container, Runtime, Spec};
use serde_json::Value;

use crate::rig::{Rig, RigOptions, Stream, StreamOptions};
use crate::{Desktop, Programs};

/// Size of the victim's desktop.
pub const SIZE: (u32, u32) = (640, 360);
/// Time limit of a container that attacks or works; slow under emulation.
const LIMIT: Duration = Duration::from_mins(16);
/// Interval at which the VMM's memory is sampled, and samples between looks at the containers.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);
const SAMPLES: usize = 50;

/// Frames of the victim and memory of the VMM while containers run.
#[derive(Debug)]
pub struct Observation {
    /// Last line of each container's output.
    pub reports: Vec<Value>,
    /// Frames of the victim per second.
    pub fps: f64,
    /// Frames of the victim.
    pub frames: u64,
    /// Requests of the victim that the tap refused.
    pub refused: u64,
    /// Most memory of rings that the VMM had mapped, bytes.
    pub ring_bytes: u64,
}

/// A VM with the victim.
pub struct Neighbours {
    /// The VM and its host-agent.
    pub rig: Rig,
    /// The victim.
    pub stream: Stream,
    runtime: Runtime,
}

impl Neighbours {
    /// Starts the VM and the victim, a test pattern at a rate that emulated processors reach beside other work.
    ///
    /// # Errors
    /// The VM does not start, or the victim has no frames by resource ID.
    pub fn up(programs: &Programs, options: &RigOptions) -> Result<Self> {
        let mut rig = Rig::up(programs, options)?;
        let paced = vec!["--fps".to_owned(), "10".to_owned()];
        let stream = rig.start(
            "victim",
            StreamOptions { desktop_args: paced, ..StreamOptions::new(Desktop::Pattern, SIZE) },
        )?;
        stream.wait_for_frame_path(FramePath::ResourceId)?;
        Ok(Self { rig, stream, runtime: options.runtime })
    }

    /// A container of the attacker's program with these arguments.
    ///
    /// # Errors
    /// The host-agent issues no token.
    pub fn spec(&self, name: &str, arguments: &[&str]) -> Result<Spec> {
        let program = format!("{}/attacker", lab::payload::IN_CONTAINER);
        let argv: Vec<&str> = std::iter::once(program.as_str()).chain(arguments.iter().copied()).collect();
        let token = self.rig.host_agent.token("other/attacker", &[])?;
        Ok(Spec::new(name, "sidecar", &argv).env("ATTACKER_TOKEN", &token).runtime(self.runtime))
    }

    /// A container that attacks the victim's host-agent and tap: arguments, and the target as further ones.
    ///
    /// # Errors
    /// As [`Self::spec`].
    pub fn attack(&self, name: &str, arguments: &[&str]) -> Result<Spec> {
        let upstream = self.rig.host_agent.plaintext_upstream();
        let (width, height) = (SIZE.0.to_string(), SIZE.1.to_string());
        let target = ["--upstream", &upstream, "--width", &width, "--height", &height];
        self.spec(name, &[arguments, &target].concat())
    }

    /// Runs containers to their end and observes the victim meanwhile.
    ///
    /// # Errors
    /// A container fails, or does not end within 16 minutes.
    pub fn observe(&self, specs: &[Spec]) -> Result<Observation> {
        let guest = self.rig.vm.guest();
        let pid = self.rig.host_agent.status()?.vms.first().context("no VM")?.pid;
        let (before, begin) = (self.stream.status()?, Instant::now());
        let containers =
            specs.iter().map(|spec| Container::start(guest, spec)).collect::<Result<Vec<_>>>()?;
        let mut ring_bytes = 0;
        while containers.iter().map(Container::exit_status).collect::<Result<Vec<_>>>()?.contains(&None) {
            // Each look at a container takes time of the guest's processors.
            for _ in 0..SAMPLES {
                ring_bytes = ring_bytes.max(mapped_ring_bytes(pid)?);
                std::thread::sleep(SAMPLE_INTERVAL);
            }
            ensure!(begin.elapsed() < LIMIT, "{specs:?} did not end: {:?}", containers[0].logs());
        }
        let (after, time) = (self.stream.status()?, begin.elapsed().as_secs_f64());
        let mut reports: Vec<Value> = Vec::new();
        for container in &containers {
            let (code, out) = (container.wait(LIMIT)?, container.logs()?);
            container.remove()?;
            ensure!(code == 0, "{} exited with {code}\n{out}", container.name());
            let last = out.lines().last().unwrap_or_default();
            reports.push(serde_json::from_str(last).with_context(|| out.clone())?);
        }
        let frames = after.frames.encoded - before.frames.encoded;
        Ok(Observation {
            reports,
            fps: frames as f64 / time,
            frames,
            refused: after.frames.refused - before.frames.refused,
            ring_bytes,
        })
    }
}

/// Bytes of rings in the address space of a VMM.
fn mapped_ring_bytes(pid: u32) -> Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let rings = maps.lines().filter(|line| line.contains("memfd:desktopstream-ring"));
    let bytes = |line: &str| {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        Some(u64::from_str_radix(to, 16).ok()? - u64::from_str_radix(from, 16).ok()?)
    };
    Ok(rings.filter_map(bytes).sum())
}
