//! The whole process stands still for longer than any of its time limits, as when its machine sleeps or a debugger
//! holds it, and goes on: whoever waited has his stream, and whoever gave up meanwhile is in nobody's way.

use std::time::{Duration, Instant};

use protocol::link::{Context, Stats};
use protocol::stream::{ClientMessage, Path, ServerMessage};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Client, config};
use crate::program::{Daemon, free_port, host_agent};
use crate::rig::PATIENCE;
use crate::tap::Tap;

const CONTEXT: Context = Context { id: 7, generation: 1 };
const SIZE: (u32, u32) = (64, 48);
/// Longer than a handshake (5 s), a write (10 s), an encoder's patience (5 s) and the silence below may last.
const ASLEEP: Duration = Duration::from_secs(12);

async fn connected(listen: &protocol::Endpoint) -> Client {
    let protocol::Endpoint::Tcp { host, port } = listen else { unreachable!("it listens on TCP") };
    let end = Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect((host.as_str(), *port)).await.is_err() {
        assert!(Instant::now() < end, "it never listens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Client::connect(listen).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_goes_on_and_what_gave_up_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let link = folder.path().join("link.sock");
    let (listen, admin) = (format!("tcp://127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let arguments = ["serve", "--insecure-no-auth", "--idle-timeout", "3", "--encoder", "x264enc"];
    let places = ["--listen", &listen, "--admin", &admin, "--link", &link.display().to_string()];
    let child = host_agent(&[&arguments[..], &places[..]].concat()).spawn().expect("starts");
    let daemon = Daemon { child };
    let signal = |signal| {
        let pid = Pid::from_raw(daemon.child.id() as i32).expect("a process");
        kill_process(pid, signal).expect("signalled");
    };

    let listen = listen.parse().expect("an endpoint");
    let mut waits = connected(&listen).await;
    waits.hello("a/waits").await;
    let mut tap = Tap::connect(&link, "vm");
    waits.configure(config(Path::ResourceId, SIZE.0 as u16, SIZE.1 as u16)).await;
    tap.bind(CONTEXT, waits.nonce);
    waits.bound().await;
    let mut ring = tap.attached();
    ring.frame(1, SIZE, 10);
    assert!(waits.access_unit().await.idr);
    let mut dies = connected(&listen).await;
    dies.hello("a/dies").await;

    signal(Signal::STOP);
    drop(dies);
    let slept = Instant::now();
    while slept.elapsed() < ASLEEP {
        // As a sidecar does that has not given up yet, and one that tries again and again, which is the same stream's.
        waits.send(ClientMessage::Ping(1)).await;
        tap.stats(Stats::default());
        let mut tries = Client::connect(&listen).await;
        tries.send(Client::hello_message("a/waits")).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    ring.frame(2, SIZE, 20);
    waits.send(ClientMessage::RequestKeyframe).await;
    signal(Signal::CONT);

    let woken = Instant::now();
    let fresh = |message| match message {
        ServerMessage::AccessUnit(unit) if unit.idr && unit.capture_ns == 20 => Some(unit.seq),
        ServerMessage::Error { code, message } => panic!("{code:?}: {message}"),
        ServerMessage::Unbound { reason } => panic!("unbound: {reason}"),
        _ => None,
    };
    assert_eq!(waits.until("an IDR of the picture after the sleep", fresh).await, 2);
    println!("an IDR {:.2} s after {ASLEEP:?} of standing still", woken.elapsed().as_secs_f64());
    // And it stays so: the session is the same one, and the only one.
    let end = Instant::now() + PATIENCE;
    loop {
        let admin = admin.clone();
        let ask = move || ureq::get(format!("http://{admin}/status")).call()?.body_mut().read_to_string();
        let text = tokio::task::spawn_blocking(ask).await.expect("no panic").expect("answers");
        let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let sessions = status["sessions"].as_array().expect("a list");
        assert!(sessions.iter().any(|one| one["id"] == waits.session), "{status}");
        assert_eq!(status["vms"].as_array().map(Vec::len), Some(1), "{status}");
        if sessions.len() == 1 {
            break;
        }
        assert!(Instant::now() < end, "it keeps who is gone: {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for seq in 3..10 {
        ring.frame(seq, SIZE, 30 + seq as u8);
        let wanted = 30 + seq;
        let pick = |message| match message {
            ServerMessage::AccessUnit(unit) if unit.capture_ns == wanted => Some(()),
            ServerMessage::Error { code, message } => panic!("{code:?}: {message}"),
            _ => None,
        };
        waits.until("the stream goes on", pick).await;
    }
}
