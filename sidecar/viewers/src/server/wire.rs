//! Messages of the viewers' WebSocket. The other end is the page's `viewer.js`.
//!
//! Server to viewer, binary, little-endian: one access unit, or one packet of sound.
//!
//! | offset | size | field                                                                         |
//! |--------|------|-------------------------------------------------------------------------------|
//! | 0      | 1    | version, 1                                                                    |
//! | 1      | 1    | flags: 1 IDR, 2 repeat, 4 discontinuity, 8 backlog; sound: 4                  |
//! | 2      | 1    | kind: 0 access unit, 1 sound                                                  |
//! | 3      | 1    | zero                                                                          |
//! | 4      | 8    | frame number; sound: packet number                                            |
//! | 12     | 8    | capture time, ns of the server's `CLOCK_MONOTONIC`; sound: of the first sample |
//! | 20     | 8    | time of sending, ns of the same clock                                         |
//! | 28     |      | access unit, Annex B; sound: Opus packet of 10 ms, 48 kHz, stereo             |
//!
//! A viewer receives sound while it asks for it by `{"type":"sound","on":true}`. Silence has no packets.
//!
//! [`clipboard`] describes messages with the content of a clipboard; their first byte differs.
//!
//! Server to viewer, text: `{"type":"info",…}`, `{"type":"input",…}`, `{"type":"sound",…}`, `{"type":"cursor",…}` and `{"type":"clipboard",…}` at the
//! start and after changes, `{"type":"time",…}` as a reply. Viewer to server, text: [`FromViewer`], at most [`MAX_FROM_VIEWER`]
//! bytes. Any other message closes the connection.

pub mod clipboard;

use bytes::{BufMut, Bytes, BytesMut};
use contract::clipboard::Format;
use contract::input::{ControlPolicy, InputEvent};
use serde::{Deserialize, Serialize};

use self::clipboard::{Announcement, ClipboardInfo, Stored};
use crate::hub::{Description, Unit};
use crate::sound::SoundPacket;

/// Version of the binary message.
pub const VERSION: u8 = 1;
/// Size of the header in bytes.
pub const HEADER_BYTES: usize = 28;
/// Maximum size of a text message from a viewer in bytes: [`contract::input::MAX_EVENTS`] events, or a text of the longest.
pub const MAX_FROM_VIEWER: usize = 8 << 10;

/// The unit is an IDR.
pub const FLAG_IDR: u8 = 1;
/// The unit repeats an unchanged picture.
pub const FLAG_REPEAT: u8 = 2;
/// The unit does not continue the preceding one.
pub const FLAG_DISCONTINUITY: u8 = 4;
/// The unit is from the GOP cache, to be decoded without regard to its age.
pub const FLAG_BACKLOG: u8 = 8;

/// Kind of a binary message with an access unit.
pub const KIND_UNIT: u8 = 0;
/// Kind of a binary message with a packet of sound.
pub const KIND_SOUND: u8 = 1;

/// Encodes a unit as a binary message.
pub fn encode_unit(unit: &Unit, sent_ns: u64) -> Bytes {
    let flags = [
        (unit.au.idr, FLAG_IDR),
        (unit.au.repeat, FLAG_REPEAT),
        (unit.discontinuity, FLAG_DISCONTINUITY),
        (unit.backlog, FLAG_BACKLOG),
    ];
    let flags = flags.iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag);
    encode([flags, KIND_UNIT], unit.au.seq, unit.au.capture_ns, sent_ns, &unit.au.data)
}

/// Encodes a packet of sound as a binary message.
pub fn encode_sound(packet: &SoundPacket, sent_ns: u64) -> Bytes {
    let flags = if packet.discontinuity { FLAG_DISCONTINUITY } else { 0 };
    encode([flags, KIND_SOUND], packet.seq, packet.capture_ns, sent_ns, &packet.data)
}

fn encode([flags, kind]: [u8; 2], seq: u64, capture_ns: u64, sent_ns: u64, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + data.len());
    out.put_slice(&[VERSION, flags, kind, 0]);
    out.put_u64_le(seq);
    out.put_u64_le(capture_ns);
    out.put_u64_le(sent_ns);
    out.put_slice(data);
    out.freeze()
}

