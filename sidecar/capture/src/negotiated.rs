//! What a source and we agreed on: for status and doctor.

use protocol::PixelFormat;

/// What was offered and what was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Which source: `wayland`, `pipewire (mutter)`, `pipewire`, `testpattern`.
    pub source: String,
    /// Everything that was offered, a line each.
    pub offered: Vec<String>,
    /// What was taken, in words.
    pub taken: String,
    /// Pixel layout.
    pub format: PixelFormat,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Buffers are DMA-BUFs.
    pub dmabuf: bool,
    /// Why they are not; `None` if they are.
    pub reason: Option<String>,
}

/// A fourcc or SPA name as people know it.
pub fn fourcc_text(code: u32) -> String {
    let bytes = code.to_le_bytes();
    if bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        bytes.iter().map(|byte| char::from(*byte)).collect()
    } else {
        format!("{code:#010x}")
    }
}

/// A DRM format modifier as people know it.
pub fn modifier_text(modifier: u64) -> String {
    match modifier {
        MOD_INVALID => "INVALID".to_owned(),
        MOD_LINEAR => "LINEAR".to_owned(),
        other => format!("{other:#x}"),
    }
}

/// `DRM_FORMAT_MOD_INVALID`: "none said", the driver knows.
pub const MOD_INVALID: u64 = 0x00ff_ffff_ffff_ffff;
/// `DRM_FORMAT_MOD_LINEAR`.
pub const MOD_LINEAR: u64 = 0;
