//! What to do, in Docker's words: the advice of `conditions::reasons` names kubectl where a cluster's does.

use operator_api::DesktopStreamStatus;
use operator_api::conditions::{Reason, reasons};

/// Advice that differs.
const ADVICE: [(Reason, &str); 13] = [
    (reasons::IDLE, "give the annotation desktopstream.dev/wake in its file another value to go on"),
    (reasons::ENDED, "change its spec to begin again"),
    (
        reasons::NO_DEVICE,
        "see that /dev/dri of the Engine's machine has a render node, give one by --gpu, or set spec.gpu.count to 0",
    ),
    (reasons::NAME_TAKEN, "rename this stream, take another --project, or remove the other one"),
    (
        reasons::IMAGE,
        "correct spec.desktop.image or --sidecar-image, or build it, or pull it by hand (docker login, docker pull IMAGE)",
    ),
    (
        reasons::DISK_FULL,
        "make room on the Engine's disk: docker system df says what takes it, docker system prune frees what nobody uses",
    ),
    (reasons::SIDECAR_CRASHING, "see operator docker logs NAME"),
    (reasons::DESKTOP_CRASHING, "see operator docker logs NAME --desktop"),
    (
        reasons::NOT_INJECTED,
        "label the container desktopstream.dev/attach=NAME; with desktopstream.dev/recreate=true it is made anew where it lacks something",
    ),
    (
        reasons::NO_HOST_AGENT,
        "give --host-agent, a HostAgent in a file, or correct spec.hostAgent; until then the sidecar encodes",
    ),
    (
        reasons::HOST_AGENT_UNREACHABLE,
        "start host-agent, and say where it is by --host-agent; until then the sidecar encodes",
    ),
    (reasons::NO_FRAMES, "run operator docker doctor NAME"),
    (reasons::SIDECAR_SILENT, "see operator docker logs NAME"),
];

/// Says it in them.
pub fn translate(status: &mut DesktopStreamStatus, stream: &str) {
    for condition in &mut status.conditions {
        let found = ADVICE.iter().find(|(reason, _)| reason.name == condition.reason);
        if let Some((reason, advice)) = found
            && let Some(text) = condition.message.strip_suffix(reason.advice)
        {
            condition.message = format!("{text}{}", advice.replace("NAME", stream));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use operator_api::conditions::{READY, condition};

    #[test]
    fn no_advice_here_names_kubectl() {
        for (reason, advice) in ADVICE {
            assert!(!advice.contains("kubectl"), "{}", reason.name);
        }
        let others = reasons::ALL.iter().filter(|reason| ADVICE.iter().all(|(it, _)| it.name != reason.name));
        for reason in others.filter(|reason| reason.advice.contains("kubectl")) {
            assert!(["VolumePending"].contains(&reason.name), "{} can happen here, too", reason.name);
        }
    }

    #[test]
    fn the_text_stays() {
        let said = condition(READY, Some(false), reasons::DESKTOP_CRASHING, "it ended", None);
        let mut status = DesktopStreamStatus { conditions: vec![said], ..DesktopStreamStatus::default() };
        translate(&mut status, "desk");
        assert_eq!(status.conditions[0].message, "it ended; see operator docker logs desk --desktop");
    }
}
