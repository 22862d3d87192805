//! Bytes of the stream connection's messages.

use bytes::Bytes;
use protocol::stream::{AccessUnit, ClientMessage, Codec, Config, ErrorCode, Path, Pixels, ServerMessage};
use protocol::{PixelFormat, Rect};

use super::Vector;

/// Messages of a sidecar.
pub fn client() -> Vec<Vector<ClientMessage>> {
    vec![
        Vector {
            name: "hello",
            hex: "17000000 01 000000  # header: 23 bytes
                  44535354            # DSST
                  0100 0300           # versions 1 to 3
                  0500 61622e633d     # token
                  0600 c3a9 2f302e31  # client, two bytes of UTF-8 first",
            message: ClientMessage::Hello {
                min: 1,
                max: 3,
                token: "ab.c=".into(),
                client: "\u{e9}/0.1".into(),
            },
        },
        Vector {
            name: "configure",
            hex: "14000000 02 000000
                  8007 3804           # 1920 x 1080
                  58523234            # XR24
                  3c00                # 60 fps
                  401f0000            # 8000 kbit/s
                  d0070000            # 2000 ms
                  01 01               # H.264, by resource ID",
            message: ClientMessage::Configure(Config {
                width: 1920,
                height: 1080,
                format: PixelFormat::Bgrx,
                max_fps: 60,
                bitrate_kbps: 8000,
                keyframe_ms: 2000,
                codec: Codec::H264,
                path: Path::ResourceId,
            }),
        },
        Vector {
            name: "configure_largest",
            hex: "14000000 02 000000
                  0020 0020           # 8192 x 8192
                  4e563132            # NV12
                  f000                # 240 fps
                  ffffffff 00000000
                  02 02               # HEVC, by pixels",
            message: ClientMessage::Configure(Config {
                width: 8192,
                height: 8192,
                format: PixelFormat::Nv12,
                max_fps: 240,
                bitrate_kbps: u32::MAX,
                keyframe_ms: 0,
                codec: Codec::Hevc,
                path: Path::Pixels,
            }),
        },
        Vector {
            name: "pixels",
            hex: "29000000 03 000000
                  0807060504030201    # seq
                  1817161514131211    # capture time
                  41423234            # AB24
                  8007 3804
                  01                  # one rectangle
                  7e07 3704 0200 0100 # 2 x 1 at 1918, 1079
                  5e014d02 6f03aaff",
            message: ClientMessage::Pixels(Pixels {
                seq: 0x0102_0304_0506_0708,
                capture_ns: 0x1112_1314_1516_1718,
                format: PixelFormat::Rgba,
                width: 1920,
                height: 1080,
                rects: vec![Rect { x: 1918, y: 1079, width: 2, height: 1 }],
                data: Bytes::from_static(&[0x5e, 1, 0x4d, 2, 0x6f, 3, 0xaa, 0xff]),
            }),
        },
        Vector {
            name: "pixels_nv12",
            hex: "32000000 03 000000
                  0100000000000000 0000000000000000
                  4e563132
                  0500 0300           # 5 x 3: odd edges only at the frame's edge
                  02
                  0000 0000 0200 0200
                  0400 0200 0100 0100
                  10203040 8081       # Y, then Cb and Cr
                  50 8283",
            message: ClientMessage::Pixels(Pixels {
                seq: 1,
                capture_ns: 0,
                format: PixelFormat::Nv12,
                width: 5,
                height: 3,
                rects: vec![
                    Rect { x: 0, y: 0, width: 2, height: 2 },
                    Rect { x: 4, y: 2, width: 1, height: 1 },
                ],
                data: Bytes::from_static(&[0x10, 0x20, 0x30, 0x40, 0x80, 0x81, 0x50, 0x82, 0x83]),
            }),
        },
        Vector {
            name: "request_keyframe",
            hex: "00000000 04 000000",
            message: ClientMessage::RequestKeyframe,
        },
        Vector {
            name: "renew",
            hex: "07000000 05 000000  0500 61622e633d",
            message: ClientMessage::Renew { token: "ab.c=".into() },
        },
        Vector {
            name: "ping",
            hex: "08000000 06 000000  efcdab8967452301",
            message: ClientMessage::Ping(0x0123_4567_89ab_cdef),
        },
        Vector { name: "bye", hex: "00000000 07 000000", message: ClientMessage::Bye },
    ]
}

