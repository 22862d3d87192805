//! Fake host-agent without tap.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use encode::{Choice, Encoder, Output, Picture, Settings};
use protocol::frame::{HEADER_BYTES, Header};
use protocol::stream::{AccessUnit, ClientMessage, ErrorCode, ServerMessage, VERSION};

/// Behaviour towards clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Encodes pushed pixels.
    Encode,
    /// Encodes, and closes the first connection after this many pictures.
    HangUpAfter(u32),
    /// Refuses the token as expired.
    Refuse,
    /// Accepts pictures and sends no access units.
    Mute,
}

/// Fake host-agent.
#[derive(Debug)]
pub struct Agent {
    pub address: SocketAddr,
    pub keyframe_requests: Arc<AtomicU32>,
    pub sessions: Arc<AtomicU32>,
}

impl Agent {
    /// Listens on threads that end with the process.
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let (keyframe_requests, sessions) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (requests, count) = (Arc::clone(&keyframe_requests), Arc::clone(&sessions));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = count.fetch_add(1, Ordering::Relaxed);
                let requests = Arc::clone(&requests);
                let behaviour = match behaviour {
                    Behaviour::HangUpAfter(_) if number > 0 => Behaviour::Encode,
                    other => other,
                };
                // The thread ends when the client disconnects.
                std::thread::spawn(move || serve(stream, behaviour, &requests));
            }
        });
        Self { address, keyframe_requests, sessions }
    }
}

fn serve(mut stream: TcpStream, behaviour: Behaviour, requests: &AtomicU32) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let out = Arc::new(Mutex::new(stream.try_clone().ok()?));
    let mut encoder: Option<Box<dyn Encoder>> = None;
    let tickets = Arc::new(Mutex::new(Vec::<(u64, u64)>::new()));
    let (mut pictures, mut idr) = (0, true);
    loop {
        match receive(&mut stream)? {
            ClientMessage::Hello { .. } if behaviour == Behaviour::Refuse => {
                let message = "the token has expired".to_owned();
                send(&out, &ServerMessage::Error { code: ErrorCode::ExpiredToken, message });
                return None;
            }
            ClientMessage::Hello { .. } => send(
                &out,
                &ServerMessage::HelloAck {
                    version: VERSION,
                    session: 1,
                    nonce: [7; 16],
                    taps: 0,
                    max_pixels: u32::MAX,
                    server: "test".to_owned(),
                },
            ),
            ClientMessage::Configure(config) => {
                let settings = Settings {
                    width: config.width.into(),
                    height: config.height.into(),
                    codec: config.codec,
                    bitrate_kbps: config.bitrate_kbps,
                    max_fps: config.max_fps.into(),
                    keyframe_ms: config.keyframe_ms,
                };
                let (out, tickets) = (Arc::clone(&out), Arc::clone(&tickets));
                let sink = move |output: Result<Output, _>| {
                    let Output { ticket, idr, data, .. } =
                        output.map_err(|(_, error)| error).expect("encoded");
                    let (seq, capture_ns) = tickets.lock().expect("whole")[ticket as usize];
                    let unit =
                        AccessUnit { seq, capture_ns, idr, repeat: false, queue_us: 0, encode_us: 0, data };
                    send(&out, &ServerMessage::AccessUnit(unit));
                };
                encoder = Some(encode::open(&Choice::Auto, settings, Box::new(sink)).expect("an encoder"));
                idr = true;
            }
            ClientMessage::Pixels(pixels) if behaviour != Behaviour::Mute => {
                if matches!(behaviour, Behaviour::HangUpAfter(most) if pictures >= most) {
                    return None;
                }
                let (width, height) = (u32::from(pixels.width), u32::from(pixels.height));
                let picture =
                    Picture { format: pixels.format, width, height, stride: width, data: pixels.data };
                let ticket = {
                    let mut tickets = tickets.lock().expect("whole");
                    tickets.push((pixels.seq, pixels.capture_ns));
                    tickets.len() as u64 - 1
                };
                pictures += 1;
                let time = u64::from(pictures) * 16_000;
                encoder.as_mut()?.submit(&picture, ticket, time, std::mem::take(&mut idr)).ok()?;
            }
            ClientMessage::RequestKeyframe => {
                requests.fetch_add(1, Ordering::Relaxed);
                idr = true;
            }
            ClientMessage::Ping(token) => send(&out, &ServerMessage::Pong(token)),
            ClientMessage::Bye => return None,
            ClientMessage::Renew { .. } | ClientMessage::Pixels(_) => {}
        }
    }
}

fn receive(stream: &mut TcpStream) -> Option<ClientMessage> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).ok()?;
    let header = Header::decode(head, ClientMessage::limit).ok()?;
    let mut payload = vec![0; header.len as usize];
    stream.read_exact(&mut payload).ok()?;
    ClientMessage::decode(header, payload.into()).ok()
}

fn send(out: &Mutex<TcpStream>, message: &ServerMessage) {
    // Fails if the client has disconnected, which ends the reading thread.
    let _ = out.lock().expect("whole").write_all(&message.encode().to_vec());
}
