//! The sidecar's two halves as GStreamer elements, for pipelines that people write themselves.
//!
//! ```text
//! desktopstreamsrc ── video/x-raw(memory:DMABuf) ──▶ desktopstreamenc ── video/x-h264 ──▶ h264parse ! …
//!   the sidecar's capture                              its pump, mailbox and host-agent connection
//! ```
//!
//! Each works without the other: the source's frames go to any element that takes DMA-BUFs, and the encoder
//! takes those of any element whose buffers are virtio-gpu's. Capture, resolving, mailbox and connection are
//! the sidecar library's; what is here is GStreamer's side of them.

mod caps;
mod dmabuf;
mod encoder;
mod source;

mod plugin {
    //! The entry points that GStreamer looks for in `libgstdesktopstream.so`.

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
