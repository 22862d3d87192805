//! A running `pattern serve --software` and a small screencopy client for it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use wayland_client::protocol::{wl_buffer, wl_output, wl_registry, wl_shm, wl_shm_pool};
use wayland_client::{Connection, Dispatch, EventQueue, Proxy, QueueHandle, WEnum, delegate_noop};
use wayland_protocols_wlr::screencopy::v1::client::{
    zwlr_screencopy_frame_v1::{self as frame, ZwlrScreencopyFrameV1},
    zwlr_screencopy_manager_v1::ZwlrScreencopyManagerV1,
};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// The program under test, in a runtime folder of its own.
pub struct Server {
    folder: TempDir,
    arguments: Vec<String>,
    child: Child,
}

impl Server {
    /// Starts it and waits until it listens.
    pub fn start(arguments: &[&str]) -> Self {
        let folder = TempDir::new().expect("temporary folder");
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let child = spawn(&folder, &arguments);
        Self { folder, arguments, child }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("wayland-7")
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
    }

    pub fn restart(&mut self) {
        self.child = spawn(&self.folder, &self.arguments);
    }

    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "SIGTERM was ignored");
            std::thread::yield_now();
        }
    }

    pub fn toggle(&self) {
        self.signal(Signal::USR1);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// How many descriptors it has open; waits until it is `want` or no longer falls in time.
    pub fn settled_fds(&self, want: Option<usize>) -> usize {
        let begun = Instant::now();
        loop {
            // A round trip: everything before it was dispatched, so clients that left are gone.
            drop(Client::connect(self, Memory::Sealable));
            let fds = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count();
            let settled =
                want.map_or_else(|| begun.elapsed() > Duration::from_millis(200), |want| fds == want);
            if settled || begun.elapsed() > Duration::from_secs(5) {
                return fds;
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &TempDir, arguments: &[String]) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pattern"))
        .args(["serve", "--software", "--socket", "wayland-7"])
        .args(arguments)
        .env("XDG_RUNTIME_DIR", folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // It says on which socket it listens, and ends with an error otherwise.
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let first = lines.next().expect("a first line").expect("text");
    assert!(first.contains("on wayland-7"), "{first}");
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| println!("{line}")));
    child
}

/// What file the client's pool is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    Sealable,
    Unsealable,
}

/// How a capture ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Ready,
    Failed,
}

/// A screencopy client with one buffer.
pub struct Client {
    queue: EventQueue<Seen>,
    seen: Seen,
    globals: (wl_shm::WlShm, wl_output::WlOutput, ZwlrScreencopyManagerV1),
    file: File,
    buffer: Option<wl_buffer::WlBuffer>,
    frame: Option<ZwlrScreencopyFrameV1>,
}

#[derive(Default)]
struct Seen {
    globals: Vec<(u32, String)>,
    formats: Vec<wl_shm::Format>,
    offer: Option<(u32, u32, u32)>,
    buffer_done: bool,
    damaged: bool,
    gpu_offered: bool,
    answer: Option<Answer>,
}

impl Client {
    /// Connects and makes a buffer that fits.
    pub fn connect(server: &Server, memory: Memory) -> Self {
        let stream = UnixStream::connect(server.socket()).expect("it listens");
        let connection = Connection::from_socket(stream).expect("a connection");
        let mut queue = connection.new_event_queue();
        let (handle, mut seen) = (queue.handle(), Seen::default());
        let registry = connection.display().get_registry(&handle, ());
        queue.roundtrip(&mut seen).expect("registry");
        let name = |wanted: &str| {
            let found = seen.globals.iter().find(|(_, interface)| interface == wanted);
            found.expect(wanted).0
        };
        let shm = registry.bind(name(wl_shm::WlShm::interface().name), 1, &handle, ());
        let output = registry.bind(name(wl_output::WlOutput::interface().name), 4, &handle, ());
        let manager = registry.bind(name(ZwlrScreencopyManagerV1::interface().name), 3, &handle, ());
        let flags = if memory == Memory::Sealable { MemfdFlags::ALLOW_SEALING } else { MemfdFlags::empty() };
        let file = File::from(memfd_create("capture", MemfdFlags::CLOEXEC | flags).expect("memfd"));
        let mut client =
            Self { queue, seen, globals: (shm, output, manager), file, buffer: None, frame: None };
        let (width, height, stride) = client.offer();
        let size = stride * height;
        client.make_buffer(width as i32, height as i32, stride as i32, size as i32, size.into());
        client
    }

    /// Asks for a frame and gives the SHM offer: width, height, stride.
    pub fn offer(&mut self) -> (u32, u32, u32) {
        if self.frame.is_none() {
            (self.seen.offer, self.seen.buffer_done) = (None, false);
            self.frame = Some(self.globals.2.capture_output(0, &self.globals.1, &self.queue.handle(), ()));
        }
        self.wait(LIMIT, |seen| seen.buffer_done).expect("no protocol error");
        assert!(!self.seen.gpu_offered, "there is no GPU in --software");
        assert!(self.seen.formats.contains(&wl_shm::Format::Xbgr8888));
        self.seen.offer.expect("an offer before buffer_done")
    }

