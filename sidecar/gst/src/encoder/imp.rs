//! Properties and pads of the element, and the state that its two threads share.
//!
//! The upstream thread converts buffers to frames and waits for room ([`sink`]). The source pad's task pushes access
//! units and watches the frame path ([`src`]). Threads wait on `changed`, and hold neither `session` nor `input` while
//! they do.

mod sink;
mod src;

use std::path::PathBuf;
use std::sync::{self, LazyLock, PoisonError};
use std::time::{Duration, Instant};

use contract::{Endpoint, FramePath};
use frame_path::upstream::{EndpointSource, SIDECAR, TokenSource, UpstreamOptions};
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use parking_lot::{Condvar, Mutex, MutexGuard};
use protocol::pixel::MAX_SIDE;

use super::Require;
use super::input::Input;
use super::ledger::Ledger;
use super::session::Session;
use crate::caps;

/// Interval at which waits check their condition.
const TICK: Duration = Duration::from_millis(20);
/// Time without a session after which the element fails.
const DISCONNECTED_TIMEOUT: Duration = Duration::from_secs(5);
/// Latency reported to live pipelines: frame to access unit.
const LATENCY: gst::ClockTime = gst::ClockTime::from_mseconds(50);
/// Frame rate assumed if the caps contain none.
const DEFAULT_FPS: u16 = 60;

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| caps::category("desktopstreamenc", "encoding on the VM's host"));

#[derive(Debug, Clone)]
struct Settings {
    host_agent: Option<String>,
    plaintext_tcp: bool,
    token: Option<String>,
    token_file: Option<String>,
    tls_key_file: Option<String>,
    bitrate: u32,
    keyframe_interval: u32,
    render_node: String,
    require: Require,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host_agent: None,
            plaintext_tcp: false,
            token: None,
            token_file: None,
            tls_key_file: None,
            bitrate: 6000,
            keyframe_interval: 10_000,
            render_node: "/dev/dri/renderD128".to_owned(),
            require: Require::Any,
        }
    }
}

/// State shared by the upstream thread and the source pad's task.
#[derive(Debug)]
struct Flow {
    ledger: Ledger,
    /// Last flow result of downstream, or the element's own error.
    last: Result<gst::FlowSuccess, gst::FlowError>,
    flushing: bool,
    /// EOS was sent: no buffer may follow.
    ended: bool,
    frame_path: Option<FramePath>,
    /// Time since which the host-agent cannot be used.
    disconnected: Option<Instant>,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            ledger: Ledger::default(),
            last: Ok(gst::FlowSuccess::Ok),
            flushing: false,
            ended: false,
            frame_path: None,
            disconnected: None,
        }
    }
}

#[derive(Debug, glib::Properties)]
#[properties(wrapper_type = super::Encoder)]
pub struct Encoder {
    #[property(name = "host-agent", get, set, type = Option<String>, member = host_agent, mutable_ready,
        blurb = "Endpoint: tls://HOST:PORT#sha256=FINGERPRINT, unix:/PATH, vsock://CID:PORT or, in plaintext, tcp://HOST:PORT; default $DESKTOPSTREAM_UPSTREAM")]
    #[property(name = "plaintext-tcp", get, set, type = bool, member = plaintext_tcp, mutable_ready,
        blurb = "Allow tcp:// beyond loopback: everything on the way can read and change video, token and nonce")]
    #[property(name = "token", set, type = Option<String>, member = token, mutable_ready,
        blurb = "Token for the host-agent; default $DESKTOPSTREAM_TOKEN")]
    #[property(name = "token-file", get, set, type = Option<String>, member = token_file, mutable_ready,
        blurb = "File with the token, read for every connection; default $DESKTOPSTREAM_TOKEN_FILE")]
    #[property(name = "tls-key-file", get, set, type = Option<String>, member = tls_key_file, mutable_ready,
        blurb = "File with the private key that the token is bound to, for tls:// endpoints; default $DESKTOPSTREAM_TLS_KEY_FILE")]
    #[property(name = "bitrate", get, set, type = u32, member = bitrate, minimum = 100, maximum = 200_000,
        default = 6000, mutable_ready, blurb = "Bit rate, kbit/s")]
    #[property(name = "keyframe-interval", get, set, type = u32, member = keyframe_interval, default = 10_000,
        mutable_ready, blurb = "Maximum time between keyframes, ms; 0 for keyframes on demand only")]
    #[property(name = "render-node", get, set, type = String, member = render_node, mutable_ready,
        blurb = "DRM render node that the desktop renders on")]
    #[property(name = "require", get, set, type = Require, member = require, mutable_ready,
        blurb = "Required frame path", builder(Require::Any))]
    // The property macro supports only the standard library's mutex.
    settings: sync::Mutex<Settings>,
    #[property(name = "frame-path", get = Self::frame_path_name, type = String,
        blurb = "Frame path in use: ResourceId or Pixels; empty before the first frame")]
    #[property(name = "lost", get = Self::lost, type = u64, blurb = "Number of frames without access unit")]
    flow: Mutex<Flow>,
    changed: Condvar,
    input: Mutex<Option<Input>>,
    session: Mutex<Option<Session>>,
    sink: gst::Pad,
    src: gst::Pad,
}

