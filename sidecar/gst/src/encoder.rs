//! `desktopstreamenc`: frames to the host by resource ID, H.264 back.

mod imp;
mod input;
mod ledger;
mod session;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;

glib::wrapper! {
    /// `desktopstreamenc`: hands frames to the host-agent and gives what it encodes.
    ///
    /// DMA-BUFs of the VM's virtio-gpu go by resource ID: 64 bytes a frame. What can't go so (system memory, a
    /// VM without tap) is pushed as pixels, unless `require=zero-copy`; the element says so, and why. At most
    /// two frames are under way; upstream waits. While nothing comes the host-agent repeats the last picture
    /// ten times a second, and these access units go out too: the ones after them are coded from them.
    pub struct Encoder(ObjectSubclass<imp::Encoder>) @extends gst::Element, gst::Object;
}

/// What the rung must at least be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstDesktopStreamRequire")]
pub enum Require {
    /// Anything that the host-agent encodes.
    #[default]
    #[enum_value(name = "Resource IDs, else pixels", nick = "any")]
    Any,
    /// Only resource IDs.
    #[enum_value(name = "Resource IDs, else an error", nick = "zero-copy")]
    ZeroCopy,
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "desktopstreamenc", gst::Rank::NONE, Encoder::static_type())
}
