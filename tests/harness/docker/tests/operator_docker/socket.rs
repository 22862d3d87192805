//! A host-agent on a Unix socket: the sidecar gets the socket and nothing else of its folder.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use rustix::net::Shutdown;
use serde_json::json;

use crate::testbed::{Testbed, pattern};

/// Folder of the socket in the engine's machine.
const FOLDER: &str = "/run/user-1000";

/// Accepts connections and closes them at once: a host-agent that is reachable and refuses.
struct Listener {
    socket: UnixListener,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn new(path: &Path) -> Result<Self> {
        let socket = UnixListener::bind(path).with_context(|| path.display().to_string())?;
        let accepting = socket.try_clone()?;
        let thread = std::thread::spawn(move || for _ in accepting.incoming().map_while(Result::ok) {});
        Ok(Self { socket, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The thread's accept fails.
        let ended = rustix::net::shutdown(&self.socket, Shutdown::Both);
        if let (Ok(()), Some(thread)) = (ended, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

pub fn host_agent_socket_is_mounted_alone_and_followed_when_created_again(bed: &Testbed) -> Result<()> {
    let outside = bed.engine.outside(FOLDER);
    fs::create_dir_all(&outside)?;
    fs::write(outside.join("bus"), "a socket of another program")?;
    let (socket, path) = (format!("{FOLDER}/host-agent.sock"), outside.join("host-agent.sock"));
    let listener = Listener::new(&path)?;
    let mut project = bed.project("socket")?;
    project.write("desk", &pattern(&json!({"encode": {"placement": "Auto"}})))?;
    let host_agent = format!("--host-agent=unix:{socket}");
    project.start(&[&host_agent])?;
    let (desktop, sidecar) = (project.desktop("desk"), project.sidecar("desk"));
    let binds = || -> Result<Vec<(String, String)>> {
        let mounts = bed.inspect(&sidecar)?["Mounts"].as_array().cloned().unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let binds = mounts.iter().filter(|it| it["Type"] == "bind");
        Ok(binds.map(|it| (text(&it["Source"]), text(&it["Destination"]))).collect())
    };
    let expected = vec![(socket, "/run/desktopstream-host/host-agent.sock".to_owned())];
    project.eventually("the sidecar has the socket and no other file of the machine", || {
        let binds = binds()?;
        ensure!(binds == expected, "{binds:?}");
        ensure!(bed.inspect(&sidecar)?["State"]["Running"] == true, "the sidecar does not run");
        Ok(())
    })?;
    let before = (bed.id(&desktop)?, bed.id(&sidecar)?);
    drop(listener);
    fs::remove_file(&path)?;
    let _listener = Listener::new(&path)?;
    project.eventually("another sidecar, with the new socket", || {
        ensure!(bed.id(&sidecar)? != before.1, "the same sidecar");
        ensure!(binds()? == expected, "another mount");
        Ok(())
    })?;
    ensure!(bed.id(&desktop)? == before.0, "the desktop was replaced");
    Ok(())
}
