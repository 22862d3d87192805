//! Element `desktopstreamenc`: sends frames to the host-agent by resource ID and receives H.264.

mod imp;
mod input;
mod ledger;
mod session;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;

glib::wrapper! {
    /// `desktopstreamenc`: sends frames to the host-agent and outputs the access units it returns.
    ///
    /// DMA-BUFs of the VM's virtio-gpu are sent by resource ID, 64 bytes per frame. Other frames (system memory, or a
    /// VM without tap) are sent as pixels with a warning that names the reason, or, with `require=zero-copy`, fail the
    /// pipeline. At most two frames are in flight; meanwhile upstream blocks. Without new frames the host-agent
    /// repeats the last picture ten times a second. These access units are output too, since later ones refer to them.
    pub struct Encoder(ObjectSubclass<imp::Encoder>) @extends gst::Element, gst::Object;
}

/// Required frame path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstDesktopStreamRequire")]
pub enum Require {
    /// Resource IDs, with pixels as fallback.
    #[default]
    #[enum_value(name = "Resource IDs, with pixels as fallback", nick = "any")]
    Any,
    /// Resource IDs; otherwise the element fails.
    #[enum_value(name = "Resource IDs only", nick = "zero-copy")]
    ZeroCopy,
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "desktopstreamenc", gst::Rank::NONE, Encoder::static_type())
}
