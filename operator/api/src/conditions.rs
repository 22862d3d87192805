//! Conditions: their types, their reasons, and what to do about each. Docs, tests and code read this table.
//!
//! A reason's advice is part of every message that carries it, so that `kubectl describe` names the fix.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The pod has what it asked for: a node with the device, its volumes, its image.
pub const DEVICES_READY: &str = "DevicesReady";
/// A host-agent was chosen, or none is wanted.
pub const PAIRED: &str = "Paired";
/// The sidecar gets frames from the desktop.
pub const CAPTURING: &str = "Capturing";
/// Viewers get a picture, by the rung that was asked for.
pub const STREAMING: &str = "Streaming";
/// All of the above.
pub const READY: &str = "Ready";

/// Of a HostAgent: some node reaches it.
pub const REACHABLE: &str = "Reachable";

/// The types of a stream's conditions, in the order in which things come true.
pub const STREAM_TYPES: [&str; 5] = [DEVICES_READY, PAIRED, CAPTURING, STREAMING, READY];

/// Why a condition is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason {
    /// In the condition.
    pub name: &'static str,
    /// What to do; empty when all is well or when waiting is right.
    pub advice: &'static str,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $advice:literal;)*) => {
        $($(#[$doc])* pub const $name: Reason = Reason { name: $text, advice: $advice };)*
        /// All of them.
        pub const ALL: &[Reason] = &[$($name),*];
    };
}

/// Reasons.
pub mod reasons {
    use super::Reason;

    reasons! {
        /// All is well.
        OK = "AsAsked", "";
        /// Not known yet.
        WAITING = "Waiting", "";
        /// Suspended by the spec.
        SUSPENDED = "Suspended", "set spec.lifecycle.suspended to false to go on";
        /// Suspended by the idle timeout.
        IDLE = "Idle", "annotate it to go on: kubectl annotate desktopstream NAME desktopstream.dev/wake=$(date +%s) --overwrite";
        /// The desktop ended by itself.
        ENDED = "DesktopEnded", "delete the pod to start it again";
        /// The spec makes no sense.
        INVALID = "InvalidSpec", "correct the named fields";

        /// The pod was made.
        POD_CREATED = "PodCreated", "";
        /// No node offers the device.
        NO_DEVICE = "NoDeviceOnAnyNode", "see that the node-agent runs there and that /dev/dri has a render node, or set spec.gpu.count to 0";
        /// Nodes have the device, and all shares are taken or other resources lack.
        UNSCHEDULABLE = "Unschedulable", "free or add nodes, or ask for less";
        /// A quota refuses the pod.
        QUOTA = "QuotaExceeded", "raise the namespace's ResourceQuota, or suspend another stream";
        /// The apiserver refuses an object of ours.
        REFUSED = "ObjectRefused", "correct what the message names";
        /// Somebody else's object has the name.
        NAME_TAKEN = "NameTaken", "rename this stream, or delete the other object";
        /// The claim isn't bound.
        VOLUME_PENDING = "VolumePending", "see `kubectl describe pvc`; a storage class may be missing";
        /// An image can't be pulled.
        IMAGE = "ImageCannotBePulled", "correct spec.desktop.image, or add imagePullSecrets";
        /// No room for an image, a container or a volume.
        DISK_FULL = "DiskFull", "make room on the node's disk, or take another node";
        /// A Secret of the user's is missing.
        SECRET_MISSING = "SecretMissing", "make the Secret that spec.viewers.auth.secretName names, with the key `token`";
        /// A container can't be made.
        CONFIG = "ContainerConfigError", "correct what the message names";
        /// The sidecar crashes again and again.
        SIDECAR_CRASHING = "SidecarCrashing", "see `kubectl logs POD -c desktopstream-sidecar --previous`";
        /// The desktop crashes again and again.
        DESKTOP_CRASHING = "DesktopCrashing", "see `kubectl logs POD -c desktop --previous`";
        /// The node is being drained or is gone.
        NODE_GONE = "NodeGone", "";
        /// No pod of others bears our sidecar yet.
        NOT_INJECTED = "NotInjected", "restart the workload that spec.attach names: the sidecar comes with new pods";
        /// The pod is being replaced.
        REPLACING = "Replacing", "";

        /// None is wanted.
        NOT_NEEDED = "NotNeeded", "";
        /// A host-agent was chosen.
        PAIRED = "Paired", "";
        /// There is no HostAgent object that fits.
        NO_HOST_AGENT = "NoHostAgent", "make a HostAgent object, or correct spec.hostAgent; until then the sidecar encodes";
        /// No node with the device reaches one that fits.
        HOST_AGENT_UNREACHABLE = "HostAgentUnreachable", "start host-agent, and see that nodes reach its spec.endpoints";
        /// The one that it was paired with is gone.
        HOST_AGENT_GONE = "HostAgentGone", "start it again; it is taken back, or another one, as soon as one answers";
        /// All that fit are full.
        HOST_AGENT_FULL = "HostAgentFull", "raise a HostAgent's spec.capacity, or add one";
        /// The host-agent refuses our token.
        TOKEN_REFUSED = "TokenRefused", "give host-agent the operator's public key (--public-key) and the HostAgent's name (--name)";
        /// The token has expired.
        TOKEN_EXPIRED = "TokenExpired", "see that the operator runs: it renews tokens; clocks may differ by 30 s";

        /// Frames come.
        FRAMES = "FramesArrive", "";
        /// The sidecar gets no frames.
        NO_FRAMES = "NoFrames", "run `sidecar doctor` in the sidecar container";
        /// The sidecar doesn't answer.
        SIDECAR_SILENT = "SidecarSilent", "see that the operator may reach pods on port 8080 (NetworkPolicy), and the sidecar's log";

        /// By resource ID.
        BY_RESOURCE_ID = "ByResourceId", "";
        /// By pixels.
        BY_PIXELS = "ByPixels", "";
        /// By the sidecar's own encoder.
        BY_LOCAL_ENCODER = "ByLocalEncoder", "";
        /// The rung is a lower one than was asked for.
        NOT_ZERO_COPY = "NotZeroCopy", "run `sidecar doctor` in the sidecar container, or set spec.capture.require to Any";
        /// It should be encoded by the host-agent and isn't.
        NOT_BY_HOST_AGENT = "NotByHostAgent", "see the Paired condition, or set spec.encode.where to Auto";
    }
}

