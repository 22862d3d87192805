//! Bytes of HXFR messages, with session 0x0107.

use bytes::Bytes;
use protocol::PixelFormat;
use protocol::hxfr::{Config, Frame, Reply, Request};

use super::Vector;

/// Session number of all vectors.
pub const SESSION: u16 = 0x0107;

/// Messages of a guest.
pub fn requests() -> Vec<Vector<Request>> {
    let frame = |pixels| {
        Request::Frame(Frame {
            resource: 0x0102_0304,
            width: 2,
            height: 1,
            format: PixelFormat::Bgrx,
            stride: 8,
            pts: -2,
            duration: 16,
            keyframe: true,
            pixels,
        })
    };
    vec![
        Vector {
            name: "frame",
            hex: "48584652 01 00 0701 2c000000         # 44 bytes
                  04030201 02000000 01000000 58523234 08000000
                  feffffffffffffff 1000000000000000 01 00000000000000",
            message: frame(None),
        },
        Vector {
            name: "frame_with_pixels",
            hex: "48584652 01 01 0701 34000000
                  04030201 02000000 01000000 58523234 08000000
                  feffffffffffffff 1000000000000000 01 00000000000000
                  0909090909090909",
            message: frame(Some(Bytes::from_static(&[9; 8]))),
        },
        Vector { name: "keyframe", hex: "48584652 03 00 0701 00000000", message: Request::Keyframe },
        Vector {
            name: "config",
            hex: "48584652 04 00 0701 1c000000
                  80070000 38040000 00127a00 3c000000 01000000  # 1920 x 1080, 8 Mbit/s, 60/1
                  0000000000000000",
            message: Request::Config(Config {
                width: 1920,
                height: 1080,
                bitrate: 8_000_000,
                fps_num: 60,
                fps_den: 1,
            }),
        },
        Vector { name: "ping", hex: "48584652 10 00 0701 00000000", message: Request::Ping },
    ]
}

/// Messages of a host.
pub fn replies() -> Vec<Vector<Reply>> {
    vec![
        Vector {
            name: "answer",
            hex: "48584652 02 00 0701 27000000
                  0100000000000000 0200000000000000 01 000000
                  02000000                              # two units
                  05000000 00000001 67
                  02000000 aabb",
            message: Reply::Frame {
                pts: 1,
                dts: 2,
                keyframe: true,
                units: vec![Bytes::from_static(&[0, 0, 0, 1, 0x67]), Bytes::from_static(&[0xaa, 0xbb])],
            },
        },
        Vector { name: "configured", hex: "48584652 05 00 0701 00000000", message: Reply::Configured },
        Vector { name: "pong", hex: "48584652 11 00 0701 00000000", message: Reply::Pong },
        Vector {
            name: "error",
            hex: concat!(
                "48584652 ff 00 0701 04010000  feffffff 6e6f ", // -2, "no", and 254 zeros
                "00000000000000000000000000000000 00000000000000000000000000000000",
                "00000000000000000000000000000000 00000000000000000000000000000000",
                "00000000000000000000000000000000 00000000000000000000000000000000",
                "00000000000000000000000000000000 00000000000000000000000000000000",
                "00000000000000000000000000000000 00000000000000000000000000000000",
                "00000000000000000000000000000000 00000000000000000000000000000000",
                "00000000000000000000000000000000 00000000000000000000000000000000",
                "00000000000000000000000000000000 0000000000000000000000000000",
            ),
            message: Reply::Error { code: -2, message: "no".into() },
        },
    ]
}