#[glib::object_subclass]
impl ObjectSubclass for Encoder {
    const NAME: &'static str = "GstDesktopStreamEnc";
    type Type = super::Encoder;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        let templates = Self::pad_templates();
        let template = |name| class.pad_template(name).unwrap_or_else(|| templates[0].clone());
        let sink = gst::Pad::builder_from_template(&template("sink"))
            .chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(parent, || Err(gst::FlowError::Error), |it| it.chain(buffer))
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |it| it.sink_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |it| it.sink_query(pad, query))
            })
            .build();
        let src = gst::Pad::builder_from_template(&template("src"))
            .activatemode_function(|pad, _, _, active| {
                // The first caps start the task.
                if active { Ok(()) } else { pad.stop_task().map_err(Into::into) }
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |it| it.src_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |it| it.src_query(pad, query))
            })
            .build();
        Self {
            settings: sync::Mutex::default(),
            flow: Mutex::default(),
            changed: Condvar::new(),
            input: Mutex::default(),
            session: Mutex::default(),
            sink,
            src,
        }
    }
}

#[glib::derived_properties]
impl ObjectImpl for Encoder {
    fn constructed(&self) {
        self.parent_constructed();
        for pad in [&self.sink, &self.src] {
            if let Err(error) = self.obj().add_pad(pad) {
                gst::error!(CAT, imp = self, "{error}");
            }
        }
    }
}

impl GstObjectImpl for Encoder {}

impl ElementImpl for Encoder {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Encoder on the VM's host",
                "Codec/Encoder/Video",
                "Sends virtio-gpu buffers to the VM's host by resource ID, where they are encoded to H.264",
                "desktopstream",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let side = gst::IntRange::new(1, MAX_SIDE as i32);
            let h264 = gst::Caps::builder("video/x-h264")
                .field("stream-format", "byte-stream")
                .field("alignment", "au")
                .field("width", side)
                .field("height", side)
                .build();
            let always = gst::PadPresence::Always;
            let sink = gst::PadTemplate::new("sink", gst::PadDirection::Sink, always, &caps::template());
            let src = gst::PadTemplate::new("src", gst::PadDirection::Src, always, &h264);
            sink.into_iter().chain(src).collect()
        });
        &TEMPLATES
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::ReadyToPaused => {
                // Invalid settings fail before any thread starts.
                if let Err(text) = self.upstream() {
                    gst::element_imp_error!(self, gst::ResourceError::Settings, ("{text}"));
                    return Err(gst::StateChangeError);
                }
                *self.flow() = Flow::default();
            }
            gst::StateChange::PausedToReady => {
                self.flow().flushing = true;
                self.changed.notify_all();
            }
            _ => {}
        }
        let result = self.parent_change_state(transition);
        if transition == gst::StateChange::PausedToReady {
            // After the pads are inactive: their threads use both.
            *self.session.lock() = None;
            *self.input.lock() = None;
        }
        result
    }
}

impl Encoder {
    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock()
    }

    fn settings(&self) -> Settings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn frame_path_name(&self) -> String {
        self.flow().frame_path.map(|path| path.to_string()).unwrap_or_default()
    }

    fn lost(&self) -> u64 {
        self.flow().ledger.lost()
    }

    /// Connection options, from properties and environment.
    fn upstream(&self) -> Result<UpstreamOptions, String> {
        let Settings { host_agent, plaintext_tcp, token, token_file, tls_key_file, .. } = self.settings();
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let url = host_agent.or_else(|| variable("DESKTOPSTREAM_UPSTREAM")).ok_or(
            "no host-agent is configured: set host-agent=tls://HOST:PORT#sha256=FINGERPRINT, unix:/PATH or vsock://CID:PORT, or the \
             variable DESKTOPSTREAM_UPSTREAM",
        )?;
        let endpoint: Endpoint = url.parse().map_err(|error| format!("host-agent={url}: {error}"))?;
        if endpoint.is_exposed_plaintext() && !plaintext_tcp {
            return Err(format!(
                "host-agent={url} is plaintext: use tls://HOST:PORT#sha256=FINGERPRINT, or set plaintext-tcp=true"
            ));
        }
        let (token, token_file) = match (token, token_file) {
            (None, None) => (variable("DESKTOPSTREAM_TOKEN"), variable("DESKTOPSTREAM_TOKEN_FILE")),
            given => given,
        };
        Ok(UpstreamOptions {
            endpoint: EndpointSource::Fixed(endpoint),
            token: TokenSource::new(token_file.map(PathBuf::from), token),
            tls_key: tls_key_file.or_else(|| variable("DESKTOPSTREAM_TLS_KEY_FILE")).map(PathBuf::from),
            client: SIDECAR,
        })
    }

    /// Fails the pipeline; only the first error is posted.
    fn fail(&self, text: &str) {
        // Posted before the flow ends, so that upstream's "internal data stream error" is not the first message.
        let failed = self.flow().last == Err(gst::FlowError::Error);
        if !failed {
            gst::element_imp_error!(self, gst::ResourceError::Failed, ("{text}"));
        }
        self.flow().last = Err(gst::FlowError::Error);
        self.changed.notify_all();
    }

    fn want_idr(&self) {
        if let Some(session) = &*self.session.lock() {
            session.want_idr();
        }
    }
}
