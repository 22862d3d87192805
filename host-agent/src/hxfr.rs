//! The HXFR protocol of the GStreamer element `vsockenc`, on a listener of its own. Each connection has one
//! encoder.
//!
//! `vsockenc` sends a frame and waits for its access unit, so there is no queue and no keepalive here.
//! Frames that are sent as pixels are encoded. A resource ID without pixels is always refused: HXFR has no
//! proof of the sender's context, and the tap reads a resource only for a context that the guest kernel
//! attested. Every peer is served, so there is no HXFR listener by default.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use encode::{Codec, EncodeError, Encoder, Output, Picture, Settings};
use protocol::hxfr::{
    Config, FRAME_BYTES, Frame, HEADER_BYTES, Header, Reply, Request, error_code, request_limit,
};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::connection::HANDSHAKE_TIMEOUT;
use crate::encoders::Choice;
use crate::framing::{FramedReader, ReadError};
use crate::listen::{Connection, Opened};
use crate::meter::{Count, Meter, Numbers, Time};

/// Bit rate before `Config`, kbit/s: the default of the element's property.
const DEFAULT_BITRATE_KBPS: u32 = 4000;
/// Frame rate before `Config`.
const DEFAULT_FPS: u32 = 60;
/// Maximum time for a guest to accept a reply.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// State that all connections share.
#[derive(Debug)]
pub struct HxfrService {
    /// Encoder of all connections.
    pub encoder: Choice,
    /// Totals of the process.
    pub totals: Arc<Numbers>,
    /// Maximum size of a frame in pixels.
    pub max_pixels: u32,
    /// Time without a message after which a connection ends.
    pub idle_timeout: Duration,
}

/// Reason why a connection ended.
#[derive(Debug, thiserror::Error)]
enum EndReason {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the guest does not read: {0}")]
    Write(#[from] std::io::Error),
    #[error("the encoder thread panicked")]
    Panic,
}

/// Serves one connection until it ends.
pub async fn serve(service: Arc<HxfrService>, connection: Connection, mut stop: watch::Receiver<bool>) {
    let peer = connection.peer.clone();
    tracing::info!(peer, "HXFR connection started");
    let end = tokio::select! {
        end = serve_requests(&service, connection) => end,
        () = crate::accept::stopped(&mut stop) => Ok(()),
    };
    let reason = end.err().map_or_else(|| "shutting down".to_owned(), |reason| reason.to_string());
    tracing::info!(peer, reason, "HXFR connection ended");
}

async fn serve_requests(service: &HxfrService, connection: Connection) -> Result<(), EndReason> {
    let opened = timeout(HANDSHAKE_TIMEOUT, connection.open()).await;
    let opened = opened.map_err(|_| ReadError::Idle(HANDSHAKE_TIMEOUT))?.map_err(ReadError::from)?;
    let Opened { reader, writer, .. } = opened;
    let mut reader = FramedReader::<_, Header>::new(reader);
    let meter = Meter::new(Arc::clone(&service.totals));
    let mut encoder = ConnectionEncoder::new(service.encoder.clone(), meter.clone());
    loop {
        let limit = |kind| payload_limit(kind, service.max_pixels);
        let (header, payload) = reader.read(service.idle_timeout, limit).await?;
        meter.add(Count::BytesIn, (HEADER_BYTES + payload.len()) as u64);
        let reply = match Request::decode(header, payload) {
            Ok(Request::Ping) => Some(Reply::Pong),
            Ok(Request::Keyframe) => {
                encoder.keyframe = true;
                None
            }
            Ok(Request::Config(config)) => {
                encoder.configure(config);
                Some(Reply::Configured)
            }
            Ok(Request::Frame(frame)) => {
                let encode = move || {
                    let reply = encoder.encode_frame(frame);
                    (encoder, reply)
                };
                let (returned, reply) =
                    tokio::task::spawn_blocking(encode).await.map_err(|_| EndReason::Panic)?;
                encoder = returned;
                Some(reply)
            }
            Err(error) => Some(error_reply(error_code::INVALID_MESSAGE, &error)),
        };
        if let Some(reply) = reply {
            let bytes = reply.encode(header.session);
            timeout(WRITE_TIMEOUT, writer.write_all(&bytes))
                .await
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
            meter.add(Count::BytesOut, bytes.len() as u64);
        }
    }
}

fn error_reply(code: i32, message: &impl ToString) -> Reply {
    Reply::Error { code, message: message.to_string() }
}

/// Maximum payload of a message type: twice a tightly packed 32-bit frame, which allows for padded rows.
fn payload_limit(kind: u8, max_pixels: u32) -> Option<u32> {
    request_limit(kind).map(|limit| limit.min(max_pixels.saturating_mul(8).saturating_add(FRAME_BYTES)))
}

/// The encoder of one connection.
struct ConnectionEncoder {
    choice: Choice,
    meter: Meter,
    bitrate_kbps: u32,
    max_fps: u32,
    /// The next frame must be an IDR.
    keyframe: bool,
    open: Option<OpenEncoder>,
    last_ticket: u64,
}

struct OpenEncoder {
    settings: Settings,
    encoder: Box<dyn Encoder>,
    outputs: mpsc::Receiver<Result<Output, EncodeError>>,
}

impl ConnectionEncoder {
    fn new(choice: Choice, meter: Meter) -> Self {
        let (bitrate_kbps, max_fps) = (DEFAULT_BITRATE_KBPS, DEFAULT_FPS);
        Self { choice, meter, bitrate_kbps, max_fps, keyframe: false, open: None, last_ticket: 0 }
    }

