//! `host-agent selftest`: checks of a host without a VM, in seconds: tokens, sockets, shared memory between
//! tap and host-agent, and every encoder at desktop size. The first command to run on a new kind of
//! machine.
//!
//! Encoders get numbered frames; their access units are decoded, and the numbers are read back
//! ([`number_reader`]).

mod machine_report;
mod number_reader;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use contract::doctor::{Check, Report, checks};
use encode::encoder::ENCODE_TIMEOUT;
use encode::{Codec, EncodeError, Picture, PixelFormat, Settings, annexb};
use frame_ring::wake::{self, WakeState};
use frame_ring::{Meta, Producer, Ring, SLOTS};
use hdrhistogram::Histogram;
use stream_token::{Signer, Verifier};

use crate::doctor::check_encoders;
use crate::encoders::{self, Choice};

pub use machine_report::MachineReport;
use number_reader::NumberReader;

/// Frame size of the encoder checks in pixels.
const SIZE: (u32, u32) = (1920, 1080);
/// Number of frames for each encoder.
const FRAMES: u64 = 120;
/// Number of frames through the ring.
const RING_FRAMES: u64 = 60;
/// Time after which an encoder's check ends early.
const ENCODER_TIME: Duration = Duration::from_secs(30);

/// Runs all checks, each encoder for at most [`ENCODER_TIME`].
pub fn examine() -> Report {
    let mut all = vec![
        Check::ok(checks::HOST, format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH)),
        check("token", token(), "report this output: it is a fault of host-agent"),
        check("sockets", sockets(), "allow this program to listen on 127.0.0.1"),
        check("shared memory", shared_memory(), "raise this user's limits on memory and open files"),
    ];
    all.extend(check_encoders(&encoders::available(), |name, found, _trial_time| {
        let remedy = "choose another encoder with --encoder, and send this report";
        check(&name, encode_numbered_frames(found.name), remedy)
    }));
    Report::new(all)
}

fn check(name: &str, outcome: Result<String>, remedy: &str) -> Check {
    match outcome {
        Ok(detail) => Check::ok(name, detail),
        Err(error) => Check::failed(name, format!("{error:#}"), remedy),
    }
}

/// Signs a token with a new key and verifies it for its own audience and for another one.
fn token() -> Result<String> {
    let signer = Signer::generate()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let token = signer.token("self/test", "here", now, 60)?;
    let keys = [signer.verifying_key()];
    let claims = Verifier::new(&keys, "here").verify(&token)?;
    ensure!(claims.sub == "self/test", "the token names stream {}", claims.sub);
    ensure!(Verifier::new(&keys, "elsewhere").verify(&token).is_err(), "the token has every audience");
    Ok("signed, verified, refused for another audience".to_owned())
}

/// Sends data over a loopback connection.
fn sockets() -> Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen")?;
    let mut client = TcpStream::connect(listener.local_addr()?).context("cannot connect")?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"here")?;
    let mut received = [0; 4];
    server.set_read_timeout(Some(Duration::from_secs(5)))?;
    server.read_exact(&mut received)?;
    ensure!(received == *b"here", "received other data than was sent");
    Ok("loopback works".to_owned())
}

/// Passes frames through a ring, with a wake for each, as between tap and host-agent.
fn shared_memory() -> Result<String> {
    let bytes = PixelFormat::Nv12.bytes(SIZE.0, SIZE.1);
    let (mut consumer, fd) = Ring::create(SLOTS, bytes)?;
    let (wake_fd, waker) = wake::pair()?;
    let mut producer = Producer::map(fd)?;
    let begin = Instant::now();
    for seq in 0..RING_FRAMES {
        let mut slot = producer.claim().context("no slot is free")?;
        slot.bytes_mut().fill(seq as u8);
        let meta = Meta {
            seq,
            format: PixelFormat::Nv12,
            width: SIZE.0,
            height: SIZE.1,
            stride: SIZE.0,
            damage: protocol::Rect { x: 0, y: 0, width: SIZE.0, height: SIZE.1 },
            capture_ns: 0,
            read_ns: 0,
            full_at_ns: 0,
        };
        ensure!(slot.publish(meta), "the description of frame {seq} was refused");
        waker.wake();
        ensure!(wake_fd.clear() == WakeState::Woken, "the wake for frame {seq} was lost");
        let slot = consumer.newest().with_context(|| format!("frame {seq} is missing"))?;
        let data: &[u8] = slot.as_ref();
        ensure!(slot.meta().seq == seq, "got frame {} instead of {seq}", slot.meta().seq);
        ensure!(data.iter().all(|byte| *byte == seq as u8), "frame {seq} has other bytes");
    }
    let ms = begin.elapsed().as_millis();
    Ok(format!("{RING_FRAMES} frames of {} x {} in {ms} ms", SIZE.0, SIZE.1))
}

