//! Condition types, their reasons, and the remedy for each reason. The docs and the tests read the same table.
//!
//! The remedy is part of each message with that reason, so `kubectl describe` and `operator docker list` show it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The pod has a node, its devices, its volumes and its images.
pub const DEVICES_READY: &str = "DevicesReady";
/// A host-agent is paired, or none is needed.
pub const PAIRED: &str = "Paired";
/// The sidecar receives frames from the compositor.
pub const CAPTURING: &str = "Capturing";
/// Viewers get video by the required frame path.
pub const STREAMING: &str = "Streaming";
/// All conditions that the spec requires are true.
pub const READY: &str = "Ready";

/// Condition of a HostAgent: at least one node reaches it.
pub const REACHABLE: &str = "Reachable";

/// Condition types of a stream, in the order in which they become true.
pub const STREAM_TYPES: [&str; 5] = [DEVICES_READY, PAIRED, CAPTURING, STREAMING, READY];

/// Engine that runs the containers. Remedies name its commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// A Kubernetes cluster.
    Kubernetes,
    /// A Docker Engine.
    Docker,
}

impl Engine {
    /// The word for what the engine starts for a stream: its desktop and its sidecar.
    pub const fn workload(self) -> &'static str {
        match self {
            Self::Kubernetes => "pod",
            Self::Docker => "container",
        }
    }

    /// The word for a machine that has the devices of streams.
    pub const fn machine(self) -> &'static str {
        match self {
            Self::Kubernetes => "node",
            Self::Docker => "machine",
        }
    }
}

/// Reason of a condition, with the remedy for each engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason {
    /// `reason` of the condition.
    pub name: &'static str,
    /// State that the reason stands for, one sentence; documentation shows it.
    pub meaning: &'static str,
    /// Remedy on Kubernetes; empty if there is nothing to do but wait.
    kubernetes: &'static str,
    /// Remedy on Docker.
    docker: &'static str,
}

impl Reason {
    /// Remedy for `engine`, with `NAME` in place of the stream's name; empty if there is nothing to do but wait.
    pub const fn remedy(self, engine: Engine) -> &'static str {
        match engine {
            Engine::Kubernetes => self.kubernetes,
            Engine::Docker => self.docker,
        }
    }

    /// True if user action is needed.
    pub const fn has_remedy(self) -> bool {
        !self.kubernetes.is_empty()
    }
}

macro_rules! reasons {
    (@docker $kubernetes:literal) => { $kubernetes };
    (@docker $kubernetes:literal, $docker:literal) => { $docker };
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $kubernetes:literal $(, docker $docker:literal)?;)*) => {
        $($(#[doc = $doc])+ pub const $name: Reason = Reason {
            name: $text,
            meaning: concat!($($doc),+),
            kubernetes: $kubernetes,
            docker: reasons!(@docker $kubernetes $(, $docker)?),
        };)*
        /// All reasons.
        pub const ALL: &[Reason] = &[$($name),*];
    };
}

/// All reasons. The first remedy is for Kubernetes, and for Docker too unless another one follows.
pub mod reasons {
    use super::Reason;