    /// Applies rates; invalid ones are ignored. The size arrives with each frame.
    fn configure(&mut self, config: Config) {
        if config.bitrate >= 1000 {
            self.bitrate_kbps = (config.bitrate / 1000).min(encode::picture::MAX_BITRATE_KBPS);
        }
        if let Some(fps) = config.fps_num.checked_div(config.fps_den).filter(|fps| *fps > 0) {
            self.max_fps = fps.min(encode::picture::MAX_FPS);
        }
        self.open = None;
    }

    fn encode_frame(&mut self, frame: Frame) -> Reply {
        let (pts, resource) = (frame.pts, frame.resource);
        let Some(pixels) = frame.pixels else {
            let message = format!(
                "cannot read resource {resource}: HXFR has no proof that the sender may access it; use the desktopstream \
                 sidecar, or send pixels"
            );
            return error_reply(error_code::RESOURCE, &message);
        };
        self.meter.add(Count::Captured, 1);
        let picture = Picture {
            format: frame.format,
            width: frame.width,
            height: frame.height,
            stride: frame.stride,
            data: pixels,
        };
        match self.encode(&picture, frame.keyframe) {
            Ok(output) => {
                self.meter.add(Count::Encoded, 1);
                self.meter.add(Count::Idr, output.idr.into());
                Reply::Frame { pts, dts: pts, keyframe: output.idr, units: vec![output.data] }
            }
            Err(error) => {
                self.meter.add(Count::Dropped, 1);
                if !matches!(error, EncodeError::BadPicture(_)) {
                    self.open = None;
                }
                error_reply(error_code::ENCODE, &error)
            }
        }
    }

    /// Encodes a frame and waits for its access unit. The encoder is kept unless it failed.
    fn encode(&mut self, picture: &Picture, keyframe: bool) -> Result<Output, EncodeError> {
        let settings = Settings {
            width: picture.width,
            height: picture.height,
            codec: Codec::H264,
            bitrate_kbps: self.bitrate_kbps,
            max_fps: self.max_fps,
            keyframe_ms: 0,
        };
        let mut open = match self.open.take() {
            Some(open) if open.settings == settings => open,
            _ => OpenEncoder::new(&self.choice, settings)?,
        };
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        // The element's timestamps may repeat or go back; an encoder needs increasing ones.
        let pts_us = ticket * 1_000_000 / u64::from(self.max_fps);
        let begin = std::time::Instant::now();
        let submitted = open.encoder.submit(picture, ticket, pts_us, keyframe || self.keyframe);
        let output = submitted.and_then(|()| {
            let output = open.outputs.recv_timeout(encode::encoder::ENCODE_TIMEOUT);
            output.map_err(|_| EncodeError::Broken("it returned no access unit".to_owned()))?
        });
        if matches!(output, Ok(_) | Err(EncodeError::BadPicture(_))) {
            self.open = Some(open);
        }
        let output = output?;
        self.keyframe = false;
        self.meter.record(Time::Encode, begin.elapsed().as_micros() as u64);
        Ok(output)
    }
}

impl OpenEncoder {
    fn new(choice: &Choice, settings: Settings) -> Result<Self, EncodeError> {
        let (sender, outputs) = mpsc::channel();
        let sink = move |outcome: Result<Output, (u64, EncodeError)>| {
            // Fails after the connection ended.
            let _received = sender.send(outcome.map_err(|(_, error)| error));
        };
        let encoder = crate::encoders::open(choice, settings, Box::new(sink))?;
        Ok(Self { settings, encoder, outputs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_limited_by_the_maximum_frame_size() {
        let frame = 1;
        assert!(request_limit(frame).is_some_and(|limit| limit > 8 * 100 + FRAME_BYTES));
        assert_eq!(payload_limit(frame, 100), Some(8 * 100 + FRAME_BYTES));
        assert_eq!(payload_limit(0x30, 100), None);
    }
}
