//! Render node and tap.

use std::time::{Duration, Instant};

use contract::doctor::{Check, checks};
use frame_path::fallback::explain;
use protocol::mailbox::{Operation, Status};
use virtgpu::{CallError, Device, Mailbox, OpenError};

use crate::cli::Desktop;

/// Timeout of an answer of the tap.
pub const TAP_TIMEOUT: Duration = Duration::from_secs(3);

/// Opens the render node.
pub fn render_node(desktop: &Desktop, report: &mut Vec<Check>) -> Option<Device> {
    match Device::open(&desktop.render_node) {
        Ok(device) => {
            let params = device.params();
            let detail = format!(
                "{}: virtio_gpu with 3D, blob resources {}, context init {}",
                desktop.render_node.display(),
                params.resource_blob,
                params.context_init
            );
            report.push(Check::ok(checks::RENDER_NODE, detail));
            Some(device)
        }
        Err(error) => {
            let remedy = match &error {
                OpenError::NotFound { .. } => "give the container the render node",
                OpenError::Denied { .. } => "add the node's group to the container's supplementary groups",
                OpenError::Cgroup { .. } => "allow the device in the container's device cgroup",
                OpenError::No3d { .. } => "start the VM with a virtio-gpu device that has GL",
                OpenError::OtherDriver { .. } | OpenError::NotDrm { .. } => {
                    "set --render-node to the VM's virtio-gpu node, or use frame path Local"
                }
                OpenError::Io { .. } => "see the operating system's error above",
            };
            report.push(Check::failed(checks::RENDER_NODE, error.to_string(), remedy));
            None
        }
    }
}

/// Sends an echo request to the tap.
pub fn tap(device: Option<&Device>, report: &mut Vec<Check>) -> Option<Mailbox> {
    let Some(device) = device else {
        report.push(Check::skipped(checks::TAP, "needs the render node"));
        return None;
    };
    let mut mailbox = match Mailbox::new(device) {
        Ok(mailbox) => mailbox,
        Err(error) => {
            let detail = format!("cannot create a mailbox: {error}");
            report.push(Check::failed(checks::TAP, detail, "see the guest's kernel log (dmesg)"));
            return None;
        }
    };
    let start = Instant::now();
    match mailbox.call(Operation::Echo, TAP_TIMEOUT) {
        Ok(answer) if answer.status == Status::Ok => {
            let detail = format!("tap version {} answered in {:.1?}", answer.tap_version, start.elapsed());
            report.push(Check::ok(checks::TAP, detail));
            Some(mailbox)
        }
        Ok(answer) => {
            report.push(refusal(checks::TAP, answer.status));
            None
        }
        Err(error @ CallError::NoTap { .. }) => {
            let remedy = "start the VMM with the tap loaded (LD_PRELOAD=libtap.so on Linux)";
            report.push(Check::failed(checks::TAP, error.to_string(), remedy));
            None
        }
        Err(error) => {
            let remedy = "install tap and sidecar of the same version";
            report.push(Check::failed(checks::TAP, error.to_string(), remedy));
            None
        }
    }
}

/// Failed check: the tap refused a request.
pub fn refusal(check: &str, status: Status) -> Check {
    Check::failed(check, format!("refused by the tap: {}", status.label()), explain(status))
}