    reasons! {
        /// Viewers get video as the spec requires.
        PATH_SATISFIED = "PathSatisfied", "";
        /// The condition is not known yet.
        WAITING = "Waiting", "";
        /// Suspended by the spec.
        SUSPENDED = "Suspended", "set spec.operatingMode to Running to resume";
        /// Suspended by the idle timeout.
        IDLE = "Idle",
            "resume with: kubectl annotate desktopstream NAME desktopstream.dev/wake=$(date +%s) --overwrite",
            docker "change the value of the annotation desktopstream.dev/wake in the stream's file to resume";
        /// The desktop ended by itself.
        ENDED = "DesktopEnded", "delete the pod to start the desktop again",
            docker "change the stream's spec to start the desktop again";
        /// Docker only: the stream is in no file, and this operator has never read one of it.
        ORPHANED = "Orphaned", "restore the stream's file, or delete the stream with operator docker --prune";
        /// The spec is invalid.
        INVALID = "InvalidSpec", "correct the fields named above";

        /// The devices are allocated to the pod.
        DEVICES_ALLOCATED = "DevicesAllocated", "";
        /// The pod is being created.
        POD_CREATED = "PodCreated", "";
        /// No node offers the device.
        NO_DEVICE = "NoDeviceOnAnyNode",
            "check that the node-agent runs on the node and that its /dev/dri has a render node, or set spec.gpu.count to 0",
            docker "check that /dev/dri of the Engine's machine has a render node, pass one with --gpu, or set spec.gpu.count to 0";
        /// The desktop and its sidecar were given different GPUs.
        GPUS_DIFFER = "GpusDiffer",
            "delete pod NAME-desktop to have its devices allocated again; other pods that request desktopstream.dev/dri should request an even number of shares",
            docker "remove the stream's containers to have them created again";
        /// Nodes offer the device, but all shares are taken or other resources are insufficient.
        UNSCHEDULABLE = "Unschedulable", "add nodes, delete other streams, or lower the requests";
        /// A ResourceQuota refuses the pod.
        QUOTA = "QuotaExceeded", "raise the namespace's ResourceQuota, or suspend another stream";
        /// The apiserver refuses an object.
        REFUSED = "ObjectRefused", "correct the fields named above";
        /// An object of this name exists and does not belong to the stream.
        NAME_TAKEN = "NameTaken", "rename this stream, or delete the other object",
            docker "rename this stream, choose another --project, or remove the other object";
        /// The home volume's claim is not bound.
        VOLUME_PENDING = "VolumePending",
            "see kubectl describe pvc NAME-home, and check that its StorageClass exists",
            docker "check that the Engine's volume driver works";
        /// An image cannot be pulled.
        IMAGE = "ImageCannotBePulled", "correct spec.desktop.image, or set spec.desktop.imagePullSecrets",
            docker "correct spec.desktop.image or --sidecar-image, build the image, or pull it with docker login and docker pull";
        /// The disk has no space for an image, a container or a volume.
        DISK_FULL = "DiskFull", "free disk space on the node, or use another node",
            docker "free disk space on the Engine's machine: docker system df shows what uses it, docker system prune removes unused data";
        /// A container cannot be created from its configuration.
        CONFIG = "ContainerConfigError", "correct the container's configuration named above";
        /// The sidecar restarts repeatedly.
        SIDECAR_CRASHING = "SidecarCrashing",
            "see kubectl logs -l desktopstream.dev/stream=NAME -c desktopstream-sidecar --previous",
            docker "see operator docker logs NAME";
        /// The desktop restarts repeatedly.
        DESKTOP_CRASHING = "DesktopCrashing",
            "see kubectl logs -l desktopstream.dev/stream=NAME -c desktop --previous",
            docker "see operator docker logs NAME --desktop";
        /// The pod is evicted from its node.
        NODE_GONE = "NodeGone", "";
        /// No pod of the attached workload has the sidecar.
        NOT_INJECTED = "NotInjected",
            "restart the workload that spec.attach names: new pods get the sidecar",
            docker "label the container desktopstream.dev/attach=NAME; the labels of its image do not count";
        /// The pod is being replaced.
        REPLACING = "Replacing", "";
        /// The requests to apply the stream's objects fail repeatedly.
        RECONCILE_FAILS = "ReconcileFails",
            "correct the cause named above; the operator retries at increasing intervals of up to 5 minutes";

        /// The sidecar encodes, as the spec requires.
        NOT_NEEDED = "NotNeeded", "";
        /// A host-agent is paired.
        PAIRED = "Paired", "";
        /// No HostAgent object matches.
        NO_HOST_AGENT = "NoHostAgent", "create a HostAgent object, or correct spec.hostAgent; until then the sidecar encodes",
            docker "pass --host-agent, add a HostAgent to a file, or correct spec.hostAgent; until then the sidecar encodes";
        /// No node with the device reaches a matching host-agent.
        HOST_AGENT_UNREACHABLE = "HostAgentUnreachable",
            "start host-agent, set spec.fingerprint to the output of `host-agent fingerprint`, and check that nodes can connect to its spec.endpoints",
            docker "start host-agent, and pass its endpoint and fingerprint with --host-agent tls://HOST:PORT#sha256=FINGERPRINT; until then the sidecar encodes";
        /// The paired host-agent no longer answers.
        HOST_AGENT_GONE = "HostAgentGone", "start host-agent again; the stream is paired with the first one that answers";
        /// The program at the host-agent's address has another key than the HostAgent states.
        HOST_AGENT_UNTRUSTED = "HostAgentUntrusted",
            "compare spec.fingerprint of the HostAgent with the output of `host-agent fingerprint` on its machine: if they are equal, another program answers in its place",
            docker "compare the fingerprint in --host-agent with the output of `host-agent fingerprint` on its machine: if they are equal, another program answers in its place";
        /// All matching host-agents are at their capacity.
        HOST_AGENT_FULL = "HostAgentFull", "raise spec.capacity of a HostAgent, or add one";
        /// The host-agent refuses the session.
        HOST_AGENT_REFUSED = "HostAgentRefused", "see the host-agent's log";
        /// The host-agent refuses the token.
        TOKEN_REFUSED = "TokenRefused",
            "start host-agent with the operator's public key (--public-key) and the HostAgent's name (--name)";
        /// The token has expired.
        TOKEN_EXPIRED = "TokenExpired",
            "check that the operator runs, since it renews tokens, and that clocks differ by less than 30 s";
        /// At least one node reaches the host-agent.
        REACHABLE = "Reachable", "";

        /// The sidecar receives frames.
        STREAMING = "Streaming", "";
        /// The sidecar receives no frames.
        NO_FRAMES = "NoFrames", "run kubectl desktopstream doctor NAME", docker "run operator docker doctor NAME";
        /// The sidecar does not answer.
        SIDECAR_SILENT = "SidecarSilent",
            "check that NetworkPolicies let the operator connect to pods on port 15939, and see the sidecar's log",
            docker "see operator docker logs NAME";
        /// The sidecar refuses the operator's request for its status.
        STATUS_REFUSED = "StatusRefused",
            "wait two minutes for the kubelet to update the operator's public key in the pod, and check that clocks differ by less than two minutes; delete pod NAME-desktop if an earlier version of the operator created it",
            docker "restart the sidecar: it reads another token than the one in the state folder";

        /// Frames travel by resource ID.
        BY_RESOURCE_ID = "ByResourceId", "";
        /// Frames travel as pixels.
        BY_PIXELS = "ByPixels", "";
        /// The sidecar encodes.
        BY_LOCAL_ENCODER = "ByLocalEncoder", "";
        /// The frame path is not the required one.
        NOT_ZERO_COPY = "NotZeroCopy",
            "run kubectl desktopstream doctor NAME, or set spec.capture.require to Any",
            docker "run operator docker doctor NAME, or set spec.capture.require to Any";
        /// The sidecar encodes although the spec requires the host-agent.
        NOT_BY_HOST_AGENT = "NotByHostAgent", "see the Paired condition, or set spec.encode.placement to Auto";
    }
}