/// Text message to a viewer.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ToViewer<'a> {
    /// Description of the stream.
    Info(&'a Description),
    /// Reply to [`FromViewer::Time`].
    Time {
        /// `t0` of the request.
        t0: f64,
        /// Time of the reply in microseconds of `CLOCK_MONOTONIC`; exact in a JavaScript number for 285 years.
        server_us: u64,
    },
    /// The viewer's access to the input.
    Input(&'a InputInfo),
    /// The desktop's sound.
    Sound {
        /// True while sound is captured.
        running: bool,
        /// Reason why it cannot be captured, with a remedy; empty if it can, or while no viewer listens.
        reason: &'a str,
    },
    /// The viewer's access to the clipboard.
    Clipboard(&'a ClipboardInfo),
    /// Content of the desktop's clipboard.
    Selection(&'a Announcement),
    /// Result of [`FromViewer::Selection`].
    Stored(&'a Stored),
    /// The desktop's cursor.
    Cursor(CursorMessage<'a>),
}

/// Change of the desktop's cursor.
#[derive(Debug, Serialize)]
pub struct CursorMessage<'a> {
    /// Position of the hotspot as fractions of the picture; `None` if it is elsewhere or not known.
    pub position: Option<[f64; 2]>,
    /// Shape, if it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<ShapeMessage<'a>>,
}

/// Shape of the desktop's cursor.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ShapeMessage<'a> {
    /// The picture has the cursor.
    InPicture,
    /// The desktop hides the cursor.
    Hidden,
    /// The cursor is not known.
    Arrow,
    /// An image.
    Image {
        /// PNG file in Base64.
        png: &'a str,
        /// Width in pixels of the desktop.
        width: u32,
        /// Height in pixels of the desktop.
        height: u32,
        /// Position of the hotspot in the image, pixels.
        hotspot: [u32; 2],
    },
}

/// A viewer's access to the input of the desktop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputInfo {
    /// Number of the viewer's session.
    pub you: u64,
    /// True if the viewer's token allows control.
    pub allowed: bool,
    /// Policy of the desktop.
    pub policy: ControlPolicy,
    /// Session that has control.
    pub controller: Option<u64>,
    /// Sessions that asked for control.
    pub requests: Vec<u64>,
    /// Protocol by which events are injected; `None` while they cannot be.
    pub backend: Option<&'static str>,
    /// Reason why events cannot be injected; empty if they can, or if control is disabled.
    pub reason: String,
    /// Keyboard layouts with their descriptions, in the first message only.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub layouts: &'static [(&'static str, &'static str)],
}

/// Change of control that a viewer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlAction {
    /// Takes control.
    Take,
    /// Asks the viewer in control to give it.
    Request,
    /// Gives control to another viewer, or up.
    Give,
}

/// Text message from a viewer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum FromViewer {
    /// Request for a keyframe.
    Keyframe,
    /// Request for the server's time, to measure the clock offset.
    Time {
        /// The viewer's clock, returned in the reply.
        t0: f64,
    },
    /// Events to inject in order, at most [`contract::input::MAX_EVENTS`].
    Input {
        /// Events in their order.
        events: Vec<InputEvent>,
    },
    /// Request for a change of control.
    Control {
        /// Requested change.
        action: ControlAction,
        /// Session that control is given to; if absent, control is given up.
        #[serde(default)]
        to: Option<u64>,
    },
    /// Request for the desktop's sound, or for its end.
    Sound {
        /// True if the viewer wants to receive sound.
        on: bool,
    },
    /// Size of the viewer's window, which the desktop follows if it is to.
    Size {
        /// Width in device pixels.
        width: f64,
        /// Height in device pixels.
        height: f64,
        /// Device pixels per logical pixel.
        scale: f64,
    },
    /// Content of the viewer's clipboard.
    Selection(Announcement),
    /// Formats in which the viewer wants contents of the desktop's clipboard.
    Accepts {
        /// Formats; none to end it.
        formats: Vec<Format>,
    },
    /// The viewer's statistics.
    Stats {
        /// Frames drawn per second.
        #[serde(default)]
        fps: f32,
        /// Median time from capture to drawing in milliseconds.
        #[serde(default)]
        latency_ms: f32,
        /// Number of frames that were not drawn.
        #[serde(default)]
        dropped: u64,
    },
}

