//! Caps of both elements.
//!
//! A mapped virtio-gpu DMA-BUF shows zeros, since its pixels are on the host, so such buffers are never offered as plain
//! `video/x-raw`. Two forms describe them: `video/x-raw(memory:DMABuf),format=BGRx`, and since GStreamer 1.24
//! `format=DMA_DRM,drm-format=XR24`. The older form is preferred because it carries no modifier: virgl has none.

use gstreamer as gst;
use gstreamer_allocators::CAPS_FEATURE_MEMORY_DMABUF as DMABUF;
use gstreamer_video::VideoFormat;
use protocol::PixelFormat;
use protocol::pixel::MAX_SIDE;
use protocol::stream::MAX_FPS;

/// Memory of a picture, and the form of its caps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// DMA-BUF in the form that all GStreamer versions accept.
    DmaBuf,
    /// DMA-BUF in the form of GStreamer 1.24 and later.
    DmaDrm,
    /// System memory.
    System,
}

/// Properties of a picture that caps describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Video {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Pixel format.
    pub format: PixelFormat,
    /// Memory of the pixels.
    pub memory: Memory,
    /// Maximum frame rate, if the caps contain one.
    pub fps: Option<u16>,
}

/// Supported formats with GStreamer's and DRM's names.
const FORMATS: [(PixelFormat, VideoFormat, &str); 4] = [
    (PixelFormat::Bgrx, VideoFormat::Bgrx, "XR24"),
    (PixelFormat::Bgra, VideoFormat::Bgra, "AR24"),
    (PixelFormat::Rgbx, VideoFormat::Rgbx, "XB24"),
    (PixelFormat::Rgba, VideoFormat::Rgba, "AB24"),
];

/// True if the GStreamer at run time supports `DMA_DRM`. The one at compile time may not.
fn supports_dma_drm() -> bool {
    gst::version() >= (1, 24, 0, 0)
}

/// GStreamer's format.
pub fn video_format(format: PixelFormat) -> VideoFormat {
    find(|(ours, ..)| *ours == format).map_or(VideoFormat::Unknown, |(_, theirs, _)| theirs)
}

fn find(
    predicate: impl Fn(&(PixelFormat, VideoFormat, &str)) -> bool,
) -> Option<(PixelFormat, VideoFormat, &'static str)> {
    FORMATS.into_iter().find(predicate)
}

/// Template caps of both elements.
pub fn template() -> gst::Caps {
    let raw = || {
        gst::Structure::builder("video/x-raw")
            .field("width", gst::IntRange::new(1, MAX_SIDE as i32))
            .field("height", gst::IntRange::new(1, MAX_SIDE as i32))
            .field(
                "framerate",
                gst::FractionRange::new(gst::Fraction::new(0, 1), gst::Fraction::new(i32::MAX, 1)),
            )
    };
    let names = || gst::List::new(FORMATS.map(|(_, theirs, _)| theirs.to_str()));
    let mut caps = gst::Caps::new_empty();
    let all = caps.make_mut();
    all.append_structure_full(raw().field("format", names()).build(), Some(gst::CapsFeatures::new([DMABUF])));
    if supports_dma_drm() {
        let drm = raw()
            .field("format", "DMA_DRM")
            .field("drm-format", gst::List::new(FORMATS.map(|(.., drm)| drm)));
        all.append_structure_full(drm.build(), Some(gst::CapsFeatures::new([DMABUF])));
    }
    all.append_structure(raw().field("format", names()).build());
    caps
}

/// True if `caps` allow a DMA-BUF.
pub fn has_dmabuf(caps: &gst::CapsRef) -> bool {
    caps.is_any() || caps.iter_with_features().any(|(_, features)| features.contains(DMABUF))
}

/// Caps that the encoder does not support.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "unsupported caps {0}: insert videoconvert before the element for system memory, or request format BGRx"
)]
pub struct CapsError(String);

impl Video {
    /// Parses fixed caps.
    pub fn parse(caps: &gst::CapsRef) -> Result<Self, CapsError> {
        Self::try_parse(caps).ok_or_else(|| CapsError(caps.to_string()))
    }