/// Object that a condition belongs to, for its remedy and `observedGeneration`.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'s> {
    /// Engine that runs the object.
    pub engine: Engine,
    /// Name of the object.
    pub name: &'s str,
    /// Generation of its spec.
    pub generation: Option<i64>,
}

impl Subject<'_> {
    /// Builds a condition of type `kind`; `status` is `None` for Unknown. The message is `text`, then the remedy unless
    /// the condition is true. The transition time is the epoch: see [`keep_times`].
    pub fn condition(&self, kind: &str, status: Option<bool>, reason: Reason, text: &str) -> Condition {
        let remedy = if status == Some(true) { "" } else { reason.remedy(self.engine) };
        let remedy = remedy.replace("NAME", self.name);
        let parts = [text, &remedy];
        let message = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        Condition {
            type_: kind.to_owned(),
            status: status.map_or("Unknown", |yes| if yes { "True" } else { "False" }).to_owned(),
            reason: reason.name.to_owned(),
            message: clip(&message),
            observed_generation: self.generation,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }
}

/// Shortens a message to the limit of an Event's note, 1024 bytes; a condition's limit is 32768.
fn clip(message: &str) -> String {
    const MAX: usize = 1000;
    if message.len() <= MAX {
        return message.to_owned();
    }
    let end = message.floor_char_boundary(MAX);
    format!("{}…", &message[..end])
}

