//! The tap with the real virglrenderer, without a VM: this program acts as VMM and guest, with the tap
//! preloaded, and as the host-agent at the other end of the link.
//!
//! virglrenderer and the tap are global to a process, and the tap must be preloaded, so every test runs an
//! ignored test of this program (a scene) in a separate process. GL is Mesa's software renderer without
//! a display; the packages libvirglrenderer1, libepoxy0 and libegl1 are needed.

#![expect(unsafe_code, reason = "calls virglrenderer as a VMM does")]

mod agent;
mod egl;
mod guest;
mod scenes;
mod virgl;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time for one scene.
const SCENE_TIMEOUT: Duration = Duration::from_mins(3);

/// Runs a scene in a process with the tap preloaded.
fn run_scene(scene: &str) {
    let program = std::env::current_exe().expect("own path");
    let tap = program.with_file_name("libtap.so");
    assert!(tap.exists(), "{} is missing; run the test with cargo, which builds it", tap.display());
    let folder = tempfile::tempdir().expect("folder");
    let mut vmm = Command::new(&program)
        .args(["--exact", &format!("scenes::{scene}"), "--ignored", "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", &tap)
        .env("LIBGL_ALWAYS_SOFTWARE", "1")
        .env("DESKTOPSTREAM_LINK", folder.path().join("link.sock"))
        .env("DESKTOPSTREAM_VM", "test-vm")
        .stdin(Stdio::null())
        .spawn()
        .expect("start");
    let end = Instant::now() + SCENE_TIMEOUT;
    let status = loop {
        match vmm.try_wait().expect("wait") {
            Some(status) => break status,
            None if Instant::now() < end => std::thread::park_timeout(Duration::from_millis(20)),
            None => {
                vmm.kill().expect("kill");
                vmm.wait().expect("wait");
                unreachable!("{scene} did not end within {SCENE_TIMEOUT:?}");
            }
        }
    };
    assert!(status.success(), "{scene}: {status}");
}

macro_rules! scenes {
    ($($scene:ident),* $(,)?) => {
        $(#[test] fn $scene() { run_scene(stringify!($scene)); })*
    };
}

scenes! {
    frames_are_read_bit_exactly,
    frame_that_the_context_may_not_read_is_refused,
    second_host_agent_is_found_after_the_first,
    restarted_renderer_keeps_context_generations,
    hostile_host_agent_only_loses_its_connection,
    tap_without_host_agent_answers_and_waits,
    floods_are_limited_and_malformed_requests_survived,
    entry_costs_are_measured,
}

#[test]
fn process_without_virglrenderer_is_not_affected() {
    let tap = std::env::current_exe().expect("own path").with_file_name("libtap.so");
    let shell = Command::new("sh")
        .args(["-c", "echo $((6 * 7)); ls / >/dev/null"])
        .env("LD_PRELOAD", tap)
        .env("DESKTOPSTREAM_TAP_LOG", "1")
        .output()
        .expect("sh");
    assert!(shell.status.success());
    assert_eq!((shell.stdout.as_slice(), shell.stderr.as_slice()), (&b"42\n"[..], &b""[..]));
}
