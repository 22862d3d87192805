//! The tap against the real virglrenderer, without a VM: this program plays the VMM and its guest, with
//! the tap preloaded, and the host-agent at the other end of the link.
//!
//! virglrenderer and the tap are global to a process, and the tap must be in front of it when the
//! process starts: every test runs itself again in a process of its own. Software GL by EGL without a
//! display; needs the packages libvirglrenderer1, libepoxy0 and libegl1.

#![expect(unsafe_code, reason = "plays a C program that calls virglrenderer")]

mod agent;
mod egl;
mod guest;
mod scenes;
mod virgl;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that one process may take.
const LIMIT: Duration = Duration::from_mins(3);

/// Runs an ignored test of this program in a process with the tap preloaded.
fn in_a_vmm(scene: &str) {
    let program = std::env::current_exe().expect("own path");
    let tap = program.with_file_name("libtap.so");
    assert!(tap.exists(), "{} is missing: cargo builds it beside the tests", tap.display());
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
    let end = Instant::now() + LIMIT;
    let status = loop {
        match vmm.try_wait().expect("wait") {
            Some(status) => break status,
            None if Instant::now() < end => std::thread::park_timeout(Duration::from_millis(20)),
            None => {
                vmm.kill().expect("kill");
                vmm.wait().expect("wait");
                unreachable!("{scene} did not end in {LIMIT:?}");
            }
        }
    };
    assert!(status.success(), "{scene}: {status}");
}

macro_rules! scenes {
    ($($scene:ident),* $(,)?) => {
        $(#[test] fn $scene() { in_a_vmm(stringify!($scene)); })*
    };
}

scenes! {
    pictures_arrive_bit_by_bit,
    refusals,
    another_host_agent,
    reset_and_start_again,
    hostile_host_agents,
    no_host_agent,
    floods_and_noise,
    times,
}

/// A process without virglrenderer does not notice the tap.
#[test]
fn a_shell_does_not_notice() {
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