    fn try_parse(caps: &gst::CapsRef) -> Option<Self> {
        let (raw, features) = caps.iter_with_features().next()?;
        let side = |name| {
            let side = u32::try_from(raw.get::<i32>(name).ok()?).ok()?;
            (1..=MAX_SIDE).contains(&side).then_some(side)
        };
        let name: String = raw.get("format").ok()?;
        let (memory, format) = if !features.contains(DMABUF) {
            (Memory::System, find(|(_, theirs, _)| theirs.to_str() == name.as_str())?.0)
        } else if name == "DMA_DRM" {
            let drm: String = raw.get("drm-format").ok()?;
            (Memory::DmaDrm, find(|(.., code)| *code == drm)?.0)
        } else {
            (Memory::DmaBuf, find(|(_, theirs, _)| theirs.to_str() == name.as_str())?.0)
        };
        let rate = |name| raw.get::<gst::Fraction>(name).ok().filter(|rate| rate.numer() > 0);
        let fps = rate("framerate")
            .or_else(|| rate("max-framerate"))
            .map(|rate| (rate.numer() + rate.denom() - 1) / rate.denom())
            .map(|fps| u16::try_from(fps).unwrap_or(MAX_FPS).clamp(1, MAX_FPS));
        Some(Self { width: side("width")?, height: side("height")?, format, memory, fps })
    }

    /// Caps of this picture. Frames arrive when the desktop draws, so the rate is variable, at most `fps`.
    pub fn caps(&self) -> gst::Caps {
        let (_, theirs, drm) = find(|(ours, ..)| *ours == self.format).unwrap_or(FORMATS[0]);
        let mut raw = gst::Structure::builder("video/x-raw")
            .field("width", self.width as i32)
            .field("height", self.height as i32)
            .field("framerate", gst::Fraction::new(0, 1));
        if let Some(fps) = self.fps {
            raw = raw.field("max-framerate", gst::Fraction::new(fps.into(), 1));
        }
        let raw = match self.memory {
            Memory::DmaDrm => raw.field("format", "DMA_DRM").field("drm-format", drm),
            Memory::DmaBuf | Memory::System => raw.field("format", theirs.to_str()),
        };
        let mut caps = gst::Caps::new_empty();
        let features = (self.memory != Memory::System).then(|| gst::CapsFeatures::new([DMABUF]));
        caps.make_mut().append_structure_full(raw.build(), features);
        caps
    }
}

/// Debug category of an element.
pub fn category(name: &str, description: &str) -> gst::DebugCategory {
    gst::DebugCategory::new(name, gst::DebugColorFlags::empty(), Some(description))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_round_trip_and_match_the_template() {
        gst::init().expect("GStreamer starts");
        let template = template();
        for memory in [Memory::DmaBuf, Memory::DmaDrm, Memory::System] {
            for (format, ..) in FORMATS {
                let video = Video { width: 1280, height: 720, format, memory, fps: Some(60) };
                let caps = video.caps();
                assert_eq!(Video::parse(&caps).expect("supported"), video, "{caps}");
                let offered = memory != Memory::DmaDrm || supports_dma_drm();
                assert_eq!(caps.is_subset(&template), offered, "{caps}");
                assert_eq!(has_dmabuf(&caps), memory != Memory::System, "{caps}");
            }
        }
    }

    #[test]
    fn dma_buf_caps_do_not_intersect_system_memory() {
        gst::init().expect("GStreamer starts");
        let video =
            Video { width: 64, height: 64, format: PixelFormat::Bgrx, memory: Memory::DmaBuf, fps: None };
        let plain: gst::Caps = "video/x-raw,format=BGRx".parse().expect("caps");
        assert!(!video.caps().can_intersect(&plain));
    }

    #[test]
    fn unsupported_caps_error_names_the_remedy() {
        gst::init().expect("GStreamer starts");
        for text in [
            "video/x-raw,format=I420,width=64,height=64",
            "video/x-raw,format=BGRx,width=0,height=64",
            "video/x-raw,format=BGRx,width=9000,height=64",
            "video/x-raw(memory:DMABuf),format=DMA_DRM,drm-format=XR24:0x0100000000000002,width=64,height=64",
        ] {
            let caps: gst::Caps = text.parse().expect("caps");
            let error = Video::parse(&caps).expect_err(text);
            assert!(error.to_string().contains("videoconvert"), "{error}");
        }
    }

    #[test]
    fn frame_rate_is_rounded_up_and_clamped() {
        gst::init().expect("GStreamer starts");
        for (rate, expected) in
            [("30000/1001", Some(30)), ("0/1", None), ("1000/1", Some(MAX_FPS)), ("1/2", Some(1))]
        {
            let text = format!("video/x-raw,format=BGRx,width=64,height=64,framerate={rate}");
            let caps: gst::Caps = text.parse().expect("caps");
            assert_eq!(Video::parse(&caps).expect("supported").fps, expected, "{rate}");
        }
    }
}
