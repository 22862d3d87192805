//! The capture of a real PipeWire daemon with the configuration of the desktop images.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(60);
/// Frequency of the played tone, Hz.
const TONE: f32 = 1000.0;

enum Event {
    Packet(Packet),
    State(State),
}

impl Sink for Sender<Event> {
    fn packet(&self, packet: Packet) {
        // Fails once the test has ended.
        let _ = self.send(Event::Packet(packet));
    }

    fn state(&self, state: State) {
        let _ = self.send(Event::State(state));
    }
}

/// Ends the program when dropped.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| {
            panic!("cannot start {}: {error}; run ./x once, which installs it", name.display())
        }))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// PipeWire, a session manager and a bus for it, in a folder of their own.
struct Desktop {
    programs: Vec<Program>,
    folder: tempfile::TempDir,
    bus: String,
}

impl Desktop {
    /// Starts the daemon with the images' configuration; `sink` includes the part with the sink.
    fn start(sink: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let images = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../docker/common/root/etc/pipewire/pipewire.conf.d");
        let own = folder.path().join("pipewire/pipewire.conf.d");
        fs::create_dir_all(&own).expect("a folder");
        for entry in fs::read_dir(images).expect("the images' configuration") {
            let file = entry.expect("a file");
            if sink || file.file_name() != "60-sound.conf" {
                fs::copy(file.path(), own.join(file.file_name())).expect("copied");
            }
        }
        let mut bus = Program::start(
            Command::new("dbus-daemon")
                .args(["--session", "--nofork", "--nopidfile", "--print-address"])
                .arg(format!("--address=unix:path={}", folder.path().join("bus").display()))
                .stdout(Stdio::piped()),
        );
        let mut address = String::new();
        let output = bus.0.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut address).expect("an address");
        let mut desktop = Self { programs: vec![bus], folder, bus: address.trim().to_owned() };
        desktop.start_media();
        desktop
    }

    fn runtime_dir(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for variable in ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "HOME"] {
            command.env(variable, self.folder.path());
        }
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.bus).env("DBUS_SYSTEM_BUS_ADDRESS", "disabled:");
        command.stdout(Stdio::null());
        command
    }

    fn start_media(&mut self) {
        self.programs.push(Program::start(&mut self.command("pipewire")));
        let socket = self.folder.path().join("pipewire-0");
        until("the daemon's socket", || socket.exists());
        self.programs.push(Program::start(&mut self.command("wireplumber")));
    }

    fn end_media(&mut self) {
        self.programs.truncate(1);
        let _ = fs::remove_file(self.folder.path().join("pipewire-0"));
    }

    /// Plays a second of the tone.
    fn play(&self) {
        let file = self.folder.path().join("tone.wav");
        fs::write(&file, tone()).expect("written");
        let status =
            self.command("pw-play").arg(&file).stdin(Stdio::null()).status().expect("pw-play starts");
        assert!(status.success(), "{status}");
    }
}

/// A WAV file with a second of the tone, 16 bits, stereo.
fn tone() -> Vec<u8> {
    let samples: Vec<u8> = (0..SAMPLE_RATE)
        .flat_map(|n| {
            let value = 16_000.0 * (std::f32::consts::TAU * TONE * n as f32 / SAMPLE_RATE as f32).sin();
            let value = (value as i16).to_le_bytes();
            [value[0], value[1], value[0], value[1]]
        })
        .collect();
    let size = samples.len() as u32;
    let mut file = Vec::new();
    file.write_all(b"RIFF").expect("written");
    file.extend((36 + size).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    for value in [1_u16, CHANNELS as u16] {
        file.extend(value.to_le_bytes());
    }
    file.extend(SAMPLE_RATE.to_le_bytes());
    file.extend((SAMPLE_RATE * 4).to_le_bytes());
    for value in [4_u16, 16] {
        file.extend(value.to_le_bytes());
    }
    file.extend(b"data");
    file.extend(size.to_le_bytes());
    file.extend(samples);
    file
}

fn capture_of(desktop: &Desktop) -> (Audio, Receiver<Event>) {
    let (sender, events) = mpsc::channel();
    (Audio::start(AudioOptions::new(desktop.runtime_dir()), sender).expect("a thread"), events)
}

/// Waits for a state and returns the packets before it.
fn wait_for(events: &Receiver<Event>, wanted: impl Fn(&State) -> bool) -> Vec<Packet> {
    let mut packets = Vec::new();
    let mut last = None;
    let end = Instant::now() + TIMEOUT;
    loop {
        match events.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(Event::State(state)) if wanted(&state) => return packets,
            Ok(Event::State(state)) => last = Some(state),
            Ok(Event::Packet(packet)) => packets.push(packet),
            Err(error) => panic!("{error}; the last state is {last:?}"),
        }
    }
}

