//! Wayland globals of input devices.

use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_output::WlOutput;
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::{Connection, Dispatch, Proxy as _, QueueHandle, delegate_noop};
use wayland_protocols_misc::zwp_virtual_keyboard_v1::client::zwp_virtual_keyboard_manager_v1::ZwpVirtualKeyboardManagerV1;
use wayland_protocols_misc::zwp_virtual_keyboard_v1::client::zwp_virtual_keyboard_v1::ZwpVirtualKeyboardV1;
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_manager_v1::ZwlrVirtualPointerManagerV1;
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_v1::ZwlrVirtualPointerV1;

use crate::backend::BackendError;

/// Version of `zwlr_virtual_pointer_manager_v1` whose pointers can be limited to an output.
const WITH_OUTPUT: u32 = 2;

/// Globals that were announced.
#[derive(Debug, Default)]
pub struct Globals {
    seat: Option<WlSeat>,
    /// First output: the one that is captured.
    output: Option<WlOutput>,
    keyboards: Option<ZwpVirtualKeyboardManagerV1>,
    pointers: Option<ZwlrVirtualPointerManagerV1>,
    /// True once all globals were announced.
    pub is_listed: bool,
}

impl Globals {
    /// The globals that devices are created with.
    pub fn required(
        &self,
    ) -> Result<(&WlSeat, &ZwpVirtualKeyboardManagerV1, &ZwlrVirtualPointerManagerV1), BackendError> {
        let seat = self.seat.as_ref().ok_or(BackendError::NoProtocol("wl_seat"))?;
        let keyboards = self.keyboards.as_ref();
        let keyboards = keyboards.ok_or(BackendError::NoProtocol("zwp_virtual_keyboard_manager_v1"))?;
        let pointers = self.pointers.as_ref();
        let pointers = pointers.ok_or(BackendError::NoProtocol("zwlr_virtual_pointer_manager_v1"))?;
        Ok((seat, keyboards, pointers))
    }

    /// Creates the devices.
    pub fn create_devices(
        &self,
        handle: &QueueHandle<Self>,
    ) -> Result<(ZwpVirtualKeyboardV1, ZwlrVirtualPointerV1), BackendError> {
        let (seat, keyboards, pointers) = self.required()?;
        let keyboard = keyboards.create_virtual_keyboard(seat, handle, ());
        let pointer = if pointers.version() >= WITH_OUTPUT {
            pointers.create_virtual_pointer_with_output(Some(seat), self.output.as_ref(), handle, ())
        } else {
            pointers.create_virtual_pointer(Some(seat), handle, ())
        };
        Ok((keyboard, pointer))
    }
}

impl Dispatch<WlRegistry, ()> for Globals {
    fn event(
        state: &mut Self,
        registry: &WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        queue: &QueueHandle<Self>,
    ) {
        let wl_registry::Event::Global { name, interface, version } = event else { return };
        if interface == WlSeat::interface().name && state.seat.is_none() {
            state.seat = Some(registry.bind(name, 1, queue, ()));
        } else if interface == WlOutput::interface().name && state.output.is_none() {
            state.output = Some(registry.bind(name, 1, queue, ()));
        } else if interface == ZwpVirtualKeyboardManagerV1::interface().name {
            state.keyboards = Some(registry.bind(name, 1, queue, ()));
        } else if interface == ZwlrVirtualPointerManagerV1::interface().name {
            state.pointers = Some(registry.bind(name, version.min(WITH_OUTPUT), queue, ()));
        }
    }
}

impl Dispatch<WlCallback, ()> for Globals {
    fn event(
        state: &mut Self,
        _: &WlCallback,
        _: wl_callback::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        state.is_listed = true;
    }
}

delegate_noop!(Globals: ignore WlSeat);
delegate_noop!(Globals: ignore WlOutput);
delegate_noop!(Globals: ignore ZwpVirtualKeyboardManagerV1);
delegate_noop!(Globals: ignore ZwpVirtualKeyboardV1);
delegate_noop!(Globals: ignore ZwlrVirtualPointerManagerV1);
delegate_noop!(Globals: ignore ZwlrVirtualPointerV1);