/// Draws the numbered frame.
fn frame(number: u64) -> Result<Picture> {
    let format = PixelFormat::Nv12;
    let mut data = vec![0; format.bytes(SIZE.0, SIZE.1)];
    numbered::draw(number as u32, &mut data, SIZE.0, SIZE.1, SIZE.0, format)?;
    Ok(Picture { format, width: SIZE.0, height: SIZE.1, stride: SIZE.0, data: data.into() })
}

/// Encodes numbered frames one by one, decodes the access units and compares the numbers.
fn encode_numbered_frames(encoder: &str) -> Result<String> {
    let settings = Settings {
        width: SIZE.0,
        height: SIZE.1,
        codec: Codec::H264,
        bitrate_kbps: 8000,
        max_fps: 60,
        keyframe_ms: 0,
    };
    let (sender, outputs) = mpsc::channel();
    let sink = move |outcome| {
        // Fails after this function returned an error.
        let _received = sender.send((Instant::now(), outcome));
    };
    let choice: Choice = encoder.parse()?;
    let mut encoder = encoders::open(&choice, settings, Box::new(sink))?;
    let mut reader = NumberReader::default();
    let mut times = Histogram::<u64>::new(3)?;
    let (mut bytes, mut idrs) = (0, 0);
    let deadline = Instant::now() + ENCODER_TIME;
    for number in 0..FRAMES {
        let frame = frame(number)?;
        let submitted = Instant::now();
        encoder.submit(&frame, number, number * 16_667, number == FRAMES / 2)?;
        let (returned, outcome) = outputs
            .recv_timeout(ENCODE_TIMEOUT)
            .with_context(|| format!("no access unit for frame {number}"))?;
        let output = outcome.map_err(|(_, error): (u64, EncodeError)| error)?;
        ensure!(output.ticket == number, "access unit {} was returned for {number}", output.ticket);
        if number == 0 {
            let sps = annexb::sps(&output.data).context("the first access unit has no SPS")?;
            ensure!((sps.width, sps.height) == SIZE, "the SPS has size {} x {}", sps.width, sps.height);
            ensure!(annexb::is_entry_point(&output.data), "the first access unit is not an entry point");
        }
        let read = reader.read(&output.data).with_context(|| format!("frame {number}"))?;
        ensure!(u64::from(read) == number, "frame {number} was decoded as {read}");
        idrs += u32::from(output.idr);
        bytes += output.data.len() as u64;
        times.record(returned.duration_since(submitted).as_micros() as u64)?;
        if Instant::now() > deadline {
            break;
        }
    }
    let count = times.len();
    ensure!(count < FRAMES || idrs == 2, "{idrs} IDRs instead of 2");
    let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(format!(
        "{count} frames of {} x {}, all numbers decoded: p50 {:.1} ms, p99 {:.1} ms, {} kB, {idrs} IDRs",
        SIZE.0,
        SIZE.1,
        ms(0.5),
        ms(0.99),
        bytes / 1000
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_without_an_encoder_pass_on_this_machine() {
        for outcome in [token(), sockets(), shared_memory()] {
            outcome.expect("passes");
        }
    }

    #[test]
    fn encoder_that_makes_no_video_fails() {
        let error = encode_numbered_frames("null").expect_err("the null encoder's SPS has another size");
        assert!(error.to_string().contains("320 x 240"), "{error}");
    }
}
