//! Capture and host encoding as GStreamer elements, for custom pipelines.
//!
//! ```text
//! desktopstreamsrc ── video/x-raw(memory:DMABuf) ──▶ desktopstreamenc ── video/x-h264 ──▶ h264parse ! …
//!   capture                                            pump, mailbox and host-agent connection
//! ```
//!
//! The elements work independently: any element that accepts DMA-BUFs can consume the source's frames, and the encoder
//! accepts virtio-gpu DMA-BUFs of any element. The crates `capture` and `frame-path` implement both; this crate adapts
//! them to GStreamer.

mod caps;
mod dmabuf;
mod encoder;
mod source;

mod plugin {
    //! Entry points of `libgstdesktopstream.so`.

    use gstreamer as gst;
    use gstreamer::glib;

    fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
        crate::source::register(plugin)?;
        crate::encoder::register(plugin)
    }

    gst::plugin_define!(
        desktopstream,
        env!("CARGO_PKG_DESCRIPTION"),
        register,
        env!("CARGO_PKG_VERSION"),
        "MIT/X11",
        env!("CARGO_PKG_NAME"),
        "desktopstream",
        "https://desktopstream.dev"
    );
}
