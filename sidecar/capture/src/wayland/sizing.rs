//! Size of the output, by `zwlr_output_manager_v1`.
//!
//! All heads of the compositor are part of a configuration; only the captured one is changed. A configuration that the
//! compositor cancels, because another one came between, is sent again with the serial of the newer state.

use contract::display::DisplaySize;
use wayland_client::{Connection, Dispatch, Proxy as _, QueueHandle, event_created_child};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_configuration_head_v1::ZwlrOutputConfigurationHeadV1;
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_configuration_v1::{
    self, ZwlrOutputConfigurationV1,
};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_head_v1::{self, ZwlrOutputHeadV1};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_manager_v1::{
    self, ZwlrOutputManagerV1,
};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_mode_v1::{self, ZwlrOutputModeV1};

use super::globals::State;
use crate::resizer::Resizer;

/// Version of `zwlr_output_manager_v1` to bind.
pub const OUTPUT_MANAGER_VERSION: u32 = 4;
/// First version whose heads and modes have a destructor.
const WITH_RELEASE: u32 = 3;
/// Maximum number of heads that are recorded.
const MAX_HEADS: usize = 64;
/// Refresh rate of a custom mode: the compositor's choice.
const ANY_REFRESH: i32 = 0;

/// Heads and replies of the compositor.
#[derive(Debug, Default)]
pub struct Heads {
    /// Output manager.
    pub manager: Option<ZwlrOutputManagerV1>,
    known: Vec<Head>,
    /// Serial of the last state that is complete.
    serial: Option<u32>,
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

/// Applies the requested sizes to one output.
#[derive(Debug)]
pub struct Sizing {
    resizer: Resizer,
    /// Name of the output to capture; the first one if `None`.
    output: Option<String>,
    /// Last size that the compositor accepted or refused.
    answered: Option<DisplaySize>,
    /// Size of the configuration that the compositor has not answered.
    pending: Option<DisplaySize>,
    /// Serial with which a configuration was cancelled.
    outdated: Option<u32>,
}

impl Sizing {
    /// Sizing of the output `output`, or of the first one.
    pub fn new(resizer: Resizer, output: Option<String>) -> Self {
        Self { resizer, output, answered: None, pending: None, outdated: None }
    }

    /// Handles replies and sends a configuration if another size is wanted. Must be called after events and wake-ups.
    pub fn update(&mut self, state: &mut State, queue: &QueueHandle<State>) {
        if let Some(reply) = state.heads.reply.take()
            && let Some(size) = self.pending.take()
        {
            match reply {
                Reply::Succeeded => self.answer(size, None),
                Reply::Failed => self.answer(size, Some("the compositor refused the size")),
                Reply::Cancelled => self.outdated = state.heads.serial,
            }
        }
        let Some(size) = self.resizer.wanted() else { return };
        let are_globals_listed = state.synced > 0;
        if !are_globals_listed || self.pending.is_some() || self.answered == Some(size) {
            return;
        }
        let Some(manager) = &state.heads.manager else {
            return self.answer(
                size,
                Some("the compositor lacks zwlr_output_manager_v1: use sway 1.9 or labwc 0.7"),
            );
        };
        let Some(serial) = state.heads.serial.filter(|serial| Some(*serial) != self.outdated) else { return };
        let name =
            self.output.as_deref().or_else(|| state.outputs.first().map(|output| output.name.as_str()));
        let heads = &state.heads.known;
        let target = heads.iter().position(|head| Some(head.name.as_str()) == name).unwrap_or(0);
        let configuration = manager.create_configuration(serial, queue, ());
        for (index, head) in heads.iter().enumerate() {
            if !head.is_enabled && index != target {
                configuration.disable_head(&head.proxy);
                continue;
            }
            let changes = configuration.enable_head(&head.proxy, queue, ());
            if index == target {
                let [width, height] = [size.width(), size.height()].map(u32::cast_signed);
                changes.set_custom_mode(width, height, ANY_REFRESH);
                changes.set_scale(size.scale());
            }
        }
        configuration.apply();
        self.pending = Some(size);
    }

    fn answer(&mut self, size: DisplaySize, error: Option<&str>) {
        self.answered = Some(size);
        match error {
            Some(error) => self.resizer.failed(error.to_owned()),
            None => self.resizer.succeeded(size),
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
            _ => {}
        }
    }

    event_created_child!(State, ZwlrOutputHeadV1, [
        zwlr_output_head_v1::EVT_MODE_OPCODE => (ZwlrOutputModeV1, ()),
    ]);
}

impl Dispatch<ZwlrOutputModeV1, ()> for State {
    fn event(
        _: &mut Self,
        mode: &ZwlrOutputModeV1,
        event: zwlr_output_mode_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        // Each custom mode makes an object, which exists until it is released.
        if let zwlr_output_mode_v1::Event::Finished = event
            && mode.version() >= WITH_RELEASE
        {
            mode.release();
        }
    }
}

impl Dispatch<ZwlrOutputConfigurationV1, ()> for State {
    fn event(
        state: &mut Self,
        configuration: &ZwlrOutputConfigurationV1,
        event: zwlr_output_configuration_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        state.heads.reply = Some(match event {
            zwlr_output_configuration_v1::Event::Succeeded => Reply::Succeeded,
            zwlr_output_configuration_v1::Event::Cancelled => Reply::Cancelled,
            _ => Reply::Failed,
        });
        configuration.destroy();
    }
}

wayland_client::delegate_noop!(State: ignore ZwlrOutputConfigurationHeadV1);
