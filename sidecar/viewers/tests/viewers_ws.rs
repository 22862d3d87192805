//! The viewers' WebSocket over real connections: joining, being slow, misbehaving, leaving.

mod support;

use std::time::Duration;

use futures_util::SinkExt;
use viewers::server::ServerOptions;
use viewers::server::wire::{FLAG_BACKLOG, FLAG_DISCONTINUITY, FLAG_IDR};
use viewers::{Hub, HubOptions, Server, StreamInfo};
use support::{Served, TOKEN, fake, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// Waits until the hub has so many viewers.
async fn viewers(served: &Served, count: usize) {
    within("viewers to come or go", async {
        while served.hub.viewers() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_late_joiner_gets_info_and_an_idr_at_once() {
    let served = Served::start(ServerOptions::default()).await;
    let info = StreamInfo {
        name: "desk".into(),
        rung: "Pixels".into(),
        rung_reason: "no tap".into(),
        ..StreamInfo::default()
    };
    served.hub.set_info(info);
    for seq in 1..=3 {
        served.hub.publish(fake(seq, seq == 1, 100));
    }
    let mut viewer = served.viewer().await;
    let info = viewer.text("info").await;
    assert_eq!(
        (&info["name"], &info["rung"], &info["reason"]),
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
async fn joining_an_empty_hub_asks_for_a_keyframe_and_so_does_the_page() {
    let served = Served::start(ServerOptions::default()).await;
    let mut requests = served.hub.keyframe_requests();
    let mut viewer = served.viewer().await;
    within("the join's request", requests.next()).await.expect("open");
    served.hub.publish(fake(1, true, 50));
    viewer.unit().await;
    viewer.socket.send(Message::text(r#"{"type":"keyframe"}"#)).await.expect("sent");
    within("the page's request", requests.next()).await.expect("open");
}

#[tokio::test]
async fn the_clock_is_told_and_reports_are_kept() {
    let served = Served::start(ServerOptions::default()).await;
    let mut viewer = served.viewer().await;
    viewer.socket.send(Message::text(r#"{"type":"time","t0":12.5}"#)).await.expect("sent");
    let before = encode::clock::clock_ns() / 1000;
    let time = viewer.text("time").await;
    assert_eq!(time["t0"], 12.5);
    let told = time["server_us"].as_u64().expect("a number");
    assert!(told.abs_diff(before) < 20_000_000, "{told} is the clock of capture times, {before}");
    let stats = r#"{"type":"stats","fps":60,"latency_ms":8.5,"dropped":3}"#;
    viewer.socket.send(Message::text(stats)).await.expect("sent");
    within("the report", async {
        while served.hub.viewer_reports().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let reports = served.hub.viewer_reports();
    assert_eq!((reports[0].dropped, reports[0].fps.round() as i32), (3, 60));
}

#[tokio::test]
async fn a_viewer_that_does_not_read_costs_the_others_nothing() {
    let options = HubOptions { queue_units: 10, ..HubOptions::default() };
    let served = Served::with(options, ServerOptions::default(), |server| server).await;
    let mut stuck = served.viewer().await;
    let mut quick = served.viewer().await;
    viewers(&served, 2).await;
    // 40 MB: more than sockets hold.
    for seq in 0..200 {
        served.hub.publish(fake(seq, seq == 0, 200_000));
        assert_eq!(quick.unit().await.seq, seq);
    }
    let metrics = served.hub.metrics();
    let dropped =
        metrics.lines().find_map(|line| line.strip_prefix("desktopstream_viewer_units_dropped_total "));
    assert!(dropped.expect("counted").parse::<u64>().expect("a number") > 100, "{metrics}");
    // When it reads again it gets what was on the way, and then goes on at the next IDR.
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
        assert_eq!(unit.seq, last.seq + 1, "no hole without an IDR");
        last = unit;
    }
    assert_eq!(stuck.unit().await.seq, 501);
    assert_eq!(quick.unit().await.flags, FLAG_IDR, "the quick one never lost anything");
}

#[tokio::test]
async fn places_are_limited_and_given_back() {
    let served = Served::start(ServerOptions { max_viewers: 2, ..ServerOptions::default() }).await;
    let first = served.viewer().await;
    let second = served.viewer().await;
    assert_eq!(served.open(&[]).await.err(), Some(503));
    assert_eq!(served.status("/stream.mp4", &[]).await, 503);
    assert_eq!(served.status("/status", &[]).await, 200, "only viewers are limited");
    drop(first);
    viewers(&served, 1).await;
    let third = within("a free place", async {
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
async fn a_silent_viewer_loses_its_place() {
    let options = ServerOptions { pong_timeout: Duration::from_millis(300), ..ServerOptions::default() };
    let served = Served::start(options).await;
    let mut dead = TcpStream::connect(served.address).await.expect("connects");
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        served.address
    );
    dead.write_all(request.as_bytes()).await.expect("sent");
    // A viewer that answers pings stays.
    let mut alive = served.viewer().await;
    viewers(&served, 2).await;
    let reading = tokio::spawn(async move { alive.unit().await.seq });
    viewers(&served, 1).await;
    let mut rest = Vec::new();
    within("the end", dead.read_to_end(&mut rest)).await.expect("closed by the server");
    served.hub.publish(fake(1, true, 50));
    assert_eq!(reading.await.expect("runs"), 1, "the one that answers is still there");
}

#[tokio::test]
async fn misbehaviour_ends_the_connection() {
    let served = Served::start(ServerOptions::default()).await;
    let long = format!(r#"{{"type":"keyframe","x":"{}"}}"#, "x".repeat(2000));
    let cases: [(&str, Vec<Message>, Option<CloseCode>); 5] = [
        ("unknown", vec![Message::text(r#"{"type":"input"}"#)], Some(CloseCode::Unsupported)),
        ("no JSON", vec![Message::text("hello")], Some(CloseCode::Unsupported)),
        ("binary", vec![Message::binary(vec![1, 2, 3])], Some(CloseCode::Unsupported)),
        ("flood", vec![Message::text(r#"{"type":"keyframe"}"#); 60], Some(CloseCode::Policy)),
        ("too long", vec![Message::text(long)], None),
    ];
    for (what, messages, code) in cases {
        let mut viewer = served.viewer().await;
        for message in messages {
            // The flood may be cut off while it is being sent.
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
async fn other_sites_may_not_open_it() {
    let served = Served::start(ServerOptions {
        viewer_token: Some(TOKEN.into()),
        allowed_origins: vec!["https://portal.example.com".into()],
        ..ServerOptions::default()
    })
    .await;
    let cookie = ("cookie", format!("desktopstream-{}={TOKEN}", served.address.port()));
    let open = async |origin: &str| served.open(&[cookie.clone(), ("origin", origin.into())]).await.map(drop);
    assert_eq!(open("https://evil.example.com").await, Err(403));
    assert_eq!(open("null").await, Err(403));
    assert_eq!(open(&format!("http://{}", served.address)).await, Ok(()));
    assert_eq!(open("https://portal.example.com").await, Ok(()));
    assert_eq!(served.open(&[]).await.map(drop), Err(401));
}

#[tokio::test]
async fn viewers_leave_no_descriptors_behind() {
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
    within("descriptors to be closed", async {
        // Other tests of this process come and go meanwhile, with a few of their own.
        while descriptors() > before + 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_stopped_server_says_goodbye_and_its_successor_serves() {
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
    let again = Served { hub, address, task };
    assert_eq!(again.viewer().await.unit().await.seq, 7);
}
