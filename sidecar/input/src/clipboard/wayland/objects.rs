//! Wayland objects of both data-control protocols, which have the same requests and events.

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::sync::oneshot;
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::{Connection, Dispatch, Proxy as _, QueueHandle, delegate_noop};

use crate::backend::BackendError;
use crate::clipboard::content::Offered;

/// Programs whose pastes wait; further ones get nothing.
const MAX_PASTES: usize = 16;

/// Objects of the connection, and the state that their events describe.
#[derive(Debug, Default)]
pub struct Objects {
    seat: Option<WlSeat>,
    ext: Option<ext::Manager>,
    wlr: Option<wlr::Manager>,
    /// True once all globals were announced.
    pub is_listed: bool,
    /// The newest offer, while no event says that it is the selection.
    announced: Option<(Offer, Offered)>,
    /// Change of the selection that was not processed.
    pub selected: Selected,
    /// Programs that paste what we offer: MIME type and pipe.
    pub pastes: VecDeque<(String, OwnedFd)>,
    /// Content of a viewer that is offered.
    source: Option<Source>,
    /// Told once the compositor has processed all requests.
    pub taken: Option<oneshot::Sender<()>>,
    /// True once the device is of no use.
    pub is_finished: bool,
}

/// Change of the selection.
#[derive(Debug, Default)]
pub enum Selected {
    /// The selection is what it was.
    #[default]
    Unchanged,
    /// The clipboard is empty.
    Empty,
    /// A program copied something.
    Offer(Offer, Offered),
}

impl Objects {
    /// Creates the device of the seat, with the name of its protocol.
    pub fn create_device(&self, handle: &QueueHandle<Self>) -> Result<(Device, &'static str), BackendError> {
        let seat = self.seat.as_ref().ok_or(BackendError::NoProtocol("wl_seat"))?;
        if let Some(ext) = &self.ext {
            return Ok((Device::Ext(ext.get_data_device(seat, handle, ())), "ext-data-control-v1"));
        }
        let wlr = self
            .wlr
            .as_ref()
            .ok_or(BackendError::NoProtocol("ext-data-control-v1 and wlr-data-control-v1"))?;
        Ok((Device::Wlr(wlr.get_data_device(seat, handle, ())), "wlr-data-control-v1"))
    }

    /// Offers a content with these MIME types in place of the former one.
    pub fn offer(
        &mut self,
        device: &Device,
        types: impl Iterator<Item = &'static str>,
        handle: &QueueHandle<Self>,
    ) {
        let source = match device {
            Device::Ext(_) => self.ext.as_ref().map(|ext| Source::Ext(ext.create_data_source(handle, ()))),
            Device::Wlr(_) => self.wlr.as_ref().map(|wlr| Source::Wlr(wlr.create_data_source(handle, ()))),
        };
        let Some(source) = source else { return };
        types.for_each(|mime| source.offer(mime));
        device.set_selection(&source);
        // What programs asked the former content for is lost.
        self.pastes.clear();
        if let Some(former) = self.source.replace(source) {
            former.destroy();
        }
    }

    fn announce(&mut self, offer: Offer) {
        if let Some((former, _)) = self.announced.replace((offer, Offered::default())) {
            former.destroy();
        }
    }

    fn add_type(&mut self, offer: &Offer, mime: &str) {
        if let Some((announced, offered)) = &mut self.announced
            && announced == offer
        {
            offered.add(mime);
        }
    }

    /// Takes the announced offer as the selection. Another one is not known: it was destroyed.
    fn select(&mut self, offer: Option<&Offer>) {
        let selected = self.announced.take_if(|(announced, _)| Some(&*announced) == offer);
        let selected = selected.map_or(Selected::Empty, |(offer, offered)| Selected::Offer(offer, offered));
        if let Selected::Offer(former, _) = std::mem::replace(&mut self.selected, selected) {
            former.destroy();
        }
    }

    /// Ignores an offer of the primary selection.
    fn ignore(&mut self, offer: &Offer) {
        if let Some((ignored, _)) = self.announced.take_if(|(announced, _)| announced == offer) {
            ignored.destroy();
        }
    }

    fn paste(&mut self, source: &Source, mime: String, pipe: OwnedFd) {
        if self.source.as_ref() == Some(source) && self.pastes.len() < MAX_PASTES {
            self.pastes.push_back((mime, pipe));
        }
    }

    fn cancel(&mut self, source: &Source) {
        source.destroy();
        self.source.take_if(|current| current == source);
    }
}

/// Clipboard of the seat.
#[derive(Debug)]
pub enum Device {
    /// By `ext_data_control_v1`.
    Ext(ext::Device),
    /// By `zwlr_data_control_v1`.
    Wlr(wlr::Device),
}

impl Device {
    fn set_selection(&self, source: &Source) {
        match (self, source) {
            (Self::Ext(device), Source::Ext(source)) => device.set_selection(Some(source)),
            (Self::Wlr(device), Source::Wlr(source)) => device.set_selection(Some(source)),
            // Both are created from the same manager.
            (Self::Ext(_), Source::Wlr(_)) | (Self::Wlr(_), Source::Ext(_)) => {}
        }
    }

    /// Destroys the object.
    pub fn destroy(&self) {
        match self {
            Self::Ext(device) => device.destroy(),
            Self::Wlr(device) => device.destroy(),
        }
    }
}

/// Content of a program.
#[derive(Debug, PartialEq)]
pub enum Offer {
    /// By `ext_data_control_v1`.
    Ext(ext::Offer),
    /// By `zwlr_data_control_v1`.
    Wlr(wlr::Offer),
}