    /// Makes a buffer in a pool of `pool` bytes on a file of `file` bytes.
    pub fn make_buffer(&mut self, width: i32, height: i32, stride: i32, pool: i32, file: u64) {
        self.file.set_len(file).expect("room");
        let handle = self.queue.handle();
        let pool = self.globals.0.create_pool(self.file.as_fd(), pool, &handle, ());
        let format = wl_shm::Format::Xbgr8888;
        self.buffer = Some(pool.create_buffer(0, width, height, stride, format, &handle, ()));
        pool.destroy();
    }

    pub fn truncate(&mut self, len: u64) -> std::io::Result<()> {
        self.file.set_len(len)
    }

    pub fn file_len(&self) -> u64 {
        self.file.metadata().expect("metadata").len()
    }

    /// Sends a copy, does not wait.
    pub fn request(&mut self, with_damage: bool) {
        self.offer();
        (self.seen.answer, self.seen.damaged) = (None, false);
        let (frame, buffer) = (self.frame.as_ref().expect("offered"), self.buffer.as_ref().expect("made"));
        if with_damage {
            frame.copy_with_damage(buffer);
        } else {
            frame.copy(buffer);
        }
        // An error is seen when the answer is waited for.
        let _ = self.queue.flush();
    }

    /// Whether the copy is answered in that time.
    pub fn answered_within(&mut self, limit: Duration) -> bool {
        self.wait(limit, |seen| seen.answer.is_some()).expect("no protocol error")
    }

    /// Waits for the copy's answer; an error is the protocol's.
    pub fn answer(&mut self) -> Result<Answer, String> {
        assert!(self.wait(LIMIT, |seen| seen.answer.is_some())?, "no answer in {LIMIT:?}");
        self.frame.take().expect("asked").destroy();
        Ok(self.seen.answer.expect("waited for"))
    }

    /// Captures a frame.
    pub fn capture(&mut self, with_damage: bool) -> Result<Answer, String> {
        self.request(with_damage);
        let answer = self.answer()?;
        if answer == Answer::Ready {
            assert_eq!(self.seen.damaged, with_damage, "damage is told if asked");
        }
        Ok(answer)
    }

    /// What is in the file from `offset` on.
    pub fn pixels(&self, offset: u64) -> Vec<u8> {
        let mut bytes = vec![0; (self.file_len() - offset) as usize];
        self.file.read_exact_at(&mut bytes, offset).expect("as long as it is");
        bytes
    }

    fn wait(&mut self, limit: Duration, done: impl Fn(&Seen) -> bool) -> Result<bool, String> {
        let until = Instant::now() + limit;
        loop {
            self.queue.dispatch_pending(&mut self.seen).map_err(|error| error.to_string())?;
            if done(&self.seen) {
                return Ok(true);
            }
            // A failed flush is followed by the error that says why.
            let _ = self.queue.flush();
            let Some(guard) = self.queue.prepare_read() else { continue };
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).expect("short");
            let mut fds = [PollFd::from_borrowed_fd(guard.connection_fd(), PollFlags::IN)];
            if poll(&mut fds, Some(&timeout)).expect("poll") == 0 {
                return Ok(false);
            }
            guard.read().map_err(|error| error.to_string())?;
        }
    }
}

impl Dispatch<wl_registry::WlRegistry, ()> for Seen {
    fn event(
        seen: &mut Self,
        _: &wl_registry::WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_registry::Event::Global { name, interface, .. } = event {
            seen.globals.push((name, interface));
        }
    }
}

impl Dispatch<wl_shm::WlShm, ()> for Seen {
    fn event(
        seen: &mut Self,
        _: &wl_shm::WlShm,
        event: wl_shm::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_shm::Event::Format { format: WEnum::Value(format) } = event {
            seen.formats.push(format);
        }
    }
}

impl Dispatch<ZwlrScreencopyFrameV1, ()> for Seen {
    fn event(
        seen: &mut Self,
        _: &ZwlrScreencopyFrameV1,
        event: frame::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            frame::Event::Buffer { format, width, height, stride } => {
                assert_eq!(format, WEnum::Value(wl_shm::Format::Xbgr8888));
                seen.offer = Some((width, height, stride));
            }
            frame::Event::BufferDone => seen.buffer_done = true,
            frame::Event::Damage { .. } => seen.damaged = true,
            frame::Event::Ready { .. } => seen.answer = Some(Answer::Ready),
            frame::Event::Failed => seen.answer = Some(Answer::Failed),
            frame::Event::LinuxDmabuf { .. } => seen.gpu_offered = true,
            _ => {}
        }
    }
}

delegate_noop!(Seen: ignore wl_output::WlOutput);
delegate_noop!(Seen: ignore wl_buffer::WlBuffer);
delegate_noop!(Seen: wl_shm_pool::WlShmPool);
delegate_noop!(Seen: ZwlrScreencopyManagerV1);