/// Level of the tone in mono samples, relative to all of their energy: 1 for the pure tone.
fn tone_share(samples: &[f32]) -> f32 {
    let (mut cosine, mut sine, mut energy) = (0.0, 0.0, 0.0);
    for (n, sample) in samples.iter().enumerate() {
        let angle = std::f32::consts::TAU * TONE * n as f32 / SAMPLE_RATE as f32;
        cosine += sample * angle.cos();
        sine += sample * angle.sin();
        energy += sample * sample;
    }
    2.0 * (cosine * cosine + sine * sine) / (energy * samples.len() as f32)
}

/// Samples of the first channel of packets in succession.
fn decoded(packets: &[Packet]) -> Vec<f32> {
    let data: Vec<Bytes> = packets.iter().map(|packet| packet.data.clone()).collect();
    opus::tests::decode(&data).chunks(CHANNELS).map(|frame| frame[0]).collect()
}

/// Largest number of silent packets in succession.
fn longest_silence(samples: &[f32]) -> usize {
    let mut longest = 0;
    let mut silent = 0;
    for packet in samples.chunks(FRAMES_PER_PACKET) {
        silent = if packet.iter().all(|sample| sample.abs() < 1e-3) { silent + 1 } else { 0 };
        longest = longest.max(silent);
    }
    longest
}

/// The daemon and the player miss cycles on a busy machine, so that the tone has gaps: it is played until 100 ms of it are
/// whole.
#[test]
fn tone_played_in_the_desktop_is_captured_and_silence_makes_no_packets() {
    const WINDOW: usize = 10 * FRAMES_PER_PACKET;
    let desktop = Desktop::start(true);
    let (audio, events) = capture_of(&desktop);
    audio.set_wanted(true);
    assert_eq!(wait_for(&events, |state| *state == State::Running), [], "packets before the first samples");
    let before = encode::clock::clock_ns();
    let mut packets: Vec<Packet> = Vec::new();
    until("100 ms of the pure tone", || {
        desktop.play();
        packets.extend(events.try_iter().filter_map(|event| match event {
            Event::Packet(packet) => Some(packet),
            Event::State(_) => None,
        }));
        decoded(&packets).windows(WINDOW).step_by(FRAMES_PER_PACKET).any(|window| tone_share(window) > 0.95)
    });
    audio.set_wanted(false);
    packets.extend(wait_for(&events, |state| *state == State::Idle));
    let after = encode::clock::clock_ns();

    assert!(packets[0].discontinuity);
    assert!((0..).zip(&packets).all(|(number, packet)| packet.seq == number));
    assert!(packets.is_sorted_by_key(|packet| packet.capture_ns));
    assert!(packets.iter().all(|packet| (before..after).contains(&packet.capture_ns)));
    let silence = longest_silence(&decoded(&packets));
    assert!(silence <= gate::HANGOVER as usize, "{silence} silent packets in succession");
}

#[test]
fn restarted_daemon_is_captured_again() {
    let mut desktop = Desktop::start(true);
    let (audio, events) = capture_of(&desktop);
    audio.set_wanted(true);
    wait_for(&events, |state| *state == State::Running);
    desktop.end_media();
    wait_for(&events, |state| matches!(state, State::Unavailable { reason } if reason.contains("PipeWire")));
    desktop.start_media();
    wait_for(&events, |state| *state == State::Running);
}

#[test]
fn desktop_without_a_sink_is_reported_with_a_remedy() {
    let desktop = Desktop::start(false);
    let (audio, events) = capture_of(&desktop);
    audio.set_wanted(true);
    wait_for(
        &events,
        |state| matches!(state, State::Unavailable { reason } if reason.contains("null-audio-sink")),
    );
}

#[test]
fn capture_that_is_not_wanted_does_not_connect() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = std::os::unix::net::UnixListener::bind(folder.path().join("pipewire-0")).expect("bound");
    listener.set_nonblocking(true).expect("set");
    let (sender, events) = mpsc::channel();
    let audio = Audio::start(AudioOptions::new(folder.path().to_owned()), sender).expect("a thread");
    audio.set_wanted(false);
    assert!(listener.accept().is_err());
    audio.set_wanted(true);
    until("a connection", || listener.accept().is_ok());
    audio.set_wanted(false);
    wait_for(&events, |state| *state == State::Idle);
    assert!(listener.accept().is_err());
}