/// Messages of a host-agent.
pub fn server() -> Vec<Vector<ServerMessage>> {
    vec![
        Vector {
            name: "hello_ack",
            hex: "2a000000 81 000000
                  44535354 0100
                  0807060504030201                  # session
                  000102030405060708090a0b0c0d0e0f  # nonce
                  0200 00a41f00                     # two taps, 1920 * 1080 pixels
                  0400 686f7374                     # server",
            message: ServerMessage::HelloAck {
                version: 1,
                session: 0x0102_0304_0506_0708,
                nonce: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
                taps: 2,
                max_pixels: 1920 * 1080,
                server: "host".into(),
            },
        },
        Vector {
            name: "bound",
            hex: "0a000000 82 000000  07000000 0100 0200 766d",
            message: ServerMessage::Bound { context: 7, tap_version: 1, vm: "vm".into() },
        },
        Vector {
            name: "unbound",
            hex: "06000000 83 000000  0400 676f6e65",
            message: ServerMessage::Unbound { reason: "gone".into() },
        },
        Vector {
            name: "configured",
            hex: "06000000 84 000000  0400 78323634",
            message: ServerMessage::Configured { encoder: "x264".into() },
        },
        access_unit(
            "access_unit_idr",
            "1e000000 85 000000
             0500000000000000 0600000000000000 01
             64000000 b80b0000   # 100 us queued, 3000 us encoded
             00000001 65",
            true,
            false,
        ),
        access_unit(
            "access_unit_repeat",
            "1e000000 85 000000
             0500000000000000 0600000000000000 02
             64000000 b80b0000   # 100 us queued, 3000 us encoded
             00000001 65",
            false,
            true,
        ),
        access_unit(
            "access_unit_both",
            "1e000000 85 000000
             0500000000000000 0600000000000000 03
             64000000 b80b0000   # 100 us queued, 3000 us encoded
             00000001 65",
            true,
            true,
        ),
        Vector {
            name: "access_unit_empty",
            hex: "19000000 85 000000
                  ffffffffffffffff 0000000000000000 00 ffffffff 00000000",
            message: ServerMessage::AccessUnit(AccessUnit {
                seq: u64::MAX,
                capture_ns: 0,
                idr: false,
                repeat: false,
                queue_us: u32::MAX,
                encode_us: 0,
                data: Bytes::new(),
            }),
        },
        Vector {
            name: "dropped",
            hex: "08000000 86 000000  2a00000000000000",
            message: ServerMessage::Dropped { seq: 42 },
        },
        error("error_protocol", "08000000 87 000000  0100 0400 68656c70", ErrorCode::Protocol),
        error("error_version", "08000000 87 000000  0200 0400 68656c70", ErrorCode::Version),
        error("error_bad_token", "08000000 87 000000  0300 0400 68656c70", ErrorCode::BadToken),
        error("error_expired_token", "08000000 87 000000  0400 0400 68656c70", ErrorCode::ExpiredToken),
        error("error_capacity", "08000000 87 000000  0500 0400 68656c70", ErrorCode::Capacity),
        error("error_encoder", "08000000 87 000000  0600 0400 68656c70", ErrorCode::Encoder),
        error("error_replaced", "08000000 87 000000  0700 0400 68656c70", ErrorCode::Replaced),
        error("error_shutting_down", "08000000 87 000000  0800 0400 68656c70", ErrorCode::ShuttingDown),
        error("error_rate_limited", "08000000 87 000000  0900 0400 68656c70", ErrorCode::RateLimited),
        Vector {
            name: "pong",
            hex: "08000000 88 000000  efcdab8967452301",
            message: ServerMessage::Pong(0x0123_4567_89ab_cdef),
        },
    ]
}

fn access_unit(name: &'static str, hex: &'static str, idr: bool, repeat: bool) -> Vector<ServerMessage> {
    let data = Bytes::from_static(&[0, 0, 0, 1, 0x65]);
    let unit = AccessUnit { seq: 5, capture_ns: 6, idr, repeat, queue_us: 100, encode_us: 3000, data };
    Vector { name, hex, message: ServerMessage::AccessUnit(unit) }
}

fn error(name: &'static str, hex: &'static str, code: ErrorCode) -> Vector<ServerMessage> {
    Vector { name, hex, message: ServerMessage::Error { code, message: "help".into() } }
}