/// Sets the transition time of each condition in `next`: that of `before` if the status is the same, otherwise `now`.
pub fn keep_times(next: &mut [Condition], before: &[Condition], now: Timestamp) {
    for condition in next {
        let same = before.iter().find(|old| old.type_ == condition.type_ && old.status == condition.status);
        condition.last_transition_time = same.map_or(Time(now), |old| old.last_transition_time.clone());
    }
}

/// Status of the condition of type `kind`; `None` if absent or Unknown.
pub fn is(conditions: &[Condition], kind: &str) -> Option<bool> {
    match conditions.iter().find(|condition| condition.type_ == kind)?.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESK: Subject<'_> = Subject { engine: Engine::Kubernetes, name: "desk", generation: None };

    #[test]
    fn reason_names_match_the_schema_and_are_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for reason in reasons::ALL {
            assert!(reason.name.bytes().all(|b| b.is_ascii_alphanumeric()), "{}", reason.name);
            assert!(seen.insert(reason.name), "{} twice", reason.name);
        }
    }

    #[test]
    fn docker_remedies_never_name_kubernetes_tools() {
        for reason in reasons::ALL {
            let remedy = reason.remedy(Engine::Docker);
            assert!(!remedy.contains("kubectl"), "{}: {remedy}", reason.name);
            let mut words = remedy.split(|c: char| !c.is_alphanumeric());
            assert!(words.all(|word| word != "pod" && word != "pods"), "{}: {remedy}", reason.name);
            assert_eq!(remedy.is_empty(), !reason.has_remedy(), "{}", reason.name);
        }
    }

    #[test]
    fn transition_time_changes_only_with_the_status() {
        let (then, now) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let mut before = vec![DESK.condition(READY, Some(false), reasons::WAITING, "a")];
        before[0].last_transition_time = Time(then);
        let mut same = vec![DESK.condition(READY, Some(false), reasons::NO_DEVICE, "b")];
        keep_times(&mut same, &before, now);
        assert_eq!(same[0].last_transition_time.0, then);
        let mut other = vec![DESK.condition(READY, Some(true), reasons::PATH_SATISFIED, "")];
        keep_times(&mut other, &before, now);
        assert_eq!(other[0].last_transition_time.0, now);
    }

    #[test]
    fn message_of_a_condition_that_is_not_true_ends_with_the_remedy() {
        let bad = DESK.condition(DEVICES_READY, Some(false), reasons::QUOTA, "pods: 3 of 3");
        assert_eq!(
            bad.message,
            "pods: 3 of 3; raise the namespace's ResourceQuota, or suspend another stream"
        );
        assert_eq!(DESK.condition(READY, Some(true), reasons::QUOTA, "fine").message, "fine");
        assert!(clip(&"ä".repeat(2000)).len() < 1100);
    }

    #[test]
    fn remedy_names_the_stream_and_the_engines_own_command() {
        let docker = Subject { engine: Engine::Docker, ..DESK };
        let message = |subject: Subject<'_>| {
            subject.condition(CAPTURING, Some(false), reasons::DESKTOP_CRASHING, "it ended").message
        };
        assert_eq!(message(docker), "it ended; see operator docker logs desk --desktop");
        assert!(message(DESK).contains("kubectl logs -l desktopstream.dev/stream=desk"), "{}", message(DESK));
    }
}