impl Offer {
    /// Asks the program to write the content to a pipe.
    pub fn receive(&self, mime: &str, pipe: BorrowedFd<'_>) {
        match self {
            Self::Ext(offer) => offer.receive(mime.to_owned(), pipe),
            Self::Wlr(offer) => offer.receive(mime.to_owned(), pipe),
        }
    }

    /// Destroys the object.
    pub fn destroy(&self) {
        match self {
            Self::Ext(offer) => offer.destroy(),
            Self::Wlr(offer) => offer.destroy(),
        }
    }
}

/// Content of a viewer.
#[derive(Debug, PartialEq)]
pub enum Source {
    /// By `ext_data_control_v1`.
    Ext(ext::Source),
    /// By `zwlr_data_control_v1`.
    Wlr(wlr::Source),
}

impl Source {
    fn offer(&self, mime: &str) {
        match self {
            Self::Ext(source) => source.offer(mime.to_owned()),
            Self::Wlr(source) => source.offer(mime.to_owned()),
        }
    }

    fn destroy(&self) {
        match self {
            Self::Ext(source) => source.destroy(),
            Self::Wlr(source) => source.destroy(),
        }
    }
}

impl Dispatch<WlRegistry, ()> for Objects {
    fn event(
        state: &mut Self,
        registry: &WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        queue: &QueueHandle<Self>,
    ) {
        let wl_registry::Event::Global { name, interface, .. } = event else { return };
        // Version 1 of the managers has no primary selection, which is not shared.
        if interface == WlSeat::interface().name && state.seat.is_none() {
            state.seat = Some(registry.bind(name, 1, queue, ()));
        } else if interface == ext::Manager::interface().name {
            state.ext = Some(registry.bind(name, 1, queue, ()));
        } else if interface == wlr::Manager::interface().name {
            state.wlr = Some(registry.bind(name, 1, queue, ()));
        }
    }
}

impl Dispatch<WlCallback, ()> for Objects {
    fn event(
        state: &mut Self,
        _: &WlCallback,
        _: wl_callback::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        state.is_listed = true;
        if let Some(taken) = state.taken.take() {
            // The driver may have given up.
            let _ = taken.send(());
        }
    }
}

delegate_noop!(Objects: ignore WlSeat);

/// Handles the events of a protocol's objects, which its module names.
macro_rules! handle_events {
    ($protocol:ident, $variant:ident) => {
        impl Dispatch<$protocol::Device, ()> for Objects {
            fn event(
                state: &mut Self,
                _: &$protocol::Device,
                event: $protocol::DeviceEvent,
                (): &(),
                _: &Connection,
                _: &QueueHandle<Self>,
            ) {
                use $protocol::DeviceEvent;
                match event {
                    DeviceEvent::DataOffer { id } => state.announce(Offer::$variant(id)),
                    DeviceEvent::Selection { id } => state.select(id.map(Offer::$variant).as_ref()),
                    DeviceEvent::PrimarySelection { id: Some(id) } => state.ignore(&Offer::$variant(id)),
                    DeviceEvent::Finished => state.is_finished = true,
                    _ => {}
                }
            }

            wayland_client::event_created_child!(Self, $protocol::Device, [
                $protocol::EVT_DATA_OFFER_OPCODE => ($protocol::Offer, ()),
            ]);
        }

        impl Dispatch<$protocol::Offer, ()> for Objects {
            fn event(
                state: &mut Self,
                offer: &$protocol::Offer,
                event: $protocol::OfferEvent,
                (): &(),
                _: &Connection,
                _: &QueueHandle<Self>,
            ) {
                if let $protocol::OfferEvent::Offer { mime_type } = event {
                    state.add_type(&Offer::$variant(offer.clone()), &mime_type);
                }
            }
        }

        impl Dispatch<$protocol::Source, ()> for Objects {
            fn event(
                state: &mut Self,
                source: &$protocol::Source,
                event: $protocol::SourceEvent,
                (): &(),
                _: &Connection,
                _: &QueueHandle<Self>,
            ) {
                let source = Source::$variant(source.clone());
                match event {
                    $protocol::SourceEvent::Send { mime_type, fd } => state.paste(&source, mime_type, fd),
                    $protocol::SourceEvent::Cancelled => state.cancel(&source),
                    _ => {}
                }
            }
        }

        delegate_noop!(Objects: ignore $protocol::Manager);
    };
}

handle_events!(ext, Ext);
handle_events!(wlr, Wlr);

mod ext {
    //! Objects of `ext_data_control_v1`.

    use wayland_protocols::ext::data_control::v1::client as protocol;

    pub use protocol::ext_data_control_device_v1::{
        EVT_DATA_OFFER_OPCODE, Event as DeviceEvent, ExtDataControlDeviceV1 as Device,
    };
    pub use protocol::ext_data_control_manager_v1::ExtDataControlManagerV1 as Manager;
    pub use protocol::ext_data_control_offer_v1::{Event as OfferEvent, ExtDataControlOfferV1 as Offer};
    pub use protocol::ext_data_control_source_v1::{Event as SourceEvent, ExtDataControlSourceV1 as Source};
}

mod wlr {
    //! Objects of `zwlr_data_control_v1`.

    use wayland_protocols_wlr::data_control::v1::client as protocol;

    pub use protocol::zwlr_data_control_device_v1::{
        EVT_DATA_OFFER_OPCODE, Event as DeviceEvent, ZwlrDataControlDeviceV1 as Device,
    };
    pub use protocol::zwlr_data_control_manager_v1::ZwlrDataControlManagerV1 as Manager;
    pub use protocol::zwlr_data_control_offer_v1::{Event as OfferEvent, ZwlrDataControlOfferV1 as Offer};
    pub use protocol::zwlr_data_control_source_v1::{
        Event as SourceEvent, ZwlrDataControlSourceV1 as Source,
    };
}
