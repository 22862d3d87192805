//! `host-agent selftest`: what can be tried on a host without a VM, in seconds: keys, sockets, shared memory between
//! tap and host-agent, and every encoder at the size of a desktop. Meant to be run first on a machine that nobody of
//! ours has seen, and its report to be sent to us.
//!
//! Encoders get numbered pictures; what they give is decoded, and the numbers are read back ([`viewer`]).

mod report;
mod viewer;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use doctor::{Leg, Report};
use ed25519_dalek::SigningKey;
use encode::encoder::PATIENCE;
use encode::{Codec, EncodeError, Found, Picture, PixelFormat, Settings, annexb};
use hdrhistogram::Histogram;
use frame_ring::{Meta, Producer, Ring, SLOTS};

use crate::auth::Verifier;
use crate::encoders::{self, Choice};
use crate::token;

pub use report::Sent;
use viewer::Viewer;

/// The desktop that everybody has.
const SIZE: (u32, u32) = (1920, 1080);
/// Pictures for each encoder.
const PICTURES: u64 = 120;

/// Tries everything; half a minute at most for each encoder.
pub fn examine() -> Report {
    let mut legs = vec![
        Leg::ok("host", format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH)),
        leg("token", token(), "report this: signing and checking is ours"),
        leg("sockets", sockets(), "allow this program to listen on 127.0.0.1"),
        leg("shared memory", shared_memory(), "raise the limits of this user's memory and open files"),
    ];
    let found = encoders::available();
    let works = found.iter().any(|found| found.trial.is_ok());
    legs.extend(found.into_iter().map(encoder));
    if !works {
        legs.push(Leg::failed("encoders", "none works", "install gstreamer1.0-plugins-ugly for x264enc"));
    }
    Report::new(legs)
}

fn leg(name: &str, tried: Result<String>, remedy: &str) -> Leg {
    match tried {
        Ok(detail) => Leg::ok(name, detail),
        Err(error) => Leg::failed(name, format!("{error:#}"), remedy),
    }
}

/// A token of a new key is good for its audience and no other.
fn token() -> Result<String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("no random bytes")?;
    let key = SigningKey::from_bytes(&seed);
    let minted = token::sign(&key, &token::claims("self/test", "here", 60)?)?;
    let good = Verifier::new(&[key.verifying_key()], "here").verify(&minted)?;
    ensure!(good.sub == "self/test", "it names {}", good.sub);
    ensure!(
        Verifier::new(&[key.verifying_key()], "elsewhere").verify(&minted).is_err(),
        "it is good for anybody"
    );
    Ok("signed, checked, refused elsewhere".to_owned())
}

fn sockets() -> Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("can't listen")?;
    let mut out = TcpStream::connect(listener.local_addr()?).context("can't connect")?;
    let (mut taken, _) = listener.accept()?;
    out.write_all(b"here")?;
    let mut heard = [0; 4];
    taken.set_read_timeout(Some(Duration::from_secs(5)))?;
    taken.read_exact(&mut heard)?;
    ensure!(heard == *b"here", "other bytes came");
    Ok("loopback carries".to_owned())
}

/// Pictures go through a ring as between tap and host-agent, with its bell.
fn shared_memory() -> Result<String> {
    let bytes = PixelFormat::Nv12.bytes(SIZE.0, SIZE.1);
    let (mut consumer, fd) = Ring::create(SLOTS, bytes)?;
    let (wake_fd, waker) = frame_ring::wake::pair()?;
    let mut producer = Producer::map(fd)?;
    let begin = Instant::now();
    for seq in 0..60 {
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
        ensure!(slot.publish(meta), "a picture's description was refused");
        waker.wake();
        ensure!(wake_fd.clear() == frame_ring::wake::WakeState::Woken, "the wake fd was not woken");
        let taken = consumer.newest().context("a picture is not there")?;
        let picture: &[u8] = taken.as_ref();
        ensure!(taken.meta().seq == seq, "picture {} came for {seq}", taken.meta().seq);
        ensure!(picture.iter().all(|byte| *byte == seq as u8), "picture {seq} has other bytes");
    }
    Ok(format!("60 pictures of {} x {} in {} ms", SIZE.0, SIZE.1, begin.elapsed().as_millis()))
}

fn encoder(found: Found) -> Leg {
    let name = format!("encoder {}", found.name);
    match found.trial {
        Err(EncodeError::Unavailable(why)) => Leg::skipped(name, why),
        Err(error) => {
            Leg::skipped(name, error.to_string()).but("it is there and does not work: see its driver")
        }
        Ok(_) => leg(&name, encoded(found.name), "choose another with --encoder, and send this report"),
    }
}

/// The numbered picture, moved from ours to the encoder's hands.
fn picture(number: u64) -> Result<Picture> {
    let mut data = vec![0; PixelFormat::Nv12.bytes(SIZE.0, SIZE.1)];
    numbered::draw(number as u32, &mut data, SIZE.0, SIZE.1, SIZE.0, PixelFormat::Nv12)?;
    Ok(Picture {
        format: PixelFormat::Nv12,
        width: SIZE.0,
        height: SIZE.1,
        stride: SIZE.0,
        data: data.into(),
    })
}

fn encoded(name: &str) -> Result<String> {
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
        // Nobody waits any more after a failure.
        let _waits = sender.send((Instant::now(), outcome));
    };
    let choice: Choice = name.parse()?;
    let mut encoder = encoders::open(&choice, settings, Box::new(sink))?;
    let mut viewer = Viewer::default();
    let mut times = Histogram::<u64>::new(3)?;
    let (mut bytes, mut idrs) = (0, 0);
    let until = Instant::now() + Duration::from_secs(30);
    for number in 0..PICTURES {
        let picture = picture(number)?;
        let submitted = Instant::now();
        encoder.submit(&picture, number, number * 16_667, number == PICTURES / 2)?;
        let (at, outcome) = outputs.recv_timeout(PATIENCE).context("an access unit did not come")?;
        let output = outcome.map_err(|(_, error): (u64, EncodeError)| error)?;
        ensure!(output.ticket == number, "access unit {} came for {number}", output.ticket);
        if number == 0 {
            let sps = annexb::sps(&output.data).context("no SPS in the first access unit")?;
            ensure!((sps.width, sps.height) == SIZE, "its size is {} x {}", sps.width, sps.height);
            ensure!(annexb::is_entry_point(&output.data), "no decoder can begin with the first access unit");
        }
        let seen = viewer.number(&output.data).with_context(|| format!("picture {number}"))?;
        ensure!(u64::from(seen) == number, "picture {number} came back as {seen}");
        idrs += u32::from(output.idr);
        bytes += output.data.len() as u64;
        times.record(at.duration_since(submitted).as_micros() as u64)?;
        if Instant::now() > until {
            break;
        }
    }
    let count = times.len();
    ensure!(count < PICTURES || idrs == 2, "{idrs} IDRs where two were asked for");
    Ok(format!(
        "{count} pictures of {} x {}, all numbers read back: p50 {:.1} ms, p99 {:.1} ms, {} kB, {idrs} IDRs",
        SIZE.0,
        SIZE.1,
        times.value_at_quantile(0.5) as f64 / 1000.0,
        times.value_at_quantile(0.99) as f64 / 1000.0,
        bytes / 1000
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_encoder_holds_here() {
        for tried in [token(), sockets(), shared_memory()] {
            tried.expect("holds");
        }
    }

    #[test]
    fn an_encoder_that_makes_no_video_is_found_out() {
        let error = encoded("null").expect_err("its SPS says 320 x 240");
        assert!(error.to_string().contains("320 x 240"), "{error}");
    }
}
