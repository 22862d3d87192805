//! A daemon that does not run for longer than any of its timeouts, as when its machine sleeps or a debugger
//! stops it.

use std::time::{Duration, Instant};

use contract::HostAgentStatus;
use protocol::link::{Context, Stats};
use protocol::stream::{ClientMessage, Path, ServerMessage};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Client, config};
use crate::program::Process;
use crate::rig::{POLL_INTERVAL, TIMEOUT, get};
use crate::tap::Tap;

const CONTEXT: Context = Context { id: 7, generation: 1 };
const SIZE: (u32, u32) = (64, 48);
/// Longer than the timeouts of the handshake (5 s), of a write (10 s), of the encoder (5 s) and of idleness
/// (3 s, below).
const SUSPENDED: Duration = Duration::from_secs(12);

/// Waits for an access unit of a frame with this capture time. The session must not end.
async fn unit_of(client: &mut Client, capture_ns: u64, idr: bool) -> u64 {
    let select = |message| match message {
        ServerMessage::AccessUnit(unit) if unit.capture_ns == capture_ns && (unit.idr || !idr) => {
            Some(unit.seq)
        }
        ServerMessage::Error { code, message } => panic!("{code:?}: {message}"),
        ServerMessage::Unbound { reason } => panic!("unbound: {reason}"),
        _ => None,
    };
    client.until("an access unit of the new frame", select).await
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_session_survives_a_suspension_and_stale_connections_do_not() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let arguments = ["--idle-timeout-seconds", "3", "--encoder", "x264enc"];
    let process = Process::start_insecure(folder.path(), &arguments).await;
    let signal = |signal| {
        let pid = Pid::from_raw(process.child.id() as i32).expect("a process");
        kill_process(pid, signal).expect("signalled");
    };
    let mut waiting = Client::connect(&process.listen).await;
    waiting.hello("a/waiting").await;
    let mut tap = Tap::connect(&folder.path().join("link.sock"), "vm");
    waiting.configure(config(Path::ResourceId, SIZE.0 as u16, SIZE.1 as u16)).await;
    tap.bind(CONTEXT, waiting.nonce);
    waiting.bound().await;
    let mut ring = tap.attached();
    ring.publish(1, SIZE, 10);
    assert!(waiting.access_unit().await.idr);
    let mut leaving = Client::connect(&process.listen).await;
    leaving.hello("a/leaving").await;

    signal(Signal::STOP);
    drop(leaving);
    let start = Instant::now();
    while start.elapsed() < SUSPENDED {
        // One sidecar keeps its connection. Another of the same stream connects, gives up, and tries again.
        waiting.send(ClientMessage::Ping(1)).await;
        tap.stats(Stats::default());
        let mut stale = Client::connect(&process.listen).await;
        stale.send(Client::hello_message("a/waiting")).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    ring.publish(2, SIZE, 20);
    waiting.send(ClientMessage::RequestKeyframe).await;
    signal(Signal::CONT);

    let resumed = Instant::now();
    assert_eq!(unit_of(&mut waiting, 20, true).await, 2);
    println!("an IDR {:.2} s after {SUSPENDED:?} of suspension", resumed.elapsed().as_secs_f64());
    // The waiting session is the same as before, and becomes the only one.
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let (_, body) = get(&process.admin, "/status").await;
        let status: HostAgentStatus = serde_json::from_str(&body).expect("a status");
        assert!(status.sessions.iter().any(|session| session.id == waiting.session), "{status:?}");
        assert_eq!(status.vms.len(), 1, "{status:?}");
        if status.sessions.len() == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "timeout: end of the stale sessions: {status:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    for seq in 3..10 {
        ring.publish(seq, SIZE, 30 + seq as u8);
        unit_of(&mut waiting, 30 + seq, false).await;
    }
}
