//! Pixel formats and rectangles, as all protocols name them.

use crate::wire::{DecodeError, saturate};

/// The largest width or height that any part accepts. Bounds every allocation that follows a size:
/// 8192 x 8192 x 4 bytes is 256 MiB.
pub const MAX_SIDE: u32 = 8192;

/// A picture's memory layout. Values on the wire are DRM fourcc codes (`drm_fourcc.h`).
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
    /// `DRM_FORMAT_NV12`: a full plane of Y, then a half-size plane of interleaved Cb, Cr;
    /// BT.709, limited range.
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

    /// The format of a DRM fourcc code, if it is one that we carry.
    pub fn from_fourcc(code: u32) -> Result<Self, DecodeError> {
        Self::ALL
            .into_iter()
            .find(|format| format.fourcc() == code)
            .ok_or(DecodeError::Unknown { what: "pixel format", value: code })
    }

    /// Bytes of a tightly packed picture of this size. Exact up to [`MAX_SIDE`] and far beyond; saturates
    /// where `usize` ends.
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
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl Rect {
    /// The four fields of 16 bits that all protocols carry, in this order.
    pub(crate) fn to_wire(self) -> [u16; 4] {
        [self.x, self.y, self.width, self.height].map(saturate)
    }

    /// What [`Rect::to_wire`] wrote.
    pub(crate) fn from_wire(fields: [u16; 4]) -> Self {
        let [x, y, width, height] = fields.map(u32::from);
        Self { x, y, width, height }
    }

    /// The whole of a picture.
    pub const fn full(width: u32, height: u32) -> Self {
        Self { x: 0, y: 0, width, height }
    }

    /// Whether it is not empty and lies in a picture of this size. Cannot overflow.
    pub fn fits(&self, width: u32, height: u32) -> bool {
        self.width > 0
            && self.height > 0
            && self.x.checked_add(self.width).is_some_and(|right| right <= width)
            && self.y.checked_add(self.height).is_some_and(|bottom| bottom <= height)
    }

    /// The smallest rectangle around both; an empty one counts as nothing. Edges saturate at `u32::MAX`.
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
