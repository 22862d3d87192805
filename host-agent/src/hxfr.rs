//! The predecessor's protocol on a listener of its own: each connection is one encoder.
//!
//! Its element `vsockenc` sends a picture and waits for the access unit, so that there is no queue, no
//! keep-alive and no newest-wins here. Pixels that it sends along are encoded. A resource ID without
//! pixels is refused, always: this protocol can't say which context asks, and the tap reads for nobody
//! whose right the guest's kernel has not stamped on the request (DESIGN, "Pairing and rights").
//! Whoever can reach the listener is served, which is why it is off unless asked for.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use encode::{Codec, EncodeError, Encoder, Output, Picture, Settings};
use protocol::DecodeError;
use protocol::hxfr::{
    Config, FRAME_BYTES, Frame, HEADER_BYTES, Header, Reply, Request, error_code, request_limit,
};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::encoders::Choice;
use crate::listen::{Connection, Reader};
use crate::meter::{Count, Meter, Numbers, Time};
use crate::wire::ReadError;

/// Bit rate until a `Config` comes, kbit/s: the default of the element's own property.
const BITRATE_KBPS: u32 = 4000;
/// Frame rate until a `Config` comes.
const FPS: u32 = 60;
/// Longest time for a message that has begun, and for an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all connections share.
#[derive(Debug)]
pub struct Predecessor {
    /// Which encoder.
    pub encoder: Choice,
    /// Numbers of the process.
    pub totals: Arc<Numbers>,
    /// Most pixels of a picture.
    pub max_pixels: u32,
    /// A guest that says nothing for so long is gone.
    pub idle: Duration,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the guest does not read: {0}")]
    Write(#[from] std::io::Error),
    #[error("the encoder's thread panicked")]
    Panic,
}

/// Serves one connection to its end.
pub async fn serve(shared: Arc<Predecessor>, connection: Connection, mut stop: watch::Receiver<bool>) {
    let peer = connection.peer.clone();
    tracing::info!(peer, "HXFR connection");
    let end = tokio::select! {
        end = answer_all(&shared, connection) => end,
        _ = stop.wait_for(|stop| *stop) => Ok(()),
    };
    let reason = end.err().map_or_else(|| "stopped".to_owned(), |end| end.to_string());
    tracing::info!(peer, reason, "HXFR connection ended");
}

async fn answer_all(shared: &Predecessor, connection: Connection) -> Result<(), End> {
    let Connection { reader, writer, .. } = connection;
    let mut reader = BufReader::new(reader);
    let meter = Meter::new(Arc::clone(&shared.totals));
    let mut coder = Coder::new(shared.encoder.clone(), meter.clone());
    loop {
        let (header, payload) = read(&mut reader, shared).await?;
        meter.add(Count::BytesIn, (HEADER_BYTES + payload.len()) as u64);
        let reply = match Request::decode(header, payload) {
            Ok(Request::Ping) => Some(Reply::Pong),
            Ok(Request::Keyframe) => {
                coder.keyframe = true;
                None
            }
            Ok(Request::Config(config)) => {
                coder.configure(config);
                Some(Reply::Configured)
            }
            Ok(Request::Frame(frame)) => {
                let (back, reply) = tokio::task::spawn_blocking(move || {
                    let reply = coder.frame(frame);
                    (coder, reply)
                })
                .await
                .map_err(|_| End::Panic)?;
                coder = back;
                Some(reply)
            }
            Err(error) => Some(error_reply(error_code::INVALID_MESSAGE, &error)),
        };
        if let Some(reply) = reply {
            let bytes = reply.encode(header.session);
            timeout(PATIENCE, writer.write_all(&bytes))
                .await
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
            meter.add(Count::BytesOut, bytes.len() as u64);
        }
    }
}

fn error_reply(code: i32, message: &impl ToString) -> Reply {
    Reply::Error { code, message: message.to_string() }
}

async fn read(reader: &mut BufReader<Reader>, shared: &Predecessor) -> Result<(Header, Bytes), ReadError> {
    let mut bytes = [0; HEADER_BYTES];
    let first = timeout(shared.idle, reader.read(&mut bytes)).await;
    let first = first.map_err(|_| ReadError::Silent(shared.idle))??;
    if first == 0 {
        return Err(ReadError::Closed);
    }
    let rest = async {
        reader.read_exact(&mut bytes[first..]).await?;
        let header = Header::decode(bytes, |kind| limit(kind, shared.max_pixels))?;
        let mut payload = BytesMut::zeroed(header.len as usize);
        reader.read_exact(&mut payload).await?;
        Ok((header, payload.freeze()))
    };
    timeout(PATIENCE, rest).await.map_err(|_| ReadError::Silent(PATIENCE))?
}

/// Pixels may have padded rows: twice a tight picture is more than any allocator pads.
fn limit(kind: u8, max_pixels: u32) -> Option<u32> {
    request_limit(kind).map(|most| most.min(max_pixels.saturating_mul(8).saturating_add(FRAME_BYTES)))
}

/// One connection's encoder.
struct Coder {
    choice: Choice,
    meter: Meter,
    bitrate_kbps: u32,
    max_fps: u32,
    keyframe: bool,
    encoder: Option<Made>,
    tickets: u64,
}

struct Made {
    settings: Settings,
    encoder: Box<dyn Encoder>,
    outputs: mpsc::Receiver<Result<Output, EncodeError>>,
}

impl Coder {
    fn new(choice: Choice, meter: Meter) -> Self {
        let (bitrate_kbps, max_fps) = (BITRATE_KBPS, FPS);
        Self { choice, meter, bitrate_kbps, max_fps, keyframe: false, encoder: None, tickets: 0 }
    }

