//! Ports of the sidecar's program that another program holds, as a desktop of the same pod can after the sidecar ended.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a sidecar until it exits; returns its error output.
fn exits(listen: &str, admin_listen: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sidecar"))
        .args(["run", "--source=test-pattern", "--frame-path=local", "--local-encoder=null"])
        .args([format!("--listen={listen}"), format!("--admin-listen={admin_listen}")])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let deadline = Instant::now() + TIMEOUT;
    while child.try_wait().expect("a state").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("ended");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("output");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn sidecar_whose_port_is_taken_exits_and_names_the_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let error = exits("127.0.0.1:0", &taken);
    assert!(error.contains(&taken) && error.contains("--admin-listen"), "{error}");
    let error = exits(&taken, "127.0.0.1:0");
    assert!(error.contains(&taken) && error.contains("--listen"), "{error}");
}
