//! Result of a negotiation, for status and doctor.

use std::path::PathBuf;

use protocol::PixelFormat;

/// Offered and chosen buffers of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Source: `wayland`, `pipewire (mutter)`, `pipewire` or `testpattern`.
    pub source: String,
    /// Offers of the source, one line each, for display.
    pub offered: Vec<String>,
    /// Chosen format, size and memory, for display.
    pub chosen: String,
    /// Pixel format.
    pub format: PixelFormat,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// True if the buffers are DMA-BUFs.
    pub dmabuf: bool,
    /// Reason for shared memory; `None` with DMA-BUF.
    pub shm_reason: Option<ShmReason>,
}

/// Reason for using shared memory in place of DMA-BUF.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShmReason {
    /// The options request [`Memory::Shm`](crate::Memory::Shm).
    #[error("shared memory was requested")]
    Requested,
    /// The render node is not open.
    #[error("the render node {} could not be opened", .0.display())]
    NoRenderNode(PathBuf),
    /// The source is the test pattern.
    #[error("the test pattern is drawn by the CPU")]
    TestPattern,
    /// The PipeWire producer offers no format with a modifier.
    #[error(
        "the producer offers no DMA-BUF because it renders without the GPU; give the desktop access to the \
         render node (its group), and look for \"Created gbm renderer\" in GNOME's log"
    )]
    ProducerWithoutDmaBuf,
    /// The PipeWire producer offers DMA-BUF, but chose a format without a modifier.
    #[error("the producer offers DMA-BUF but chose shared memory")]
    ProducerChoseShm,
    /// Importing the producer's DMA-BUFs failed.
    #[error("DMA-BUFs with modifier {} cannot be imported: {error}", modifier_text(*modifier))]
    Import {
        /// DRM format modifier of the buffers.
        modifier: u64,
        /// Error of the import.
        error: String,
    },
    /// No modifier is left to offer: the producer's DMA-BUFs of every modifier failed to import.
    #[error("none of the producer's DMA-BUFs could be imported")]
    NoModifierLeft,
    /// wlr-screencopy offers no DMA-BUF.
    #[error(
        "the compositor offers no DMA-BUF because it renders without the GPU; give the desktop access to the \
         render node (its group), and set WLR_RENDERER=gles2"
    )]
    CompositorWithoutDmaBuf,
    /// The compositor lacks `zwp_linux_dmabuf_v1`.
    #[error("the compositor lacks zwp_linux_dmabuf_v1")]
    NoLinuxDmabuf,
    /// Allocating a buffer on the render node failed.
    #[error("no buffer could be allocated on the render node: {0}")]
    Allocation(String),
    /// The compositor rejected the sidecar's buffer.
    #[error("the compositor rejected a DMA-BUF in format {0} with modifier INVALID")]
    BufferRejected(String),
    /// The offered format or size is not supported for DMA-BUF.
    #[error("the DMA-BUF offer is not supported: {0}")]
    Unsupported(String),
    /// The compositor copies into DMA-BUFs with the first row at the bottom.
    #[error("the compositor copies into DMA-BUFs upside down")]
    UpsideDown,
    /// Repeated copies into DMA-BUFs failed.
    #[error("the compositor failed to copy into DMA-BUFs")]
    CopyFailed,
}

/// Display form of a fourcc code.
pub(crate) fn fourcc_text(code: u32) -> String {
    let bytes = code.to_le_bytes();
    if bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        bytes.iter().map(|byte| char::from(*byte)).collect()
    } else {
        format!("{code:#010x}")
    }
}

/// Display form of a DRM format modifier.
pub(crate) fn modifier_text(modifier: u64) -> String {
    match modifier {
        MOD_INVALID => "INVALID".to_owned(),
        MOD_LINEAR => "LINEAR".to_owned(),
        other => format!("{other:#x}"),
    }
}

/// `DRM_FORMAT_MOD_INVALID` (`drm_fourcc.h`): the layout is implicit, chosen by the driver.
pub(crate) const MOD_INVALID: u64 = 0x00ff_ffff_ffff_ffff;
/// `DRM_FORMAT_MOD_LINEAR` (`drm_fourcc.h`).
pub(crate) const MOD_LINEAR: u64 = 0;
