//! Wayland globals and event handlers. Handlers only record events in [`State`]; the session and the capture cycle act
//! on them.

use protocol::Rect;
use wayland_client::protocol::{wl_buffer, wl_callback, wl_output, wl_registry, wl_shm, wl_shm_pool};
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, WEnum, delegate_noop, event_created_child};
use wayland_protocols::wp::linux_dmabuf::zv1::client::{zwp_linux_buffer_params_v1, zwp_linux_dmabuf_v1};
use wayland_protocols_wlr::screencopy::v1::client::{zwlr_screencopy_frame_v1, zwlr_screencopy_manager_v1};

use wayland_protocols_wlr::output_management::v1::client::zwlr_output_manager_v1::ZwlrOutputManagerV1;

use super::sizing::{Heads, OUTPUT_MANAGER_VERSION};
use crate::negotiated::{fourcc_text, modifier_text};

use wl_buffer::WlBuffer;
use wl_output::WlOutput;
use zwlr_screencopy_frame_v1::ZwlrScreencopyFrameV1;
use zwlr_screencopy_manager_v1::ZwlrScreencopyManagerV1;
use zwp_linux_buffer_params_v1::ZwpLinuxBufferParamsV1;
use zwp_linux_dmabuf_v1::ZwpLinuxDmabufV1;

/// Version of `zwlr_screencopy_manager_v1` to bind.
const SCREENCOPY_VERSION: u32 = 3;
/// Version of `zwp_linux_dmabuf_v1` to bind: the last that lists formats by events, not in a table.
const DMABUF_VERSION: u32 = 3;
/// Version of `wl_output` to bind: the first with names.
const OUTPUT_VERSION: u32 = 4;
/// Maximum number of format and modifier pairs recorded; compositors list a few hundred.
const MAX_OFFERS: usize = 1024;

/// Globals and recorded events.
#[derive(Debug, Default)]
pub struct State {
    /// Screencopy manager.
    pub screencopy: Option<ZwlrScreencopyManagerV1>,
    /// DMA-BUF factory.
    pub dmabuf: Option<ZwpLinuxDmabufV1>,
    /// Shared memory factory.
    pub shm: Option<wl_shm::WlShm>,
    /// Outputs in the order of announcement.
    pub outputs: Vec<Output>,
    /// Pairs of DRM fourcc and modifier that the compositor accepts as DMA-BUF.
    pub dmabuf_formats: Vec<(u32, u64)>,
    /// Events of the current capture.
    pub frame: FrameState,
    /// Reply to the last `zwp_linux_buffer_params_v1.create`.
    pub created: Option<Result<WlBuffer, ()>>,
    /// Heads of the output manager.
    pub heads: Heads,
    /// Number of the last completed sync.
    pub synced: u32,
}

/// An output of the compositor.
#[derive(Debug)]
pub struct Output {
    /// Numeric name of the global.
    pub global: u32,
    /// Wayland object.
    pub proxy: WlOutput,
    /// Name, e.g. `HEADLESS-1`; empty before version 4 of `wl_output`.
    pub name: String,
}

/// Shared memory buffer requested by the compositor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShmOffer {
    /// Value of `wl_shm.format`.
    pub format: u32,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Distance between rows in bytes.
    pub stride: u32,
}

/// DMA-BUF requested by the compositor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmabufOffer {
    /// DRM fourcc.
    pub fourcc: u32,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

/// Events of one `zwlr_screencopy_frame_v1`.
#[derive(Debug, Default, Clone)]
pub struct FrameState {
    /// Shared memory offer.
    pub shm: Option<ShmOffer>,
    /// DMA-BUF offer.
    pub dmabuf: Option<DmabufOffer>,
    /// True once all offers were sent.
    pub offered: bool,
    /// True if the first row is at the bottom.
    pub y_invert: bool,
    /// Bounding box of the damage.
    pub damage: Rect,
    /// Time of the copy in nanoseconds, once it completed.
    pub ready: Option<u64>,
    /// True if the capture failed.
    pub failed: bool,
}

impl State {
    /// DMA-BUF formats for display, one line per supported format.
    pub fn describe_dmabuf(&self) -> Vec<String> {
        let mut lines: Vec<(u32, Vec<String>)> = Vec::new();
        for (format, modifier) in &self.dmabuf_formats {
            if protocol::PixelFormat::from_fourcc(*format).is_err() {
                continue;
            }
            match lines.iter_mut().find(|line| line.0 == *format) {
                Some(line) => line.1.push(modifier_text(*modifier)),
                None => lines.push((*format, vec![modifier_text(*modifier)])),
            }
        }
        lines
            .into_iter()
            .map(|(format, modifiers)| {
                format!("linux-dmabuf {} modifiers {}", fourcc_text(format), modifiers.join(", "))
            })
            .collect()
    }
}

