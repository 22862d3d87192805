//! Size of the output, by `zwlr_output_manager_v1`.
//!
//! All heads of the compositor are part of a configuration; only the captured one is changed. A configuration that the
//! compositor cancels, because another one came between, is sent again with the serial of the newer state.

use std::time::{Duration, Instant};

use wayland_client::{Connection, Dispatch, Proxy as _, QueueHandle, delegate_noop, event_created_child};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_configuration_head_v1::ZwlrOutputConfigurationHeadV1;
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_configuration_v1::{
    self, ZwlrOutputConfigurationV1,
};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_head_v1::{self, ZwlrOutputHeadV1};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_manager_v1::{
    self, ZwlrOutputManagerV1,
};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_mode_v1::ZwlrOutputModeV1;

use super::globals::State;
use super::session::REPLY_TIMEOUT;
use crate::resizer::Resizer;

/// Version of `zwlr_output_manager_v1` to bind.
pub const OUTPUT_MANAGER_VERSION: u32 = 4;
/// First version whose heads and modes have a destructor.
const WITH_RELEASE: u32 = 3;
/// Maximum number of heads that are recorded.
const MAX_HEADS: usize = 64;
/// Refresh rate of a custom mode: the compositor's choice.
const ANY_REFRESH: i32 = 0;

/// Minimum interval between configurations. Each one leaves objects and outgoing messages if the compositor does not read.
const INTERVAL: Duration = Duration::from_millis(500);
/// Number of configurations in succession that the compositor may cancel.
const MAX_CANCELLED: u32 = 5;

/// Heads and replies of the compositor.
#[derive(Debug, Default)]
pub struct Heads {
    /// Output manager.
    pub manager: Option<ZwlrOutputManagerV1>,
    known: Vec<Head>,
    /// Serial of the last state that is complete.
    serial: Option<u32>,
    /// Heads of the last configuration. The protocol has no request that destroys them.
    configured: Vec<ZwlrOutputConfigurationHeadV1>,
    /// Reply to the last configuration.
    reply: Option<Reply>,
}

#[derive(Debug)]
struct Head {
    proxy: ZwlrOutputHeadV1,
    name: String,
    is_enabled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Succeeded,
    Failed,
    Cancelled,
}

/// A configuration that was sent.
#[derive(Debug)]
struct Sent {
    /// Number of the request for the size.
    number: u64,
    serial: u32,
    at: Instant,
}

/// Applies the requested sizes to one output.
#[derive(Debug)]
pub struct Sizing {
    resizer: Resizer,
    /// Name of the output to capture; the first one if `None`.
    output: Option<String>,
    /// Last request that was applied, or given up.
    answered: u64,
    /// Configuration that the compositor has not answered.
    pending: Option<Sent>,
    /// Serial with which a configuration was cancelled; the state with a newer one follows.
    outdated: Option<u32>,
    /// Number of configurations that were cancelled in succession.
    cancelled: u32,
    /// Earliest time of the next configuration.
    due: Instant,
}

impl Sizing {
    /// Sizing of the output `output`, or of the first one.
    pub fn new(resizer: Resizer, output: Option<String>) -> Self {
        Self {
            resizer,
            output,
            answered: 0,
            pending: None,
            outdated: None,
            cancelled: 0,
            due: Instant::now(),
        }
    }

    /// Handles replies and sends a configuration if another size is wanted. To be called after events and wake-ups. Returns the
    /// time until it must be called again, if it must.
    pub fn update(&mut self, state: &mut State, queue: &QueueHandle<State>) -> Option<Duration> {
        let now = Instant::now();
        if let Some(reply) = state.heads.reply.take()
            && let Some(Sent { number, serial, .. }) = self.pending.take()
        {
            match reply {
                Reply::Succeeded => self.answer(number, None),
                Reply::Failed => self.answer(number, Some("the compositor refused the size")),
                Reply::Cancelled => {
                    self.outdated = Some(serial);
                    self.cancelled += 1;
                    if self.cancelled >= MAX_CANCELLED {
                        self.answer(number, Some("the compositor changes its outputs again and again"));
                    }
                }
            }
        }
        if let Some(Sent { number, at, .. }) = &self.pending {
            let left = REPLY_TIMEOUT.saturating_sub(now - *at);
            if !left.is_zero() && state.heads.manager.is_some() {
                return Some(left);
            }
            let number = *number;
            self.pending = None;
            self.answer(number, Some("the compositor does not answer: restart the desktop"));
        }
        let wanted = self.resizer.wanted().filter(|wanted| wanted.number != self.answered)?;
        if now < self.due {
            return Some(self.due - now);
        }
        let Some(manager) = &state.heads.manager else {
            self.answer(
                wanted.number,
                Some("the compositor lacks zwlr_output_manager_v1: use sway 1.9 or labwc 0.7"),
            );
            return None;
        };
        // Until the state is complete, its event calls this again.
        let serial = state.heads.serial.filter(|serial| Some(*serial) != self.outdated)?;
        let name =
            self.output.as_deref().or_else(|| state.outputs.first().map(|output| output.name.as_str()));
        let known = &state.heads.known;
        let Some(target) = known.iter().position(|head| name.is_none_or(|name| head.name == name)) else {
            self.answer(wanted.number, Some("the compositor does not list the captured output"));
            return None;
        };
        let configuration = manager.create_configuration(serial, queue, ());
        let mut configured = Vec::with_capacity(known.len());
        for (index, head) in known.iter().enumerate() {
            if !head.is_enabled && index != target {
                configuration.disable_head(&head.proxy);
                continue;
            }
            let changes = configuration.enable_head(&head.proxy, queue, ());
            if index == target {
                let [width, height] = [wanted.size.width(), wanted.size.height()].map(u32::cast_signed);
                changes.set_custom_mode(width, height, ANY_REFRESH);
                changes.set_scale(wanted.size.scale());
            }
            configured.push(changes);
        }
        configuration.apply();
        state.heads.configured = configured;
        self.due = now + INTERVAL;
        self.pending = Some(Sent { number: wanted.number, serial, at: now });
        Some(REPLY_TIMEOUT)
    }

