//! Pixel formats and rectangles, shared by all wire formats.

use crate::wire::{DecodeError, saturate};

/// Largest width or height of a frame in pixels. It bounds every allocation for pixels: 8192 x 8192
/// x 4 bytes is 256 MiB.
pub const MAX_SIDE: u32 = 8192;

/// Memory layout of a frame. On the wire it is a DRM fourcc code (`drm_fourcc.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// `DRM_FORMAT_XRGB8888`: bytes B, G, R, X.
    Bgrx,
    /// `DRM_FORMAT_ARGB8888`: bytes B, G, R, A.
    Bgra,
    /// `DRM_FORMAT_XBGR8888`: bytes R, G, B, X.
    Rgbx,
    /// `DRM_FORMAT_ABGR8888`: bytes R, G, B, A.
    Rgba,
    /// `DRM_FORMAT_NV12`: a plane of Y, then a plane of interleaved Cb and Cr at half the width and
    /// height; BT.709, limited range.
    Nv12,
}

const fn fourcc(code: [u8; 4]) -> u32 {
    u32::from_le_bytes(code)
}

impl PixelFormat {
    /// All formats.
    pub const ALL: [Self; 5] = [Self::Bgrx, Self::Bgra, Self::Rgbx, Self::Rgba, Self::Nv12];

    /// The DRM fourcc code.
    pub const fn fourcc(self) -> u32 {
        match self {
            Self::Bgrx => fourcc(*b"XR24"),
            Self::Bgra => fourcc(*b"AR24"),
            Self::Rgbx => fourcc(*b"XB24"),
            Self::Rgba => fourcc(*b"AB24"),
            Self::Nv12 => fourcc(*b"NV12"),
        }
    }

    /// The format with this DRM fourcc code.
    ///
    /// # Errors
    /// [`DecodeError::Unknown`] if it is none of [`PixelFormat::ALL`].
    pub fn from_fourcc(code: u32) -> Result<Self, DecodeError> {
        Self::ALL
            .into_iter()
            .find(|format| format.fourcc() == code)
            .ok_or(DecodeError::Unknown { what: "pixel format", value: code })
    }

    /// Size of a tightly packed frame in bytes. Saturates at `usize::MAX`, far above [`MAX_SIDE`].
    pub const fn bytes(self, width: u32, height: u32) -> usize {
        let pixels = (width as usize).saturating_mul(height as usize);
        match self {
            Self::Nv12 => {
                let blocks = (width.div_ceil(2) as usize).saturating_mul(height.div_ceil(2) as usize);
                pixels.saturating_add(blocks.saturating_mul(2))
            }
            Self::Bgrx | Self::Bgra | Self::Rgbx | Self::Rgba => pixels.saturating_mul(4),
        }
    }
}

/// A rectangle in pixels, origin at the top left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

impl Rect {
    /// The rectangle as the four `u16` fields x, y, width and height of all wire formats.
    pub(crate) fn to_wire(self) -> [u16; 4] {
        [self.x, self.y, self.width, self.height].map(saturate)
    }

    /// The rectangle that [`Rect::to_wire`] wrote.
    pub(crate) fn from_wire(fields: [u16; 4]) -> Self {
        let [x, y, width, height] = fields.map(u32::from);
        Self { x, y, width, height }
    }

    /// The rectangle that covers a frame of this size.
    pub const fn full(width: u32, height: u32) -> Self {
        Self { x: 0, y: 0, width, height }
    }

    /// True if it is not empty and lies inside a frame of this size.
    pub fn fits(&self, width: u32, height: u32) -> bool {
        self.width > 0
            && self.height > 0
            && self.x.checked_add(self.width).is_some_and(|right| right <= width)
            && self.y.checked_add(self.height).is_some_and(|bottom| bottom <= height)
    }

    /// The smallest rectangle that contains both. An empty rectangle is ignored. Edges saturate at
    /// `u32::MAX`.
    pub fn union(self, other: Self) -> Self {
        if self.width == 0 || self.height == 0 {
            return other;
        }
        if other.width == 0 || other.height == 0 {
            return self;
        }
        let x = self.x.min(other.x);
        let y = self.y.min(other.y);
        let right = self.x.saturating_add(self.width).max(other.x.saturating_add(other.width));
        let bottom = self.y.saturating_add(self.height).max(other.y.saturating_add(other.height));
        Self { x, y, width: right - x, height: bottom - y }
    }
}