impl Dispatch<wl_registry::WlRegistry, ()> for State {
    fn event(
        state: &mut Self,
        registry: &wl_registry::WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        queue: &QueueHandle<Self>,
    ) {
        match event {
            wl_registry::Event::Global { name, interface, version } => {
                if interface == WlOutput::interface().name {
                    let proxy = registry.bind(name, version.min(OUTPUT_VERSION), queue, name);
                    state.outputs.push(Output { global: name, proxy, name: String::new() });
                } else if interface == wl_shm::WlShm::interface().name {
                    state.shm = Some(registry.bind(name, 1, queue, ()));
                } else if interface == ZwpLinuxDmabufV1::interface().name && version >= 2 {
                    state.dmabuf = Some(registry.bind(name, version.min(DMABUF_VERSION), queue, ()));
                } else if interface == ZwlrScreencopyManagerV1::interface().name {
                    state.screencopy = Some(registry.bind(name, version.min(SCREENCOPY_VERSION), queue, ()));
                } else if interface == ZwlrOutputManagerV1::interface().name {
                    let version = version.min(OUTPUT_MANAGER_VERSION);
                    state.heads.manager = Some(registry.bind(name, version, queue, ()));
                }
            }
            wl_registry::Event::GlobalRemove { name } => {
                state.outputs.retain(|output| output.global != name);
            }
            _ => {}
        }
    }
}

impl Dispatch<WlOutput, u32> for State {
    fn event(
        state: &mut Self,
        _: &WlOutput,
        event: wl_output::Event,
        global: &u32,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_output::Event::Name { name } = event
            && let Some(output) = state.outputs.iter_mut().find(|output| output.global == *global)
        {
            output.name = name;
        }
    }
}

impl Dispatch<ZwpLinuxDmabufV1, ()> for State {
    fn event(
        state: &mut Self,
        _: &ZwpLinuxDmabufV1,
        event: zwp_linux_dmabuf_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let zwp_linux_dmabuf_v1::Event::Modifier { format, modifier_hi, modifier_lo } = event
            && state.dmabuf_formats.len() < MAX_OFFERS
        {
            state.dmabuf_formats.push((format, u64::from(modifier_hi) << 32 | u64::from(modifier_lo)));
        }
    }
}

impl Dispatch<ZwpLinuxBufferParamsV1, ()> for State {
    fn event(
        state: &mut Self,
        params: &ZwpLinuxBufferParamsV1,
        event: zwp_linux_buffer_params_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            zwp_linux_buffer_params_v1::Event::Created { buffer } => state.created = Some(Ok(buffer)),
            zwp_linux_buffer_params_v1::Event::Failed => state.created = Some(Err(())),
            _ => return,
        }
        params.destroy();
    }

    event_created_child!(State, ZwpLinuxBufferParamsV1, [
        zwp_linux_buffer_params_v1::EVT_CREATED_OPCODE => (WlBuffer, ()),
    ]);
}

impl Dispatch<ZwlrScreencopyFrameV1, ()> for State {
    fn event(
        state: &mut Self,
        _: &ZwlrScreencopyFrameV1,
        event: zwlr_screencopy_frame_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use zwlr_screencopy_frame_v1::Event;
        let frame = &mut state.frame;
        match event {
            Event::Buffer { format, width, height, stride } => {
                let format = match format {
                    WEnum::Value(format) => format.into(),
                    WEnum::Unknown(format) => format,
                };
                frame.shm = Some(ShmOffer { format, width, height, stride });
            }
            Event::LinuxDmabuf { format, width, height } => {
                frame.dmabuf = Some(DmabufOffer { fourcc: format, width, height });
            }
            Event::BufferDone => frame.offered = true,
            Event::Flags { flags } => {
                frame.y_invert = matches!(flags, WEnum::Value(flags)
                    if flags.contains(zwlr_screencopy_frame_v1::Flags::YInvert));
            }
            Event::Damage { x, y, width, height } => {
                let [x, y, width, height] = [x, y, width, height].map(|n| n.min(protocol::pixel::MAX_SIDE));
                frame.damage = frame.damage.union(Rect { x, y, width, height });
            }
            Event::Ready { tv_sec_hi, tv_sec_lo, tv_nsec } => {
                let seconds = u64::from(tv_sec_hi) << 32 | u64::from(tv_sec_lo);
                frame.ready = Some(seconds.saturating_mul(1_000_000_000).saturating_add(tv_nsec.into()));
            }
            Event::Failed => frame.failed = true,
            _ => {}
        }
    }
}

impl Dispatch<wl_callback::WlCallback, u32> for State {
    fn event(
        state: &mut Self,
        _: &wl_callback::WlCallback,
        _: wl_callback::Event,
        number: &u32,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        state.synced = *number;
    }
}

delegate_noop!(State: ignore wl_shm::WlShm);
delegate_noop!(State: ignore wl_shm_pool::WlShmPool);
delegate_noop!(State: ignore WlBuffer);
delegate_noop!(State: ignore ZwlrScreencopyManagerV1);
