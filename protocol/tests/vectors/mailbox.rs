//! Bytes of the mailbox's requests and answers.

use protocol::mailbox::{Answer, FrameRequest, Operation, Request, Status};
use protocol::{PixelFormat, Rect};

use super::Vector;

/// Requests of a sidecar.
pub fn requests() -> Vec<Vector<Request>> {
    vec![
        Vector {
            name: "echo",
            hex: "44534d42 01 01 0000  # DSMB, version 1, echo
                  0100000000000000
                  00000000000000000000000000000000 00000000000000000000000000000000
                  00000000000000000000000000000000",
            message: Request { seq: 1, operation: Operation::Echo },
        },
        Vector {
            name: "bind",
            hex: "44534d42 01 02 0000
                  0807060504030201
                  101112131415161718191a1b1c1d1e1f
                  00000000000000000000000000000000 00000000000000000000000000000000",
            message: Request {
                seq: 0x0102_0304_0506_0708,
                operation: Operation::Bind([
                    0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e,
                    0x1f,
                ]),
            },
        },
        frame(
            "frame_bgrx",
            "44534d42 01 03 0000
             0200000000000000
             2a000000 58523234 8007 3804 001e0000  # resource 42, XR24, 1920 x 1080, stride 7680
             0100 0200 0300 0400                   # damage
             1817161514131211                      # capture time
             00000000000000000000000000000000",
            PixelFormat::Bgrx,
        ),
        frame(
            "frame_bgra",
            "44534d42 01 03 0000 0200000000000000
             2a000000 41523234 8007 3804 001e0000
             0100 0200 0300 0400 1817161514131211
             00000000000000000000000000000000",
            PixelFormat::Bgra,
        ),
        frame(
            "frame_rgbx",
            "44534d42 01 03 0000 0200000000000000
             2a000000 58423234 8007 3804 001e0000
             0100 0200 0300 0400 1817161514131211
             00000000000000000000000000000000",
            PixelFormat::Rgbx,
        ),
        frame(
            "frame_rgba",
            "44534d42 01 03 0000 0200000000000000
             2a000000 41423234 8007 3804 001e0000
             0100 0200 0300 0400 1817161514131211
             00000000000000000000000000000000",
            PixelFormat::Rgba,
        ),
    ]
}

fn frame(name: &'static str, hex: &'static str, format: PixelFormat) -> Vector<Request> {
    let frame = FrameRequest {
        resource: 42,
        format,
        width: 1920,
        height: 1080,
        stride: 7680,
        damage: Rect { x: 1, y: 2, width: 3, height: 4 },
        capture_ns: 0x1112_1314_1516_1718,
    };
    Vector { name, hex, message: Request { seq: 2, operation: Operation::Frame(frame) } }
}

macro_rules! answers {
    ($($name:literal = $number:literal $status:ident),+ $(,)?) => {
        vec![$(Vector {
            name: $name,
            hex: concat!(
                "0807060504030201 ", $number, "000000  # seq, status
                 40420f00 03000000 0201               # 1 ms, 3 dropped, tap version
                 0000 0000000000000000
                 00000000000000000000000000000000 00000000000000000000000000000000",
            ),
            message: Answer {
                seq: 0x0102_0304_0506_0708,
                status: Status::$status,
                spent_ns: 1_000_000,
                dropped: 3,
                tap_version: 0x0102,
            },
        }),+]
    };
}

/// Answers of a tap.
pub fn answers() -> Vec<Vector<Answer>> {
    answers!(
        "ok" = "00" Ok,
        "bad_request" = "01" BadRequest,
        "unknown_resource" = "02" UnknownResource,
        "not_attached" = "03" NotAttached,
        "not_bound" = "04" NotBound,
        "bad_format" = "05" BadFormat,
        "bad_box" = "06" BadBox,
        "rate_limited" = "07" RateLimited,
        "read_failed" = "08" ReadFailed,
        "disabled" = "09" Disabled,
        "no_host_agent" = "0a" NoHostAgent,
        "too_large" = "0b" TooLarge,
    )
}
