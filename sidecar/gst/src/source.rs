//! Element `desktopstreamsrc`: captures a desktop.

mod frames;
mod imp;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_base as gst_base;

glib::wrapper! {
    /// `desktopstreamsrc`: captures the desktop with which it shares `XDG_RUNTIME_DIR`.
    ///
    /// Its buffers are the compositor's DMA-BUFs and return to it when dropped. Compositors have three or four, so an
    /// element that holds that many stops the capture. Elements that do not accept DMA-BUFs receive copies in system
    /// memory.
    pub struct Source(ObjectSubclass<imp::Source>)
        @extends gst_base::PushSrc, gst_base::BaseSrc, gst::Element, gst::Object;
}

/// Kind of capture source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstDesktopStreamSource")]
pub enum SourceKind {
    /// The first that the desktop offers.
    #[default]
    #[enum_value(name = "The first that the desktop offers", nick = "auto")]
    Auto,
    /// PipeWire stream of Mutter, or the node of `pipewire-node`.
    #[enum_value(name = "PipeWire stream of Mutter, or the node of pipewire-node", nick = "pipewire")]
    PipeWire,
    /// The compositor's wlr-screencopy protocol.
    #[enum_value(name = "wlr-screencopy", nick = "wayland")]
    Wayland,
    /// Generated moving pattern.
    #[enum_value(name = "Generated moving pattern; needs no desktop", nick = "test-pattern")]
    TestPattern,
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "desktopstreamsrc", gst::Rank::NONE, Source::static_type())
}
