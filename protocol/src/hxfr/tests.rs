use proptest::prelude::*;

use super::*;

fn request(bytes: &[u8]) -> Result<Request, DecodeError> {
    let (header, payload) = split(bytes);
    Request::decode(Header::decode(header, request_limit)?, payload)
}

fn reply(bytes: &[u8]) -> Result<Reply, DecodeError> {
    let (header, payload) = split(bytes);
    Reply::decode(Header::decode(header, reply_limit)?, payload)
}

fn split(bytes: &[u8]) -> ([u8; HEADER_BYTES], Bytes) {
    let (header, payload) = bytes.split_first_chunk().expect("a header");
    (*header, Bytes::copy_from_slice(payload))
}

fn frame() -> Frame {
    Frame {
        resource: 0x0102_0304,
        width: 2,
        height: 1,
        format: PixelFormat::Bgra,
        stride: 8,
        pts: -2,
        duration: 0x10,
        keyframe: true,
        pixels: Some(Bytes::from_static(&[9; 8])),
    }
}

/// The bytes of the predecessor's packed structures.
#[rustfmt::skip]
const FRAME: &[u8] = &[
    0x48, 0x58, 0x46, 0x52, 0x01, 0x01, 0x07, 0x00, 52, 0, 0, 0,
    4, 3, 2, 1, 2, 0, 0, 0, 1, 0, 0, 0, b'A', b'R', b'2', b'4', 8, 0, 0, 0,
    0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x10, 0, 0, 0, 0, 0, 0, 0,
    1, 0, 0, 0, 0, 0, 0, 0,
    9, 9, 9, 9, 9, 9, 9, 9,
];

#[rustfmt::skip]
const ANSWER: &[u8] = &[
    0x48, 0x58, 0x46, 0x52, 0x02, 0x00, 0x01, 0x00, 33, 0, 0, 0,
    1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,
    5, 0, 0, 0, 0, 0, 0, 1, 0x65,
];

#[test]
fn messages_have_exact_bytes() {
    assert_eq!(Request::Frame(frame()).encode(7), FRAME);
    assert_eq!(request(FRAME), Ok(Request::Frame(frame())));
    let answer =
        Reply::Frame { pts: 1, dts: 2, keyframe: true, units: vec![Bytes::from_static(&[0, 0, 0, 1, 0x65])] };
    assert_eq!(answer.encode(1), ANSWER);
    assert_eq!(reply(ANSWER), Ok(answer));
    assert_eq!(Request::Ping.encode(0), [0x48, 0x58, 0x46, 0x52, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Reply::Pong.encode(0), [0x48, 0x58, 0x46, 0x52, 0x11, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Request::Keyframe.encode(0)[4], 0x03);
    assert_eq!(Reply::Configured.encode(0)[4], 0x05);
    let config = Config { width: 2, height: 3, bitrate: 4, fps_num: 5, fps_den: 6 };
    let bytes = Request::Config(config).encode(0);
    assert_eq!(bytes[12..32], [2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0]);
    assert_eq!(bytes.len(), 40);
    let error = Reply::Error { code: -2, message: "no".to_owned() }.encode(0);
    assert_eq!(error.len(), HEADER_BYTES + 260);
    assert_eq!(error[8..20], [4, 1, 0, 0, 0xFE, 0xFF, 0xFF, 0xFF, b'n', b'o', 0, 0]);
}

#[test]
fn malformed_message_is_refused() {
    for (at, value) in [(0, 0x49), (4, 0x30), (11, 0xFF), (16, 0), (16 + 3, 1), (24, b'x')] {
        let mut bytes = FRAME.to_vec();
        bytes[at] = value;
        assert!(request(&bytes).is_err(), "byte {at} is {value}");
    }
    for len in 0..44 {
        let header = Header { kind: 1, flags: 1, session: 0, len };
        assert!(
            Request::decode(header, Bytes::copy_from_slice(&FRAME[12..12 + len as usize])).is_err(),
            "{len}"
        );
    }
    let mut no_flag = FRAME.to_vec();
    no_flag[5] = 0;
    assert_eq!(request(&no_flag), Err(DecodeError::Trailing(8)));
    let mut many = ANSWER.to_vec();
    many[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(reply(&many), Err(DecodeError::TooLarge { field: "units", .. })));
}

#[test]
fn long_error_is_cut_at_a_character_boundary() {
    let message = "ä".repeat(200);
    let Ok(Reply::Error { message: cut, .. }) = reply(&Reply::Error { code: -1, message }.encode(0)) else {
        panic!("not an error reply");
    };
    assert_eq!(cut, "ä".repeat(127));
}

fn frames() -> impl Strategy<Value = Frame> {
    let numbers = (any::<u32>(), 1..=MAX_SIDE, 1..=MAX_SIDE, any::<u32>(), any::<i64>(), any::<i64>());
    let format = proptest::sample::select(PixelFormat::ALL.to_vec());
    let pixels = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100));
    (numbers, format, any::<bool>(), pixels).prop_map(|(numbers, format, keyframe, pixels)| {
        let (resource, width, height, stride, pts, duration) = numbers;
        let pixels = pixels.map(Bytes::from);
        Frame { resource, width, height, format, stride, pts, duration, keyframe, pixels }
    })
}

proptest! {
    #[test]
    fn frame_round_trips(frame in frames(), session in any::<u16>()) {
        prop_assert_eq!(request(&Request::Frame(frame.clone()).encode(session)), Ok(Request::Frame(frame)));
    }

    #[test]
    fn reply_round_trips(
        (pts, dts, keyframe) in any::<(i64, i64, bool)>(),
        units in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..5),
    ) {
        let units = units.into_iter().map(Bytes::from).collect();
        let answer = Reply::Frame { pts, dts, keyframe, units };
        prop_assert_eq!(reply(&answer.encode(3)), Ok(answer));
    }

    #[test]
    fn any_payload_is_decoded_without_panic(kind in any::<u8>(), flags in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let header = Header { kind, flags, session: 0, len: payload.len() as u32 };
        let _ = Request::decode(header, Bytes::from(payload.clone()));
        let _ = Reply::decode(header, Bytes::from(payload));
    }
}
