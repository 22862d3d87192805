//! Size of a desktop that follows the window of its viewer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Smallest width and height of a desktop that follows a viewer, pixels.
pub const MIN_SIZE: (u32, u32) = (320, 200);
/// Largest width and height of a desktop that follows a viewer, pixels.
pub const MAX_SIDE: u32 = 4096;
/// Largest number of pixels: what a host-agent encodes by default. It is within the frame size of H.264 level 5.1 (ITU-T H.264,
/// table A-1), 36,864 macroblocks.
pub const MAX_PIXELS: u32 = 3840 * 2160;
/// Steps of a scale: quarters. Compositors round others to the steps of `wp_fractional_scale_v1`, 120ths.
const SCALE_STEPS: f64 = 4.0;
/// Largest scale.
const MAX_SCALE: f64 = 4.0;

/// Policy over the size of a desktop: the side that chooses it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SizePolicy {
    /// The desktop.
    #[default]
    Fixed,
    /// The viewer in control: the desktop has the size of its window.
    FollowViewer,
}

impl SizePolicy {
    /// All policies.
    pub const ALL: [Self; 2] = [Self::Fixed, Self::FollowViewer];

    /// Name on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::FollowViewer => "follow-viewer",
        }
    }
}

impl fmt::Display for SizePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SizePolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == text);
        found.ok_or_else(|| format!("invalid size policy {text:?}: write fixed or follow-viewer"))
    }
}

/// Size and scale of a desktop, within the limits of this module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DisplaySize {
    width: u32,
    height: u32,
    scale: f64,
}

impl DisplaySize {
    /// The size closest to a window of `width` × `height` device pixels with `scale` device pixels per logical pixel. Width and
    /// height are even, as 4:2:0 subsampling demands. `None` if a value is not a finite number.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the limits")]
    pub fn fit(width: f64, height: f64, scale: f64) -> Option<Self> {
        if ![width, height, scale].into_iter().all(f64::is_finite) {
            return None;
        }
        let (side, pixels) = (f64::from(MAX_SIDE), f64::from(MAX_PIXELS));
        // Beyond four times the limit the aspect ratio is not kept.
        let width = width.clamp(f64::from(MIN_SIZE.0), 4.0 * side);
        let height = height.clamp(f64::from(MIN_SIZE.1), 4.0 * side);
        let shrink = (side / width).min(side / height).min((pixels / (width * height)).sqrt()).min(1.0);
        let even = |length: f64, min: u32| ((length * shrink / 2.0) as u32 * 2).max(min);
        let scale = (scale * shrink * SCALE_STEPS).round() / SCALE_STEPS;
        Some(Self {
            width: even(width, MIN_SIZE.0),
            height: even(height, MIN_SIZE.1),
            scale: scale.clamp(1.0, MAX_SCALE),
        })
    }

    /// Width in pixels.
    pub const fn width(self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub const fn height(self) -> u32 {
        self.height
    }

    /// Pixels per logical pixel, 1 to 4.
    pub const fn scale(self) -> f64 {
        self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(width: f64, height: f64, scale: f64) -> (u32, u32, f64) {
        let size = DisplaySize::fit(width, height, scale).expect("finite");
        (size.width(), size.height(), size.scale())
    }

    #[test]
    fn size_within_the_limits_is_rounded_to_even_numbers() {
        assert_eq!(fit(1280.0, 720.0, 1.0), (1280, 720, 1.0));
        assert_eq!(fit(1281.9, 719.0, 1.1), (1280, 718, 1.0));
        assert_eq!(fit(2560.0, 1440.0, 1.5), (2560, 1440, 1.5));
    }

    #[test]
    fn size_beyond_the_limits_is_reduced_with_its_scale() {
        let (width, height, scale) = fit(7680.0, 4320.0, 2.0);
        assert_eq!((width, height), (3840, 2160));
        assert!((1.0..1.25).contains(&scale), "{scale}");
        let (width, height, _) = fit(8000.0, 8000.0, 1.0);
        assert!(width == height && width * height <= MAX_PIXELS, "{width}x{height}");
    }

    #[test]
    fn extreme_sizes_are_limited_and_others_refused() {
        assert_eq!(fit(-5.0, 0.0, 0.0), (320, 200, 1.0));
        for (width, height) in [(1e300, 1.0), (1.0, 1e300), (1e300, 1e300)] {
            let (width, height, _) = fit(width, height, 1e300);
            assert!((MIN_SIZE.0..=MAX_SIDE).contains(&width) && (MIN_SIZE.1..=MAX_SIDE).contains(&height));
            assert!(width * height <= MAX_PIXELS && width % 2 == 0 && height % 2 == 0);
        }
        assert_eq!(DisplaySize::fit(f64::NAN, 1.0, 1.0), None);
        assert_eq!(DisplaySize::fit(1.0, f64::INFINITY, 1.0), None);
        assert_eq!(DisplaySize::fit(1.0, 1.0, f64::NAN), None);
    }

    #[test]
    fn size_policy_is_parsed_by_its_name() {
        for policy in SizePolicy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        assert!("full".parse::<SizePolicy>().expect_err("refused").contains("follow-viewer"));
    }
}