/// Builds a condition; `status` is `None` for Unknown. The advice follows the text.
pub fn condition(
    kind: &str,
    status: Option<bool>,
    reason: Reason,
    text: &str,
    generation: Option<i64>,
) -> Condition {
    let advice = if status == Some(true) { "" } else { reason.advice };
    let message =
        [text, advice].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("; ");
    Condition {
        type_: kind.to_owned(),
        status: status.map_or("Unknown", |yes| if yes { "True" } else { "False" }).to_owned(),
        reason: reason.name.to_owned(),
        message: clip(&message),
        observed_generation: generation,
        last_transition_time: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
    }
}

/// The schema allows 32768 bytes, an Event's note 1024.
fn clip(message: &str) -> String {
    const MAX: usize = 1000;
    if message.len() <= MAX {
        return message.to_owned();
    }
    let mut end = MAX;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &message[..end])
}

/// Gives each of `next` the transition time of its predecessor, or `now` where its status changed.
pub fn keep_times(next: &mut [Condition], before: &[Condition], now: k8s_openapi::jiff::Timestamp) {
    for condition in next {
        let same = before.iter().find(|old| old.type_ == condition.type_ && old.status == condition.status);
        condition.last_transition_time = same.map_or(Time(now), |old| old.last_transition_time.clone());
    }
}

/// The status of one, `None` if absent or Unknown.
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

    #[test]
    fn reasons_are_names_that_the_schema_takes_and_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for reason in reasons::ALL {
            assert!(reason.name.bytes().all(|b| b.is_ascii_alphanumeric()), "{}", reason.name);
            assert!(seen.insert(reason.name), "{} twice", reason.name);
        }
    }

    #[test]
    fn a_transition_is_a_change_of_status_only() {
        let (then, now) = (k8s_openapi::jiff::Timestamp::UNIX_EPOCH, k8s_openapi::jiff::Timestamp::MAX);
        let mut before = vec![condition(READY, Some(false), reasons::WAITING, "a", None)];
        before[0].last_transition_time = Time(then);
        let mut same = vec![condition(READY, Some(false), reasons::NO_DEVICE, "b", None)];
        keep_times(&mut same, &before, now);
        assert_eq!(same[0].last_transition_time.0, then);
        let mut other = vec![condition(READY, Some(true), reasons::OK, "", None)];
        keep_times(&mut other, &before, now);
        assert_eq!(other[0].last_transition_time.0, now);
    }

    #[test]
    fn advice_is_in_the_message_unless_all_is_well() {
        let bad = condition(DEVICES_READY, Some(false), reasons::QUOTA, "pods: 3 of 3", None);
        assert_eq!(
            bad.message,
            "pods: 3 of 3; raise the namespace's ResourceQuota, or suspend another stream"
        );
        assert_eq!(condition(READY, Some(true), reasons::OK, "fine", None).message, "fine");
        assert!(clip(&"ä".repeat(2000)).len() < 1100);
    }
}
