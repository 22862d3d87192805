//! What goes over the WebSocket. The page's `viewer.js` is the other end.
//!
//! Server to viewer, binary, little-endian: one access unit.
//!
//! | offset | size | field                                                                         |
//! |--------|------|-------------------------------------------------------------------------------|
//! | 0      | 1    | version, 1                                                                    |
//! | 1      | 1    | flags: 1 IDR, 2 repeat, 4 discontinuity, 8 backlog (decode, don't look)       |
//! | 2      | 2    | zero                                                                          |
//! | 4      | 8    | seq: the frame's number                                                       |
//! | 12     | 8    | capture time, ns of the server machine's `CLOCK_MONOTONIC`                    |
//! | 20     | 8    | time of sending, ns of the same clock                                         |
//! | 28     |      | Annex B                                                                       |
//!
//! Server to viewer, text: `{"type":"info",…}` at the start and on change, `{"type":"time",…}` as answer.
//! Viewer to server, text: [`FromViewer`], at most [`MAX_FROM_VIEWER`] bytes. Nothing else.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::hub::{Description, Unit};

/// Version of the binary message.
pub const VERSION: u8 = 1;
/// Bytes before the access unit.
pub const HEADER_BYTES: usize = 28;
/// Longest message that a viewer may send.
pub const MAX_FROM_VIEWER: usize = 1 << 10;

/// An IDR.
pub const FLAG_IDR: u8 = 1;
/// A still picture again.
pub const FLAG_REPEAT: u8 = 2;
/// Doesn't follow the unit before it.
pub const FLAG_DISCONTINUITY: u8 = 4;
/// Made before this viewer came.
pub const FLAG_BACKLOG: u8 = 8;

/// A unit as a binary message.
pub fn encode_unit(unit: &Unit, sent_ns: u64) -> Bytes {
    let flags = [
        (unit.au.idr, FLAG_IDR),
        (unit.au.repeat, FLAG_REPEAT),
        (unit.discontinuity, FLAG_DISCONTINUITY),
        (unit.backlog, FLAG_BACKLOG),
    ];
    let flags = flags.iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag);
    let mut out = BytesMut::with_capacity(HEADER_BYTES + unit.au.data.len());
    out.put_slice(&[VERSION, flags, 0, 0]);
    out.put_u64_le(unit.au.seq);
    out.put_u64_le(unit.au.capture_ns);
    out.put_u64_le(sent_ns);
    out.put_slice(&unit.au.data);
    out.freeze()
}

/// Texts to a viewer.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ToViewer<'a> {
    /// What the stream is.
    Info(&'a Description),
    /// Answer to [`FromViewer::Time`].
    Time {
        /// As it was sent.
        t0: f64,
        /// `CLOCK_MONOTONIC` when it was answered, us: exact in a JavaScript number for 285 years.
        server_us: u64,
    },
}

/// Texts from a viewer.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum FromViewer {
    /// The decoder needs an IDR.
    Keyframe,
    /// For the clock offset: what time is it there?
    Time {
        /// The viewer's clock, given back.
        t0: f64,
    },
    /// What the viewer measured.
    Stats {
        /// Frames drawn per second.
        #[serde(default)]
        fps: f32,
        /// Median time from capture to drawn, ms.
        #[serde(default)]
        latency_ms: f32,
        /// Frames left out.
        #[serde(default)]
        dropped: u64,
    },
}

#[cfg(test)]
mod tests {
    use protocol::stream::AccessUnit;

    use super::*;

    #[test]
    fn a_unit_byte_by_byte() {
        let au = AccessUnit {
            seq: 0x0102_0304_0506_0708,
            capture_ns: 9,
            idr: true,
            repeat: true,
            queue_us: 5,
            encode_us: 6,
            data: Bytes::from_static(&[0, 0, 1, 0x65]),
        };
        let unit = Unit { au, published_ns: 1, discontinuity: true, backlog: true };
        let golden = [
            1, 15, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            0x65,
        ];
        assert_eq!(&encode_unit(&unit, 255)[..], golden);
    }

    #[test]
    fn texts_both_ways() {
        let info = serde_json::to_value(ToViewer::Info(&Description::default())).expect("is JSON");
        for key in ["type", "name", "rung", "reason", "width", "height", "encoder", "codec", "viewers"] {
            assert!(info.get(key).is_some(), "{key}");
        }
        assert_eq!(info["type"], "info");
        let parse = |text| serde_json::from_str::<FromViewer>(text).ok();
        assert_eq!(parse(r#"{"type":"keyframe"}"#), Some(FromViewer::Keyframe));
        assert_eq!(parse(r#"{"type":"time","t0":1.5}"#), Some(FromViewer::Time { t0: 1.5 }));
        assert_eq!(parse(r#"{"type":"input","key":"a"}"#), None);
    }
}
