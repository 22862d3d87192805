//! The HXFR protocol as the element `vsockenc` uses it.

use bytes::Bytes;
use contract::Endpoint;
use encode::annexb;
use host_agent::config::Options;
use protocol::PixelFormat;
use protocol::hxfr::{
    Config, Frame, HEADER_BYTES, Header, Reply, Request, error_code, reply_limit, request_limit,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::rig::{Rig, TIMEOUT};

struct Element {
    stream: TcpStream,
}

impl Element {
    async fn connect(rig: &Rig) -> Self {
        let Endpoint::Tcp { host, port } = &rig.daemon.hxfr[0] else { panic!("not TCP") };
        Self { stream: TcpStream::connect((host.as_str(), *port)).await.expect("connected") }
    }

    async fn send(&mut self, request: &Request) {
        self.stream.write_all(&request.encode(7)).await.expect("written");
    }

    /// The next reply; `None` if the host closed the connection.
    async fn reply(&mut self) -> Option<Reply> {
        let mut header = [0; HEADER_BYTES];
        timeout(TIMEOUT, self.stream.read_exact(&mut header)).await.expect("in time").ok()?;
        let header = Header::decode(header, reply_limit).expect("a header");
        assert_eq!(header.session, 7, "the request's session");
        let mut payload = vec![0; header.len as usize];
        self.stream.read_exact(&mut payload).await.expect("a payload");
        Some(Reply::decode(header, payload.into()).expect("decoded"))
    }

    async fn frame(&mut self, frame: Frame) -> Reply {
        self.send(&Request::Frame(frame)).await;
        self.reply().await.expect("a reply")
    }
}

async fn rig() -> Rig {
    let hxfr = vec!["tcp://127.0.0.1:0".parse().expect("an endpoint")];
    Rig::with(Options { hxfr, encoder: Some("x264enc".to_owned()), ..Options::default() }).await
}

fn frame(pts: i64, (width, height): (u32, u32), padding: u32) -> Frame {
    let stride = 4 * width + padding;
    Frame {
        resource: 0,
        width,
        height,
        format: PixelFormat::Bgra,
        stride,
        pts,
        duration: 16_000_000,
        keyframe: false,
        pixels: Some(Bytes::from(vec![0x60; (stride * height) as usize])),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_encoded_with_their_timestamps_and_keyframes() {
    let rig = rig().await;
    let mut element = Element::connect(&rig).await;
    for number in 0..10 {
        // Timestamps may go back.
        let request = Frame { keyframe: number == 6, ..frame(1000 - number, (64, 48), 16) };
        let Reply::Frame { pts, keyframe, units, .. } = element.frame(request).await else {
            panic!("not a frame")
        };
        assert_eq!((pts, keyframe), (1000 - number, number == 0 || number == 6));
        assert_eq!(annexb::is_entry_point(&units.concat()), keyframe);
    }
    element.send(&Request::Keyframe).await;
    assert!(matches!(element.frame(frame(0, (64, 48), 0)).await, Reply::Frame { keyframe: true, .. }));
    assert_eq!(rig.status().await.totals["pictures_encoded"], 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn frame_of_another_size_starts_a_new_stream() {
    let rig = rig().await;
    let mut element = Element::connect(&rig).await;
    for (width, height) in [(64, 48), (128, 96)] {
        let Reply::Frame { keyframe, units, .. } = element.frame(frame(0, (width, height), 0)).await else {
            panic!("not a frame")
        };
        let sps = annexb::sps(&units.concat()).expect("an SPS");
        assert!(keyframe && (sps.width, sps.height) == (width, height));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn config_and_ping_are_answered() {
    let rig = rig().await;
    let mut element = Element::connect(&rig).await;
    element.send(&Request::Ping).await;
    assert_eq!(element.reply().await, Some(Reply::Pong));
    for (fps_num, fps_den, bitrate) in [(60, 1, 2_000_000), (0, 0, 0), (u32::MAX, 1, u32::MAX)] {
        element.send(&Request::Config(Config { width: 64, height: 48, bitrate, fps_num, fps_den })).await;
        assert_eq!(element.reply().await, Some(Reply::Configured));
        assert!(matches!(element.frame(frame(0, (64, 48), 0)).await, Reply::Frame { .. }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_without_pixels_is_refused() {
    let rig = rig().await;
    let mut element = Element::connect(&rig).await;
    let request = Frame { resource: 12, pixels: None, ..frame(0, (64, 48), 0) };
    let Reply::Error { code, message } = element.frame(request).await else { panic!("not an error") };
    assert_eq!(code, error_code::RESOURCE);
    assert!(message.contains("sidecar") && message.contains("12"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_frame_is_refused_and_the_connection_continues() {
    let rig = rig().await;
    let mut element = Element::connect(&rig).await;
    for malformed in [
        Frame { stride: 8, ..frame(0, (64, 48), 0) },
        Frame { stride: u32::MAX, ..frame(0, (64, 48), 0) },
        Frame { pixels: Some(Bytes::from_static(&[0; 10])), ..frame(0, (64, 48), 0) },
    ] {
        assert!(matches!(element.frame(malformed).await, Reply::Error { code: error_code::ENCODE, .. }));
    }
    assert!(matches!(element.frame(frame(0, (64, 48), 0)).await, Reply::Frame { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_header_ends_its_own_connection_only() {
    let rig = rig().await;
    assert_eq!(request_limit(0x30), None);
    let unknown = Header { kind: 0x30, flags: 0, session: 7, len: 4 }.encode();
    let too_large = Header { kind: 1, flags: 1, session: 7, len: u32::MAX }.encode();
    for bytes in [&unknown[..], &too_large, &[0xAA; 40]] {
        let mut element = Element::connect(&rig).await;
        element.stream.write_all(bytes).await.expect("written");
        assert_eq!(element.reply().await, None);
    }
    let mut element = Element::connect(&rig).await;
    element.send(&Request::Ping).await;
    assert_eq!(element.reply().await, Some(Reply::Pong));
}
