//! `desktopstreamsrc`: a desktop's frames.

mod frames;
mod imp;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_base as gst_base;

glib::wrapper! {
    /// `desktopstreamsrc`: captures the desktop whose `XDG_RUNTIME_DIR` it shares, as the sidecar does.
    ///
    /// Its buffers are the compositor's own DMA-BUFs, which go back when they are dropped; a compositor has
    /// three or four, so an element that holds on to that many stops the desktop's picture. To elements that
    /// don't take DMA-BUFs it gives copies in system memory.
    pub struct Source(ObjectSubclass<imp::Source>)
        @extends gst_base::PushSrc, gst_base::BaseSrc, gst::Element, gst::Object;
}

/// Which kind of desktop to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstDesktopStreamSource")]
pub enum SourceKind {
    /// Whatever the desktop has.
    #[default]
    #[enum_value(name = "Whatever the desktop has", nick = "auto")]
    Auto,
    /// Mutter's PipeWire stream, or that of `pipewire-node`.
    #[enum_value(name = "Mutter's PipeWire stream, or that of pipewire-node", nick = "pipewire")]
    PipeWire,
    /// wlr-screencopy.
    #[enum_value(name = "wlr-screencopy", nick = "wayland")]
    Wayland,
    /// A moving pattern made here.
    #[enum_value(name = "A moving pattern made here: no desktop needed", nick = "test-pattern")]
    TestPattern,
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "desktopstreamsrc", gst::Rank::NONE, Source::static_type())
}
