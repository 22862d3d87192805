//! How frames leave the VM.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Path of a frame from the compositor to an encoder, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum FramePath {
    /// The virtio-gpu resource ID crosses the VM boundary; the tap reads the pixels on the host.
    ResourceId,
    /// Changed pixels cross the VM boundary as NV12 or RGB; the host-agent encodes them.
    Pixels,
    /// The sidecar encodes; only access units leave the container.
    Local,
}

impl FramePath {
    /// All paths, best first.
    pub const ALL: [Self; 3] = [Self::ResourceId, Self::Pixels, Self::Local];

    /// Name in JSON, in `DesktopStream.status` and in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ResourceId => "ResourceId",
            Self::Pixels => "Pixels",
            Self::Local => "Local",
        }
    }

    /// Name on command lines: lower case with hyphens.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::ResourceId => "resource-id",
            Self::Pixels => "pixels",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for FramePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that is not a frame path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid frame path {0:?}: write resource-id, pixels or local")]
pub struct FramePathError(String);

impl FromStr for FramePath {
    type Err = FramePathError;

    /// Accepts both spellings: `resource-id` and `ResourceId`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|path| path.name() == text || path.flag() == text)
            .ok_or_else(|| FramePathError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_frame_path_parses() {
        for path in FramePath::ALL {
            assert_eq!(path.name().parse(), Ok(path));
            assert_eq!(path.flag().parse(), Ok(path));
            assert_eq!(serde_json::to_value(path).expect("JSON"), path.name());
        }
        let error = "rung".parse::<FramePath>().expect_err("unknown");
        assert!(error.to_string().contains("resource-id"), "{error}");
    }
}