#[cfg(test)]
mod tests {
    use contract::FramePath;
    use protocol::stream::AccessUnit;

    use super::clipboard::Chunk;
    use super::*;
    use crate::hub::StreamInfo;

    #[test]
    fn unit_message_matches_its_golden_bytes() {
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
    fn sound_message_matches_its_golden_bytes() {
        let data = Bytes::from_static(&[0xfc, 0xff]);
        let packet = SoundPacket { seq: 3, capture_ns: 0x0102, discontinuity: true, data };
        let golden =
            [1, 4, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0xfc, 0xff];
        assert_eq!(&encode_sound(&packet, 9)[..], golden);
    }

    #[test]
    fn picture_sound_and_clipboard_differ_in_their_headers() {
        let data = Bytes::from_static(&[1; 9]);
        let packet = SoundPacket { seq: 1, capture_ns: 2, discontinuity: false, data: data.clone() };
        let (sound, chunk) = (encode_sound(&packet, 3), Chunk { id: 4, format: Format::Text, bytes: data });
        // The page reads the first byte, and the kind only if it is the version.
        assert_eq!((sound[0], sound[2]), (VERSION, KIND_SOUND));
        let chunk = chunk.encode();
        assert_eq!((chunk[0], chunk[2]), (clipboard::TAG, KIND_SOUND), "the format of a text");
        assert_eq!(Chunk::decode(&sound), None);
    }

    #[test]
    fn info_message_has_the_fields_that_the_page_reads() {
        let info = StreamInfo { frame_path: Some(FramePath::ResourceId), ..StreamInfo::default() };
        let description = Description { info, ..Description::default() };
        let message = serde_json::to_value(ToViewer::Info(&description)).expect("JSON");
        for key in ["name", "reason", "width", "height", "encoder", "codec", "viewers"] {
            assert!(message.get(key).is_some(), "{key}");
        }
        assert_eq!((&message["type"], &message["frame_path"]), (&"info".into(), &"ResourceId".into()));
    }

    #[test]
    fn viewer_messages_parse_and_unknown_ones_are_refused() {
        let parse = |text| serde_json::from_str::<FromViewer>(text).ok();
        assert_eq!(parse(r#"{"type":"keyframe"}"#), Some(FromViewer::Keyframe));
        assert_eq!(parse(r#"{"type":"time","t0":1.5}"#), Some(FromViewer::Time { t0: 1.5 }));
        assert_eq!(
            parse(r#"{"type":"stats","fps":60,"latency_ms":8.5,"dropped":3}"#),
            Some(FromViewer::Stats { fps: 60.0, latency_ms: 8.5, dropped: 3 })
        );
        let key = r#"{"type":"input","events":[{"t":"key","code":"KeyA","down":true}]}"#;
        assert!(matches!(parse(key), Some(FromViewer::Input { events }) if events.len() == 1));
        assert_eq!(
            parse(r#"{"type":"control","action":"give","to":3}"#),
            Some(FromViewer::Control { action: ControlAction::Give, to: Some(3) })
        );
        assert_eq!(parse(r#"{"type":"sound","on":true}"#), Some(FromViewer::Sound { on: true }));
        let selection = r#"{"type":"selection","id":7,"parts":[{"format":"text/html","bytes":3}]}"#;
        assert!(
            matches!(parse(selection), Some(FromViewer::Selection(it)) if it.id == 7 && it.parts.len() == 1)
        );
        let accepts = r#"{"type":"accepts","formats":["text/plain","image/png"]}"#;
        let formats = vec![Format::Text, Format::Png];
        assert_eq!(parse(accepts), Some(FromViewer::Accepts { formats }));
        assert_eq!(parse(r#"{"type":"accepts","formats":["image/gif"]}"#), None);
        assert_eq!(parse(r#"{"type":"selection","id":7,"parts":[],"more":1}"#), None);
        assert_eq!(parse(r#"{"type":"input","key":"a"}"#), None);
        assert_eq!(parse(r#"{"type":"control","action":"steal"}"#), None);
    }
}
