//! Every limit: a value at the limit is accepted, one beyond it is refused with the error that names it.

use std::fmt::Debug;

use bytes::Bytes;
use protocol::frame::{Header, Message};
use protocol::link::{FromTap, ToTap};
use protocol::mailbox::{FrameRequest, Operation, Request};
use protocol::pixel::MAX_SIDE;
use protocol::stream::{self, ClientMessage, ServerMessage};
use protocol::{DecodeError, PixelFormat, Rect};

#[test]
fn pixels_of_the_largest_frame_are_accepted_and_more_refused() {
    let whole = Rect::full(MAX_SIDE, MAX_SIDE);
    let format = PixelFormat::Bgrx;
    let side = MAX_SIDE as u16;
    let data = Bytes::from(vec![0; format.bytes(MAX_SIDE, MAX_SIDE)]);
    let pixels =
        stream::Pixels { seq: 1, capture_ns: 1, format, width: side, height: side, rects: vec![whole], data };
    assert_eq!(pixels.check(), Ok(()));
    let encoded = ClientMessage::Pixels(pixels.clone()).encode();
    let (head, fields) = encoded.head.split_first_chunk().expect("header");
    let header = Header::decode(*head, ClientMessage::limit).expect("within the limit");
    assert_eq!(header.len as usize, fields.len() + encoded.body.len());

    // Twice as many pixels are refused by the sender's check and by the header's.
    let data = Bytes::from(vec![0; 2 * pixels.data.len()]);
    let twice = stream::Pixels { rects: vec![whole, whole], data, ..pixels };
    assert!(matches!(twice.check(), Err(DecodeError::TooLarge { field: "payload", .. })));
    let encoded = ClientMessage::Pixels(twice).encode();
    let head = *encoded.head.first_chunk().expect("header");
    assert!(matches!(Header::decode(head, ClientMessage::limit), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn payload_longer_than_its_limit_is_refused() {
    for limit in
        [ClientMessage::limit, ServerMessage::limit, <FromTap as Message>::limit, <ToTap as Message>::limit]
    {
        for (kind, most) in (0..=u8::MAX).filter_map(|kind| limit(kind).map(|most| (kind, most))) {
            let longest = Header { len: most, kind };
            assert_eq!(Header::decode(longest.encode(), limit), Ok(longest));
            let longer = Header { len: most + 1, kind };
            let (got, limit_is) = (longer.len.into(), most.into());
            assert_eq!(
                Header::decode(longer.encode(), limit),
                Err(DecodeError::TooLarge { field: "payload", got, limit: limit_is })
            );
        }
    }
}

/// Sequence number 0 marks an unused slot.
#[test]
fn request_with_sequence_number_zero_is_refused() {
    let request = Request { seq: 0, operation: Operation::Echo };
    assert_eq!(Request::decode(&request.encode()), Err(DecodeError::Invalid("sequence number is 0")));
}

#[test]
fn field_over_its_limit_is_refused_with_its_name() {
    fn refused<T: Message + Debug + PartialEq>(kind: u8, payload: &[u8]) -> DecodeError {
        T::decode(Header { len: payload.len() as u32, kind }, Bytes::copy_from_slice(payload))
            .expect_err("over a limit")
    }
    let text = |len: u16| [&len.to_le_bytes()[..], &vec![b'x'; len.into()]].concat();
    let hello = |token, client| [&b"DSST\x01\0\x01\0"[..], &text(token), &text(client)].concat();
    assert_eq!(
        refused::<ClientMessage>(1, &hello(4097, 0)),
        DecodeError::TooLarge { field: "token", got: 4097, limit: 4096 }
    );
    assert_eq!(
        refused::<ClientMessage>(1, &hello(0, 257)),
        DecodeError::TooLarge { field: "client", got: 257, limit: 256 }
    );
    assert_eq!(
        refused::<ServerMessage>(0x83, &text(257)),
        DecodeError::TooLarge { field: "reason", got: 257, limit: 256 }
    );
    let bind = [&[0; 28][..], &text(129)].concat();
    assert_eq!(refused::<FromTap>(2, &bind), DecodeError::TooLarge { field: "name", got: 129, limit: 128 });
    assert_eq!(refused::<ServerMessage>(0x84, &[2, 0, 0xff, 0xfe]), DecodeError::NotUtf8("encoder"));
    assert_eq!(
        refused::<ToTap>(0x84, &[1, 1]),
        DecodeError::TooLarge { field: "number of nonces", got: 257, limit: 256 }
    );
    assert_eq!(refused::<FromTap>(6, &[0; 17]), DecodeError::Unknown { what: "ring refusal", value: 0 });
    assert_eq!(refused::<ToTap>(0x81, b"DSSX\x01\0"), DecodeError::BadMagic(u32::from_le_bytes(*b"DSSX")));

    let pixels = |width: u16, height: u16, rects: u8| {
        [&[0; 16][..], b"NV12", &width.to_le_bytes(), &height.to_le_bytes(), &[rects]].concat()
    };
    assert_eq!(
        refused::<ClientMessage>(3, &pixels(8193, 1, 1)),
        DecodeError::TooLarge { field: "width", got: 8193, limit: 8192 }
    );
    assert_eq!(
        refused::<ClientMessage>(3, &pixels(8, 8, 17)),
        DecodeError::TooLarge { field: "rectangles", got: 17, limit: 16 }
    );
    assert_eq!(
        refused::<ClientMessage>(3, &pixels(8, 8, 0)),
        DecodeError::Invalid("the number of rectangles must be between 1 and 16")
    );
    // Each edge is odd in turn. Odd edges at the frame's edge are valid (golden vectors).
    for [x, y, w, h] in [[1_u16, 0, 1, 2], [0, 1, 2, 1], [0, 0, 3, 2], [0, 0, 2, 3]] {
        let rect = [x, y, w, h].map(u16::to_le_bytes).concat();
        let need = PixelFormat::Nv12.bytes(w.into(), h.into());
        let odd = [pixels(8, 8, 1), rect, vec![0; need]].concat();
        let error = refused::<ClientMessage>(3, &odd);
        assert_eq!(error, DecodeError::Invalid("an NV12 rectangle has odd edges"), "{x} {y} {w} {h}");
    }
    // In 16 bits the sum 65535 + 65535 would wrap to a value inside the frame.
    let far = [pixels(8, 8, 1), vec![0xff; 8]].concat();
    assert_eq!(
        refused::<ClientMessage>(3, &far),
        DecodeError::Invalid("a rectangle is empty or outside the frame")
    );

    // The frame rate limit of a `Configure`.
    for fps in [0_u16, 241, u16::MAX] {
        let config = [&[64, 0, 64, 0][..], b"NV12", &fps.to_le_bytes(), &[0; 4], &[0; 4], &[1, 1]].concat();
        assert_eq!(
            refused::<ClientMessage>(2, &config),
            DecodeError::Invalid("the frame rate limit must be between 1 and 240")
        );
    }
    assert_eq!(
        refused::<ServerMessage>(0x85, &[&[0; 16][..], &[4], &[0; 8]].concat()),
        DecodeError::Unknown { what: "access unit flag", value: 4 }
    );
}

#[test]
fn frame_request_over_a_limit_is_refused() {
    let good = FrameRequest {
        resource: 1,
        format: PixelFormat::Bgrx,
        width: MAX_SIDE as u16,
        height: MAX_SIDE as u16,
        stride: 4 * MAX_SIDE,
        damage: Rect::full(8, 8),
        capture_ns: 0,
    };
    let decode = |frame| Request::decode(&Request { seq: 1, operation: Operation::Frame(frame) }.encode());
    assert!(decode(good).is_ok());
    let sides = Err(DecodeError::Invalid("width and height must be between 1 and 8192"));
    for side in [0, MAX_SIDE as u16 + 1, u16::MAX] {
        assert_eq!(decode(FrameRequest { width: side, ..good }), sides, "{side} wide");
        assert_eq!(decode(FrameRequest { height: side, ..good }), sides, "{side} high");
    }
    let nv12 = PixelFormat::Nv12;
    assert_eq!(
        decode(FrameRequest { format: nv12, ..good }),
        Err(DecodeError::Unknown { what: "pixel format", value: nv12.fourcc() })
    );
    // In 16 bits the sum 65535 + 65535 would wrap to a value inside the frame.
    let far = Rect { x: 0xffff, y: 0xffff, width: 0xffff, height: 0xffff };
    for damage in [far, Rect::default(), Rect::full(MAX_SIDE + 1, 1), Rect::full(1, MAX_SIDE + 1)] {
        assert_eq!(
            decode(FrameRequest { damage, ..good }),
            Err(DecodeError::Invalid("damage must not be empty or outside the frame")),
            "{damage:?}"
        );
    }
}