    /// Ends a request.
    fn answer(&mut self, number: u64, error: Option<&str>) {
        self.answered = number;
        self.cancelled = 0;
        let is_last = self.resizer.wanted().is_some_and(|wanted| wanted.number == number);
        if is_last && let Some(error) = error {
            self.resizer.failed(error);
        }
    }
}

impl Dispatch<ZwlrOutputManagerV1, ()> for State {
    fn event(
        state: &mut Self,
        _: &ZwlrOutputManagerV1,
        event: zwlr_output_manager_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            zwlr_output_manager_v1::Event::Head { head } if state.heads.known.len() < MAX_HEADS => {
                state.heads.known.push(Head { proxy: head, name: String::new(), is_enabled: false });
            }
            zwlr_output_manager_v1::Event::Head { head } if head.version() >= WITH_RELEASE => head.release(),
            zwlr_output_manager_v1::Event::Done { serial } => state.heads.serial = Some(serial),
            zwlr_output_manager_v1::Event::Finished => state.heads = Heads::default(),
            _ => {}
        }
    }

    event_created_child!(State, ZwlrOutputManagerV1, [
        zwlr_output_manager_v1::EVT_HEAD_OPCODE => (ZwlrOutputHeadV1, ()),
    ]);
}

impl Dispatch<ZwlrOutputHeadV1, ()> for State {
    fn event(
        state: &mut Self,
        proxy: &ZwlrOutputHeadV1,
        event: zwlr_output_head_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let heads = &mut state.heads.known;
        if let zwlr_output_head_v1::Event::Finished = event {
            heads.retain(|head| head.proxy != *proxy);
            if proxy.version() >= WITH_RELEASE {
                proxy.release();
            }
            return;
        }
        let Some(head) = heads.iter_mut().find(|head| head.proxy == *proxy) else { return };
        match event {
            zwlr_output_head_v1::Event::Name { name } => head.name = name,
            zwlr_output_head_v1::Event::Enabled { enabled } => head.is_enabled = enabled != 0,
            // Only custom modes are used, and each custom mode makes an object.
            zwlr_output_head_v1::Event::Mode { mode } if mode.version() >= WITH_RELEASE => mode.release(),
            _ => {}
        }
    }

    event_created_child!(State, ZwlrOutputHeadV1, [
        zwlr_output_head_v1::EVT_MODE_OPCODE => (ZwlrOutputModeV1, ()),
    ]);
}

impl Dispatch<ZwlrOutputConfigurationV1, ()> for State {
    fn event(
        state: &mut Self,
        configuration: &ZwlrOutputConfigurationV1,
        event: zwlr_output_configuration_v1::Event,
        (): &(),
        connection: &Connection,
        _: &QueueHandle<Self>,
    ) {
        state.heads.reply = Some(match event {
            zwlr_output_configuration_v1::Event::Succeeded => Reply::Succeeded,
            zwlr_output_configuration_v1::Event::Cancelled => Reply::Cancelled,
            _ => Reply::Failed,
        });
        configuration.destroy();
        for head in state.heads.configured.drain(..) {
            // Fails only if the connection ended.
            let _ = connection.backend().destroy_object(&head.id());
        }
    }
}

delegate_noop!(State: ignore ZwlrOutputConfigurationHeadV1);
delegate_noop!(State: ignore ZwlrOutputModeV1);

#[cfg(test)]
mod tests;
