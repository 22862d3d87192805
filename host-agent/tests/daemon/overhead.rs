//! Latency that host-agent adds to a frame: slot full to encoder called, access unit returned to written to
//! the socket.

use std::time::Duration;

use protocol::link::Context;
use protocol::stream::{Config, Path};

use crate::client::config;
use crate::rig::Rig;

async fn measure(encoder: &str, (width, height): (u32, u32), frames: u64) {
    let rig = Rig::new(encoder).await;
    let mut client = rig.session("a/b").await;
    client.configure(Config { max_fps: 240, ..config(Path::ResourceId, width as u16, height as u16) }).await;
    let mut tap = rig.tap("vm");
    tap.bind(Context { id: 1, generation: 1 }, client.nonce);
    let mut ring = tap.attached();
    let mut tick = tokio::time::interval(Duration::from_millis(33));
    for seq in 1..=frames {
        tick.tick().await;
        ring.publish(seq, (width, height), seq as u8);
        while client.access_unit().await.seq != seq {}
    }
    let session = rig.status().await.sessions.remove(0);
    for (stage, us) in [
        ("slot full to encoder called", session.queue_us),
        ("encoder called to access unit returned", session.encode_us),
        ("access unit returned to written to the socket", session.wire_us),
    ] {
        println!(
            "{encoder} {width}x{height}: {stage}: p50 {} us, p99 {} us, max {} us",
            us.p50, us.p99, us.max
        );
    }
    assert_eq!(session.dropped, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; run via cargo test --release -p host-agent --test daemon overhead -- --ignored --nocapture"]
async fn overhead() {
    measure("null", (1280, 720), 300).await;
    measure("x264enc", (1280, 720), 300).await;
    measure("x264enc", (1920, 1080), 300).await;
}
