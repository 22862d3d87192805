//! Caps: what both elements say of a picture, and what they understand.
//!
//! A virtio-gpu DMA-BUF that is mapped holds zeros (its pixels are on the host), so it is never called plain
//! `video/x-raw`. It has two names: `video/x-raw(memory:DMABuf),format=BGRx`, which every GStreamer knows, and
//! since 1.24 `format=DMA_DRM,drm-format=XR24`. The older one comes first: it says nothing of a modifier, and
//! on virgl there is none to say.

use gstreamer as gst;
use gstreamer_allocators::CAPS_FEATURE_MEMORY_DMABUF as DMABUF;
use gstreamer_video::VideoFormat;
use protocol::PixelFormat;
use protocol::pixel::MAX_SIDE;
use protocol::stream::MAX_FPS;

/// Where a picture's pixels are, and how caps say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// In a DMA-BUF, named as every GStreamer does.
    DmaBuf,
    /// In a DMA-BUF, named as GStreamer does since 1.24.
    DmaDrm,
    /// In memory that can be read.
    System,
}

/// What caps say of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Video {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Layout of a pixel.
    pub format: PixelFormat,
    /// Where the pixels are.
    pub memory: Memory,
    /// Highest frame rate, if they say one.
    pub fps: Option<u16>,
}

/// Our formats, and GStreamer's names for them.
const FORMATS: [(PixelFormat, VideoFormat, &str); 4] = [
    (PixelFormat::Bgrx, VideoFormat::Bgrx, "XR24"),
    (PixelFormat::Bgra, VideoFormat::Bgra, "AR24"),
    (PixelFormat::Rgbx, VideoFormat::Rgbx, "XB24"),
    (PixelFormat::Rgba, VideoFormat::Rgba, "AB24"),
];

/// Whether the GStreamer that runs knows `DMA_DRM`; the one we were compiled with need not.
fn knows_dma_drm() -> bool {
    gst::version() >= (1, 24, 0, 0)
}

/// GStreamer's name of a format.
pub fn video_format(format: PixelFormat) -> VideoFormat {
    find(|(ours, ..)| *ours == format).map_or(VideoFormat::Unknown, |(_, theirs, _)| theirs)
}

fn find(
    is_it: impl Fn(&(PixelFormat, VideoFormat, &str)) -> bool,
) -> Option<(PixelFormat, VideoFormat, &'static str)> {
    FORMATS.into_iter().find(is_it)
}

/// Everything that the elements can give or take.
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
    if knows_dma_drm() {
        let drm = raw()
            .field("format", "DMA_DRM")
            .field("drm-format", gst::List::new(FORMATS.map(|(.., drm)| drm)));
        all.append_structure_full(drm.build(), Some(gst::CapsFeatures::new([DMABUF])));
    }
    all.append_structure(raw().field("format", names()).build());
    caps
}

/// Whether any of `caps` is a DMA-BUF.
pub fn has_dmabuf(caps: &gst::CapsRef) -> bool {
    caps.is_any() || caps.iter_with_features().any(|(_, features)| features.contains(DMABUF))
}

/// Why caps are of no use to the encoder.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0} are no caps of ours: put videoconvert before the element for system memory, or ask for BGRx")]
pub struct CapsError(String);

impl Video {
    /// What fixed caps say.
    pub fn parse(caps: &gst::CapsRef) -> Result<Self, CapsError> {
        Self::understand(caps).ok_or_else(|| CapsError(caps.to_string()))
    }

    fn understand(caps: &gst::CapsRef) -> Option<Self> {
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

    /// Caps that say this. Frames come when the desktop draws: the rate is variable, up to `fps`.
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

/// The debug category of an element.
pub fn category(name: &str, what: &str) -> gst::DebugCategory {
    gst::DebugCategory::new(name, gst::DebugColorFlags::empty(), Some(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_say_and_mean_the_same() {
        gst::init().expect("GStreamer starts");
        let template = template();
        for memory in [Memory::DmaBuf, Memory::DmaDrm, Memory::System] {
            for (format, ..) in FORMATS {
                let video = Video { width: 1280, height: 720, format, memory, fps: Some(60) };
                let caps = video.caps();
                assert_eq!(Video::parse(&caps).expect("ours"), video, "{caps}");
                let offered = memory != Memory::DmaDrm || knows_dma_drm();
                assert_eq!(caps.is_subset(&template), offered, "{caps}");
                assert_eq!(has_dmabuf(&caps), memory != Memory::System, "{caps}");
            }
        }
    }

    #[test]
    fn a_dma_buf_is_never_plain_memory() {
        gst::init().expect("GStreamer starts");
        let video =
            Video { width: 64, height: 64, format: PixelFormat::Bgrx, memory: Memory::DmaBuf, fps: None };
        let plain: gst::Caps = "video/x-raw,format=BGRx".parse().expect("caps");
        assert!(!video.caps().can_intersect(&plain));
    }

    #[test]
    fn what_is_not_ours_is_refused_in_words() {
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
    fn rates_are_rounded_up_and_bounded() {
        gst::init().expect("GStreamer starts");
        for (rate, expected) in
            [("30000/1001", Some(30)), ("0/1", None), ("1000/1", Some(MAX_FPS)), ("1/2", Some(1))]
        {
            let text = format!("video/x-raw,format=BGRx,width=64,height=64,framerate={rate}");
            let caps: gst::Caps = text.parse().expect("caps");
            assert_eq!(Video::parse(&caps).expect("ours").fps, expected, "{rate}");
        }
    }
}
