//! The viewers' WebSocket: units and messages, slow viewers, limits, protocol violations, disconnection.

mod support;

use std::time::Duration;

use contract::FramePath;
use contract::clipboard::ClipboardPolicy;
use contract::input::ControlPolicy;
use futures_util::SinkExt;
use input::{Input, InputOptions};
use support::{Served, TOKEN, Viewer, fake, until, with_token, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use viewers::server::ServerOptions;
use viewers::server::wire::{FLAG_BACKLOG, FLAG_DISCONTINUITY, FLAG_IDR, HEADER_BYTES, KIND_SOUND, VERSION};
use viewers::{Hub, HubOptions, Server, SoundHub, SoundPacket, SoundState, StreamInfo};

/// Waits until the hub has `count` viewers.
async fn viewers(served: &Served, count: usize) {
    until("the number of viewers", || served.hub.viewers() == count).await;
}

#[tokio::test]
async fn new_viewer_receives_the_description_the_cached_gop_and_live_units() {
    let served = Served::start(ServerOptions::default()).await;
    let info = StreamInfo {
        name: "desk".into(),
        frame_path: Some(FramePath::Pixels),
        frame_path_reason: "no tap".into(),
        ..StreamInfo::default()
    };
    served.hub.set_info(info);
    for seq in 1..=3 {
        served.hub.publish(fake(seq, seq == 1, 100));
    }
    let mut viewer = served.viewer().await;
    let info = viewer.text("info").await;
    assert_eq!(
        (&info["name"], &info["frame_path"], &info["reason"]),
        (&"desk".into(), &"Pixels".into(), &"no tap".into())
    );
    assert_eq!(info["codec"], "avc1.42C01F");
    let first = viewer.unit().await;
    assert_eq!((first.seq, first.flags), (1, FLAG_IDR | FLAG_BACKLOG));
    assert!(first.sent_ns >= first.capture_ns && first.capture_ns > 0);
    assert_eq!(first.data, fake(1, true, 100).data);
    assert_eq!([viewer.unit().await.seq, viewer.unit().await.seq], [2, 3]);
    served.hub.publish(fake(4, false, 100));
    let live = viewer.unit().await;
    assert_eq!((live.seq, live.flags), (4, 0));
}

#[tokio::test]
async fn keyframe_is_requested_for_a_new_viewer_and_by_message() {
    let served = Served::start(ServerOptions::default()).await;
    let mut requests = served.hub.keyframe_requests();
    let mut viewer = served.viewer().await;
    within("a request for the new viewer", requests.next()).await.expect("open");
    served.hub.publish(fake(1, true, 50));
    viewer.unit().await;
    viewer.socket.send(Message::text(r#"{"type":"keyframe"}"#)).await.expect("sent");
    within("a request by message", requests.next()).await.expect("open");
}

#[tokio::test]
async fn time_request_is_answered_and_statistics_are_stored() {
    let served = Served::start(ServerOptions::default()).await;
    let mut viewer = served.viewer().await;
    let before = encode::clock::clock_ns() / 1000;
    viewer.socket.send(Message::text(r#"{"type":"time","t0":12.5}"#)).await.expect("sent");
    let time = viewer.text("time").await;
    assert_eq!(time["t0"], 12.5);
    let replied = time["server_us"].as_u64().expect("a number");
    let after = encode::clock::clock_ns() / 1000;
    assert!(
        (before..=after).contains(&replied),
        "{replied} is between {before} and {after}, by the same clock"
    );
    let stats = r#"{"type":"stats","fps":60,"latency_ms":8.5,"dropped":3}"#;
    viewer.socket.send(Message::text(stats)).await.expect("sent");
    until("a report", || !served.hub.viewer_reports().is_empty()).await;
    let reports = served.hub.viewer_reports();
    assert_eq!((reports[0].dropped, reports[0].fps.round() as i32), (3, 60));
}

#[tokio::test]
async fn viewer_that_does_not_read_loses_units_up_to_the_next_idr_and_others_lose_none() {
    // The quick viewer reads each unit before the next one is published, so only limits by number apply to it.
    let options = HubOptions { queue_units: 10, queue_age: Duration::MAX, ..HubOptions::default() };
    let served = Served::with(options, ServerOptions::default(), |server| server).await;
    let mut stuck = served.viewer().await;
    let mut quick = served.viewer().await;
    viewers(&served, 2).await;
    // 40 MB exceed the buffers of both sockets.
    for seq in 0..200 {
        served.hub.publish(fake(seq, seq == 0, 200_000));
        assert_eq!(quick.unit().await.seq, seq);
    }
    assert!(served.hub.metrics().units_dropped.get() > 100);
    // It receives the units in the socket buffers, then continues at the next IDR.
    served.hub.publish(fake(500, true, 1000));
    served.hub.publish(fake(501, false, 1000));
    let mut last = stuck.unit().await;
    assert_eq!(last.seq, 0);
    loop {
        let unit = stuck.unit().await;
        if unit.seq == 500 {
            assert_eq!(unit.flags, FLAG_IDR | FLAG_DISCONTINUITY);
            break;
        }
        assert_eq!(unit.seq, last.seq + 1, "no unit is missing before the IDR");
        last = unit;
    }
    assert_eq!(stuck.unit().await.seq, 501);
    assert_eq!(quick.unit().await.flags, FLAG_IDR, "the quick viewer lost no unit");
}

fn sound(seq: u64) -> SoundPacket {
    SoundPacket { seq, capture_ns: 7, discontinuity: seq == 0, data: vec![seq as u8; 100].into() }
}

/// True for a packet of sound. The third byte of a chunk of a clipboard is its format.
fn is_sound(message: &[u8]) -> bool {
    matches!(message, [VERSION, _, KIND_SOUND, ..])
}

/// The next packet of sound; skips other messages.
async fn next_sound(viewer: &mut Viewer) -> (u8, u64) {
    loop {
        if let Message::Binary(bytes) = viewer.message().await.expect("the connection is open")
            && is_sound(&bytes)
        {
            assert_eq!(bytes.len(), HEADER_BYTES + 100);
            return (bytes[1], u64::from_le_bytes(bytes[4..12].try_into().expect("8 bytes")));
        }
    }
}

#[tokio::test]
async fn sound_reaches_viewers_that_ask_for_it_until_they_end_it() {
    let hub = SoundHub::default();
    let with_sound = hub.clone();
    let served =
        Served::with(HubOptions::default(), ServerOptions::default(), |server| server.with_sound(with_sound))
            .await;
    let (mut listens, mut other) = (served.viewer().await, served.viewer().await);
    assert_eq!(
        listens.text("sound").await,
        serde_json::json!({"type": "sound", "running": false, "reason": ""})
    );
    other.text("sound").await;
    let mut wanted = hub.wanted();
    assert!(!*wanted.borrow(), "viewers are muted at first");
    listens.socket.send(Message::text(r#"{"type":"sound","on":true}"#)).await.expect("sent");
    within("a wish for sound", wanted.wait_for(|wanted| *wanted)).await.expect("open");
    hub.set_state(SoundState { running: true, error: String::new() });
    assert_eq!(listens.text("sound").await["running"], true);
    hub.publish(&sound(0));
    hub.publish(&sound(1));
    assert_eq!(next_sound(&mut listens).await, (FLAG_DISCONTINUITY, 0));
    assert_eq!(next_sound(&mut listens).await, (0, 1));
    listens.socket.send(Message::text(r#"{"type":"sound","on":false}"#)).await.expect("sent");
    within("the end of the wish", wanted.wait_for(|wanted| !*wanted)).await.expect("open");
    // The other viewer received no packet: its next binary message is a picture.
    other.text("sound").await;
    served.hub.publish(fake(1, true, 50));
    assert_eq!(other.unit().await.seq, 1);
}

#[tokio::test]
async fn sound_ends_with_the_connection() {
    let hub = SoundHub::default();
    let with_sound = hub.clone();
    let served =
        Served::with(HubOptions::default(), ServerOptions::default(), |server| server.with_sound(with_sound))
            .await;
    let mut viewer = served.viewer().await;
    viewer.socket.send(Message::text(r#"{"type":"sound","on":true}"#)).await.expect("sent");
    let mut wanted = hub.wanted();
    within("a wish for sound", wanted.wait_for(|wanted| *wanted)).await.expect("open");
    drop(viewer);
    within("its end", wanted.wait_for(|wanted| !*wanted)).await.expect("open");
}

#[tokio::test]
async fn viewer_that_does_not_read_loses_sound_and_its_pictures_continue() {
    let hub = SoundHub::default();
    let with_sound = hub.clone();
    let options = HubOptions {
        queue_units: 1000,
        queue_bytes: 64 << 20,
        queue_age: Duration::MAX,
        ..HubOptions::default()
    };
    let served =
        Served::with(options, ServerOptions::default(), |server| server.with_sound(with_sound)).await;
    let mut viewer = served.viewer().await;
    viewer.socket.send(Message::text(r#"{"type":"sound","on":true}"#)).await.expect("sent");
    let mut wanted = hub.wanted();
    within("a wish for sound", wanted.wait_for(|wanted| *wanted)).await.expect("open");
    // 40 MB exceed the buffers of both sockets.
    for seq in 0..200 {
        served.hub.publish(fake(seq, seq == 0, 200_000));
    }
    for seq in 0..1000 {
        hub.publish(&sound(seq));
    }
    let (mut units, mut packets) = (0, Vec::new());
    while units < 200 || packets.last() != Some(&999) {
        match viewer.message().await {
            Some(Message::Binary(bytes)) if is_sound(&bytes) => {
                packets.push(u64::from_le_bytes(bytes[4..12].try_into().expect("8 bytes")));
            }
            Some(Message::Binary(bytes)) => {
                assert_eq!(u64::from_le_bytes(bytes[4..12].try_into().expect("8 bytes")), units);
                units += 1;
            }
            Some(_) => {}
            None => panic!("the connection ended"),
        }
    }
    assert!(packets.len() < 1000 && packets.is_sorted(), "{} packets", packets.len());
}

#[tokio::test]
async fn viewers_over_the_maximum_are_rejected_until_one_disconnects() {
    let served = Served::start(ServerOptions { max_viewers: 2, ..ServerOptions::default() }).await;
    let first = served.viewer().await;
    let second = served.viewer().await;
    assert_eq!(served.open(&[]).await.err(), Some(503));
    assert_eq!(served.status("/stream.mp4", &[]).await, 503);
    assert_eq!(served.status("/status", &[]).await, 200, "only viewers count");
    drop(first);
    viewers(&served, 1).await;
    let third = within("a free permit", async {
        loop {
            if let Ok(viewer) = served.open(&[]).await {
                return viewer;
            }
        }
    })
    .await;
    drop((second, third));
    viewers(&served, 0).await;
}

#[tokio::test]
async fn viewer_that_does_not_answer_pings_is_disconnected() {
    let options = ServerOptions { pong_timeout: Duration::from_secs(3), ..ServerOptions::default() };
    let served = Served::start(options).await;
    let mut dead = TcpStream::connect(served.address).await.expect("connects");
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        served.address
    );
    dead.write_all(request.as_bytes()).await.expect("sent");
    // tungstenite answers pings while it reads.
    let mut alive = served.viewer().await;
    viewers(&served, 2).await;
    let reading = tokio::spawn(async move { alive.unit().await.seq });
    viewers(&served, 1).await;
    let mut rest = Vec::new();
    within("the end of the connection", dead.read_to_end(&mut rest)).await.expect("closed by the server");
    served.hub.publish(fake(1, true, 50));
    assert_eq!(reading.await.expect("runs"), 1, "the viewer that answers pings stays connected");
}

#[tokio::test]
async fn protocol_violation_closes_the_connection() {
    let served = Served::start(ServerOptions::default()).await;
    let long = format!(r#"{{"type":"keyframe","x":"{}"}}"#, "x".repeat(10_000));
    let cases: [(&str, Vec<Message>, Option<CloseCode>); 7] = [
        ("unknown", vec![Message::text(r#"{"type":"input"}"#)], Some(CloseCode::Unsupported)),
        ("not JSON", vec![Message::text("hello")], Some(CloseCode::Unsupported)),
        ("binary", vec![Message::binary(vec![1, 2, 3])], Some(CloseCode::Unsupported)),
        ("flood", vec![Message::text(r#"{"type":"keyframe"}"#); 500], Some(CloseCode::Policy)),
        ("too long", vec![Message::text(long)], Some(CloseCode::Size)),
        ("longer than any message", vec![Message::binary(vec![b'C'; 100_000])], None),
        (
            "chunk of no content",
            vec![Message::binary(b"C\x01\x01\x00\x07\x00\x00\x00text".to_vec())],
            Some(CloseCode::Policy),
        ),
    ];
    for (what, messages, code) in cases {
        let mut viewer = served.viewer().await;
        for message in messages {
            // The server may close the connection during the flood.
            if viewer.socket.send(message).await.is_err() {
                break;
            }
        }
        let end = loop {
            match viewer.message().await {
                Some(Message::Close(frame)) => break frame.map(|frame| frame.code),
                Some(_) => {}
                None => break None,
            }
        };
        assert!(end == code || (what == "flood" && end.is_none()), "{what}: {end:?}");
        viewers(&served, 0).await;
    }
}

#[tokio::test]
async fn clipboard_of_a_viewer_without_the_right_is_refused_and_the_connection_stays() {
    let served = Served::start(ServerOptions::default()).await;
    let mut viewer = served.viewer().await;
    let announced = r#"{"type":"selection","id":7,"parts":[{"format":"text/plain","bytes":4}]}"#;
    viewer.socket.send(Message::text(announced)).await.expect("sent");
    // The page sends the content before it knows the answer.
    let chunk = [&b"C\x01\x01\x00\x07\x00\x00\x00"[..], b"text"].concat();
    viewer.socket.send(Message::binary(chunk)).await.expect("sent");
    let stored = viewer.text("stored").await;
    assert_eq!(stored["id"], 7);
    assert!(stored["error"].as_str().is_some_and(|error| error.contains("may not")), "{stored}");
    served.hub.publish(fake(1, true, 50));
    assert_eq!(viewer.unit().await.seq, 1);
}

#[tokio::test]
async fn size_of_a_window_reaches_the_desktop_if_the_viewer_may_control_it() {
    let folder = tempfile::tempdir().expect("a folder");
    for (control, is_resized) in [(ControlPolicy::Exclusive, true), (ControlPolicy::None, false)] {
        let input = Input::start(InputOptions {
            runtime_dir: folder.path().to_owned(),
            wayland_display: None,
            control,
            clipboard: ClipboardPolicy::Off,
        })
        .expect("a thread");
        let (sender, sizes) = std::sync::mpsc::channel();
        let served = Served::with(HubOptions::default(), ServerOptions::default(), |server| {
            server.with_input(input).with_resize(move |size| sender.send(size).expect("received"))
        })
        .await;
        let mut viewer = served.viewer().await;
        for (width, height) in [("1001.5", "700"), ("1e300", "-1e300")] {
            let size = format!(r#"{{"type":"size","width":{width},"height":{height},"scale":1}}"#);
            viewer.socket.send(Message::text(size)).await.expect("sent");
        }
        // The reply follows the sizes.
        viewer.socket.send(Message::text(r#"{"type":"time","t0":1}"#)).await.expect("sent");
        viewer.text("time").await;
        let sizes: Vec<_> = sizes.try_iter().map(|size| (size.width(), size.height())).collect();
        let expected = [(1000, 700), (4096, 200)];
        assert_eq!(sizes, if is_resized { &expected[..] } else { &[] });
    }
}

#[tokio::test]
async fn websocket_from_another_origin_is_refused_unless_allowed() {
    let served = Served::start(ServerOptions {
        allowed_origins: vec!["https://portal.example.com".into()],
        ..with_token()
    })
    .await;
    let head = served.exchange(TOKEN, &[]).await;
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    let cookie = ("cookie", cookie.split(';').next().expect("a pair").to_owned());
    let open = async |origin: &str| served.open(&[cookie.clone(), ("origin", origin.into())]).await.map(drop);
    assert_eq!(open("https://evil.example.com").await, Err(403));
    assert_eq!(open("null").await, Err(403));
    assert_eq!(open(&format!("http://{}", served.address)).await, Ok(()));
    assert_eq!(open("https://portal.example.com").await, Ok(()));
    assert_eq!(served.open(&[]).await.map(drop), Err(401));
}

#[tokio::test]
async fn disconnected_viewers_leave_no_descriptors_open() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    let served = Served::start(ServerOptions::default()).await;
    served.hub.publish(fake(1, true, 50));
    drop(served.viewer().await);
    viewers(&served, 0).await;
    let before = descriptors();
    for _ in 0..60 {
        let mut viewer = served.viewer().await;
        viewer.unit().await;
    }
    viewers(&served, 0).await;
    within("closed descriptors", async {
        // Other tests of this process open descriptors of their own meanwhile.
        while descriptors() > before + 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn stopped_server_closes_connections_and_its_port_can_be_reused() {
    let served = Served::start(ServerOptions::default()).await;
    served.hub.publish(fake(1, true, 50));
    let mut viewer = served.viewer().await;
    viewer.unit().await;
    let address = served.address;
    served.hub.close();
    served.task.abort();
    let end = loop {
        match viewer.message().await {
            Some(Message::Close(frame)) => break frame.map(|frame| frame.code),
            Some(_) => {}
            None => break None,
        }
    };
    assert_eq!(end, Some(CloseCode::Away));
    drop(viewer);
    let listener = within("the port", async {
        loop {
            match tokio::net::TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    let hub = Hub::new(HubOptions::default());
    hub.publish(fake(7, true, 50));
    let task = tokio::spawn(Server::new(hub.clone(), ServerOptions::default()).serve(listener));
    let again = Served { hub, address, admin: served.admin, task };
    assert_eq!(again.viewer().await.unit().await.seq, 7);
}