    /// The size comes with each frame; a rate that makes no sense changes nothing.
    fn configure(&mut self, config: Config) {
        if config.bitrate >= 1000 {
            self.bitrate_kbps = (config.bitrate / 1000).min(encode::picture::MAX_BITRATE_KBPS);
        }
        if let Some(fps) = config.fps_num.checked_div(config.fps_den).filter(|fps| *fps > 0) {
            self.max_fps = fps.min(encode::picture::MAX_FPS);
        }
        self.encoder = None;
    }

    fn frame(&mut self, frame: Frame) -> Reply {
        let (pts, resource) = (frame.pts, frame.resource);
        let Some(pixels) = frame.pixels else {
            let message = format!(
                "resource {resource} is not read: HXFR can't prove that the sender may see it; use the \
                 desktopstream sidecar, or send the pixels"
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
                    self.encoder = None;
                }
                error_reply(error_code::ENCODE, &error)
            }
        }
    }

    fn encode(&mut self, picture: &Picture, keyframe: bool) -> Result<Output, EncodeError> {
        let settings = Settings {
            width: picture.width,
            height: picture.height,
            codec: Codec::H264,
            bitrate_kbps: self.bitrate_kbps,
            max_fps: self.max_fps,
            keyframe_ms: 0,
        };
        let mut made = match self.encoder.take() {
            Some(made) if made.settings == settings => made,
            _ => Made::new(&self.choice, settings)?,
        };
        self.tickets += 1;
        let begin = std::time::Instant::now();
        // The element's own times may stand still or go back; an encoder's must not.
        let submitted = made.encoder.submit(
            picture,
            self.tickets,
            self.tickets * 1_000_000 / u64::from(self.max_fps),
            keyframe || self.keyframe,
        );
        let output = submitted.and_then(|()| {
            let output = made.outputs.recv_timeout(encode::encoder::PATIENCE);
            output.map_err(|_| EncodeError::Broken("it gave nothing".to_owned()))?
        });
        if matches!(output, Ok(_) | Err(EncodeError::BadPicture(_))) {
            self.encoder = Some(made);
        }
        let output = output?;
        self.keyframe = false;
        self.meter.record(Time::Encode, begin.elapsed().as_micros() as u64);
        Ok(output)
    }
}

impl Made {
    fn new(choice: &Choice, settings: Settings) -> Result<Self, EncodeError> {
        let (sender, outputs) = mpsc::channel();
        let sink = move |outcome: Result<Output, (u64, EncodeError)>| {
            // Nobody waits any more once the connection is gone.
            let _waits = sender.send(outcome.map_err(|(_, error)| error));
        };
        let encoder = crate::encoders::open(choice, settings, Box::new(sink))?;
        Ok(Self { settings, encoder, outputs })
    }
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        Self::Read(error.into())
    }
}
