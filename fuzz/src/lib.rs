//! Properties that the fuzz targets check. A failed assertion is a finding.
//!
//! A decoder may refuse any bytes, but must not panic. Accepted bytes are canonical: encoding the decoded
//! value gives the same bytes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use contract::display::{DisplaySize, MAX_PIXELS, MAX_SIDE, MIN_SIZE};
use contract::{Endpoint, StreamName};
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue};
use operator_api::DesktopStream;
use operator_docker::names::{Project, StreamKey};
use operator_docker::{own_labels, unsupported};
use operator_plan::kubernetes::{SidecarImage, inject, objects, pod};
use operator_plan::pair::Pairing;
use operator_plan::rights::rights;
use operator_plan::validate::security::Policy;
use operator_plan::validate::validate;
use operator_plan::workload::workload;
use protocol::frame::{Decoder, HEADER_BYTES, Message};
use protocol::mailbox::{Answer, Operation, Request};
use protocol::stream::{ClientMessage, Pixels};
use protocol::{PixelFormat, Rect, hxfr};
use serde_json::{Value, json};
use stream_token::{Signer, Verifier, parse_public_keys, print_public_key, unverified_claims};
use viewers::server::auth::origin::{AllowedOrigins, Host};
use viewers::server::auth::session::{Session, Sessions};

/// Decodes a peer's bytes as messages of a framed protocol: unchanged, and with a header that has the
/// right length, so that the fuzzer reaches the payload decoders.
pub fn framed<T: Message>(sent: &[u8]) {
    take_all::<T>(sent);
    if let Some((header, payload)) = sent.split_first_chunk::<HEADER_BYTES>() {
        let len = (payload.len() as u32).to_le_bytes();
        take_all::<T>(&[&len[..], &[header[4], 0, 0, 0], payload].concat());
    }
}

fn take_all<T: Message>(sent: &[u8]) {
    let mut decoder = Decoder::new();
    decoder.push(sent);
    let mut at = 0;
    while let Ok(Some(message)) = decoder.next_message::<T>() {
        let encoded = message.encode();
        assert_eq!(encoded.to_vec(), &sent[at..at + encoded.len()], "not canonical");
        at += encoded.len();
        assert_eq!(decoder.buffered(), sent.len() - at, "took more or less than the message");
    }
}

/// Checks a mailbox request: 64 bytes from a guest.
pub fn mailbox_request(bytes: &[u8]) {
    if let Ok(bytes) = bytes.try_into()
        && let Ok(request) = Request::decode(&bytes)
    {
        assert!(Request::is_request(&bytes));
        assert_eq!(request.encode(), bytes, "not canonical");
        if let Operation::Frame(frame) = request.operation {
            assert!(frame.damage.fits(frame.width.into(), frame.height.into()), "damage outside");
            assert!(frame.format != PixelFormat::Nv12, "NV12 cannot be read");
        }
    }
}

/// Checks a mailbox answer.
pub fn mailbox_answer(bytes: &[u8]) {
    if let Ok(bytes) = bytes.try_into()
        && let Ok(answer) = Answer::decode(&bytes)
    {
        assert_eq!(answer.encode(), bytes, "not canonical");
    }
}

/// Checks a request of the predecessor's element. HXFR ignores reserved bytes, so accepted bytes need not
/// be canonical, but the decoded value round-trips.
pub fn hxfr_request(sent: &[u8]) {
    let take = |bytes: &[u8]| {
        let (header, payload) = hxfr_split(bytes, hxfr::request_limit)?;
        hxfr::Request::decode(header, payload).ok()
    };
    if let Some(request) = take(sent) {
        assert_eq!(take(&request.encode(0)), Some(request));
    }
}

/// Checks a reply of the predecessor's host.
pub fn hxfr_reply(sent: &[u8]) {
    let take = |bytes: &[u8]| {
        let (header, payload) = hxfr_split(bytes, hxfr::reply_limit)?;
        hxfr::Reply::decode(header, payload).ok()
    };
    match (take(sent), take(sent).and_then(|reply| take(&reply.encode(0)))) {
        // An encoded text ends with a zero, so one of 256 bytes loses its last character.
        (Some(hxfr::Reply::Error { message, .. }), Some(hxfr::Reply::Error { message: again, .. })) => {
            assert!(message.starts_with(&again) && message.len() - again.len() <= 4);
        }
        (reply, again) => assert_eq!(reply, again),
    }
}

/// Splits a header within its limit from the payload. The payload is all that follows, whatever length the
/// header has.
fn hxfr_split(bytes: &[u8], limit: impl Fn(u8) -> Option<u32>) -> Option<(hxfr::Header, Bytes)> {
    let (head, payload) = bytes.split_first_chunk()?;
    let header = hxfr::Header::decode(*head, limit).ok()?;
    Some((hxfr::Header { len: payload.len() as u32, ..header }, Bytes::copy_from_slice(payload)))
}

/// Pixels with unchecked fields.
#[derive(Debug, arbitrary::Arbitrary)]
pub struct UncheckedPixels {
    seq: u64,
    format: u8,
    /// Width and height; small, so that there are few pixels.
    size: [u8; 2],
    /// Replaces `size`.
    large_size: Option<[u16; 2]>,
    /// Rectangles; the flag keeps one that lies outside the frame.
    rects: Vec<([u32; 4], bool)>,
    /// Added to the length of the data.
    surplus: Option<i8>,
}

impl UncheckedPixels {
    /// Checks that the sender's check and the receiver's decoder agree.
    pub fn check_both_ends(self) {
        let [width, height] = self.large_size.unwrap_or(self.size.map(u16::from));
        let (w_limit, h_limit) = (u32::from(width).max(1), u32::from(height).max(1));
        let rects: Vec<Rect> = self
            .rects
            .into_iter()
            .map(|([x, y, w, h], outside)| match outside {
                true => Rect { x, y, width: w, height: h },
                false => {
                    let (x, y) = (x % w_limit, y % h_limit);
                    Rect { x, y, width: 1 + w % (w_limit - x), height: 1 + h % (h_limit - y) }
                }
            })
            .collect();
        let format = PixelFormat::ALL[usize::from(self.format) % PixelFormat::ALL.len()];
        let need =
            rects.iter().fold(0_usize, |sum, it| sum.saturating_add(format.bytes(it.width, it.height)));
        let surplus = isize::from(self.surplus.unwrap_or(0));
        // Long data costs time without reaching more code.
        let data = vec![self.format; need.saturating_add_signed(surplus).min(1 << 16)];
        let pixels =
            Pixels { seq: self.seq, capture_ns: !self.seq, format, width, height, rects, data: data.into() };
        let checked = pixels.check();
        let message = ClientMessage::Pixels(pixels);
        let mut decoder = Decoder::new();
        decoder.push(&message.encode().to_vec());
        let decoded = decoder.next_message::<ClientMessage>();
        match checked {
            Ok(()) => assert_eq!(decoded, Ok(Some(message))),
            Err(error) => assert!(decoded.is_err(), "{error}, but the peer accepted {decoded:?}"),
        }
    }
}

/// Checks that a stream's name is a DNS label, and a path that stays in its folder.
pub fn stream_name(text: &str) {
    let folder = Path::new("/state/project");
    match text.parse::<StreamName>() {
        Ok(name) => {
            assert_eq!((name.as_str(), name.to_string().as_str()), (text, text));
            let path = folder.join(&name);
            assert_eq!(path.parent(), Some(folder), "another folder");
            assert_eq!(path.file_name(), Some(text.as_ref()), "not a plain component");
            assert!(text.len() <= 63 && !text.starts_with('-') && !text.ends_with('-'), "not a DNS label");
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "not a DNS label");
        }
        Err(error) => assert!(error.to_string().len() < 2048, "a message as long as the text"),
    }
}

/// Checks that an endpoint prints as a text that parses to the same endpoint, and that its path is absolute.
pub fn endpoint(text: &str) {
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        if let Endpoint::Unix(path) = &endpoint {
            assert!(path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0), "{path:?}");
        }
        if endpoint.is_exposed_plaintext() {
            assert!(text.starts_with("tcp://"), "TLS counts as plaintext");
        }
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    }
}

/// Time at which the sessions of [`viewer_headers`] are used, Unix seconds.
/// Checks a message of a viewer: events that parse are within their bounds, and print to what they were parsed from; chunks of a
/// clipboard are canonical.
pub fn viewer_messages(bytes: &[u8]) {
    use contract::input::{InputEvent, MAX_DELTA, MAX_TEXT};
    use viewers::server::wire::FromViewer;
    use viewers::server::wire::clipboard::{Chunk, MAX_CHUNK};
    let message = Bytes::copy_from_slice(bytes);
    if let Some(chunk) = Chunk::decode(&message) {
        assert!((1..=MAX_CHUNK).contains(&chunk.bytes.len()), "{} bytes", chunk.bytes.len());
        assert_eq!(chunk.encode(), message, "not canonical");
    }
    if let Ok(FromViewer::Selection(announced)) = serde_json::from_slice(bytes) {
        let printed = serde_json::to_string(&announced).expect("JSON");
        assert_eq!(serde_json::from_str(&printed).ok(), Some(announced), "{printed}");
        return;
    }
    if let Ok(FromViewer::Size { width, height, scale }) = serde_json::from_slice(bytes) {
        check_size(DisplaySize::fit(width, height, scale).expect("JSON has finite numbers"));
    }
    let Ok(FromViewer::Input { events }) = serde_json::from_slice(bytes) else { return };
    for event in events {
        match &event {
            InputEvent::Pointer { x, y } | InputEvent::Touch { x, y, .. } => {
                assert!([x, y].iter().all(|it| (0.0..=1.0).contains(&it.get())), "{event:?}");
            }
            InputEvent::Motion { dx, dy } | InputEvent::Scroll { dx, dy } | InputEvent::Wheel { dx, dy } => {
                assert!([dx, dy].iter().all(|it| it.get().abs() <= MAX_DELTA), "{event:?}");
            }
            InputEvent::Text { text } => {
                assert!(text.as_str().chars().count() <= MAX_TEXT, "{event:?}");
                assert!(text.as_str().chars().all(|c| !c.is_control() || "\n\t".contains(c)), "{event:?}");
            }
            InputEvent::Key { code, .. } => assert!(code.evdev() <= 247, "{event:?}"),
            InputEvent::Button { .. } | InputEvent::Layout { .. } | InputEvent::Release {} => {}
        }
        let printed = serde_json::to_string(&event).expect("JSON");
        let parsed = serde_json::from_str::<InputEvent>(&printed).expect("a printed event parses");
        // serde_json parses fractions with an error of up to one unit in the last place.
        let has_fractions = matches!(
            event,
            InputEvent::Pointer { .. }
                | InputEvent::Touch { .. }
                | InputEvent::Motion { .. }
                | InputEvent::Scroll { .. }
                | InputEvent::Wheel { .. }
        );
        assert!(has_fractions || parsed == event, "{printed}");
    }
}

fn check_size(size: DisplaySize) {
    let (width, height) = (size.width(), size.height());
    assert!(width % 2 == 0 && height % 2 == 0, "{size:?}");
    assert!((MIN_SIZE.0..=MAX_SIDE).contains(&width) && (MIN_SIZE.1..=MAX_SIDE).contains(&height), "{size:?}");
    assert!(width * height <= MAX_PIXELS && (1.0..=4.0).contains(&size.scale()), "{size:?}");
}

const NOW: u64 = 1_800_000_000;

/// Checks the headers of a viewer's request, one per line: Host, Origin, Cookie, and an origin to allow.
pub fn viewer_headers(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let [host, origin, cookie, allowed] = [(); 4].map(|()| lines.next().unwrap_or_default());
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    let parsed = Host::parse(text(host));
    check_host(text(host), parsed);
    check_origin(host, origin, text(allowed));
    check_sessions(parsed, text(cookie));
}

fn check_host(value: &str, host: Host<'_>) {
    let rest = value.strip_prefix(host.name).expect("the name is the beginning of the value");
    let port = rest.strip_prefix(':').and_then(|port| port.parse::<u16>().ok());
    assert!(host.port == port && (rest.is_empty() || port.is_some()), "{host:?}");
    if host.is_loopback() {
        let name = host.name.to_ascii_lowercase();
        let is_named = name == "localhost" || name.ends_with(".localhost");
        assert!(is_named || name.contains("127.") || name.contains("::1") || name.contains(":1"), "{host:?}");
    }
}

fn check_origin(host: &[u8], origin: &[u8], allowed: &str) {
    let mut headers = HeaderMap::new();
    for (name, value) in [(HOST, host), (ORIGIN, origin)] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let own = AllowedOrigins::new(Vec::new()).expect("no origin is invalid").allows(&headers);
    let is_own = |origin: &[u8]| {
        let at = origin.windows(3).position(|part| part == b"://").map(|at| at + 3);
        at.is_some_and(|at| origin[at..].eq_ignore_ascii_case(host))
    };
    assert!(!own || !headers.contains_key(ORIGIN) || is_own(origin), "another site's page is allowed");
    if let Ok(listed) = AllowedOrigins::new(vec![allowed.to_owned()]) {
        let is_listed = origin.eq_ignore_ascii_case(allowed.as_bytes());
        let expected = own || (headers.contains_key(ORIGIN) && is_listed);
        assert_eq!(listed.allows(&headers), expected);
    }
}

/// No text is a session but one that was minted, which is found beside all others.
fn check_sessions(host: Host<'_>, cookies: &str) {
    let sessions = Sessions::new("team/desk".to_owned());
    let token = "0123456789abcdef".parse().expect("a token");
    assert_eq!(sessions.find(&token, cookies, Some(host), NOW), None, "a forged session");
    let minted = Session::new(NOW);
    for secure in [true, false] {
        let cookie = sessions.cookie(&token, minted, Some(host), secure, NOW);
        let pair = cookie.split(';').next().unwrap_or_default();
        for header in [pair.to_owned(), format!("{cookies};{pair}"), format!("{pair}; {cookies}")] {
            assert_eq!(sessions.find(&token, &header, Some(host), NOW), Some((minted, secure)));
        }
        let forged = format!("{pair}{cookies}");
        let found = sessions.find(&token, &forged, Some(host), NOW);
        let is_same = cookies.split(';').next().unwrap_or_default().trim().is_empty();
        assert!(found.is_none() || is_same, "a changed session is accepted");
        assert_eq!(sessions.find(&token, pair, Some(host), minted.expires), None, "an expired session");
    }
}

/// Checks that the NAL units of an Annex B stream are found in order, whole and without start codes.
pub fn annexb(stream: &[u8]) {
    let mut rest = stream;
    for unit in encode::annexb::nal_units(stream) {
        assert!(!unit.is_empty() && unit.last() != Some(&0), "an empty unit, or one with trailing zeros");
        assert!(!unit.windows(3).any(|bytes| bytes == [0, 0, 1]), "a unit with a start code inside");
        let at = unit.as_ptr().addr() - rest.as_ptr().addr();
        assert!(rest[..at].ends_with(&[0, 0, 1]), "a unit without a start code before it");
        rest = &rest[at + unit.len()..];
        let _ = encode::sps::Sps::parse(unit);
    }
    let entry = encode::annexb::is_entry_point(stream);
    assert!(!entry || encode::is_idr(stream), "an entry point that is not an IDR");
    let _ = (encode::codec_string(stream), encode::annexb::sps(stream));
}

/// Checks that each spec is refused with its problems or renders. What the default policy admits has no privileges.
pub fn desktop_stream(spec: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Value>(spec) else { return };
    let object = json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream", "spec": spec,
        "metadata": {"name": "desk", "namespace": "team", "uid": "u-1"},
    });
    let Ok(stream) = serde_json::from_value::<DesktopStream>(object) else { return };
    let project = "team".parse::<Project>().expect("a project name");
    let on_docker = unsupported::validate(&stream, &project);
    let valid = match validate(&stream) {
        Ok(valid) => valid,
        Err(invalid) => {
            assert!(!invalid.0.is_empty() && on_docker.is_err(), "refused without a problem");
            return;
        }
    };
    let _ = rights(&stream.spec);
    let workload = workload(&valid, Some(105));
    let endpoint = "vsock://2:15937".parse().ok();
    for pairing in [Pairing::NotNeeded, Pairing::Paired { host_agent: "mac".to_owned(), endpoint }] {
        let image = SidecarImage::default();
        let _ = objects(&valid);
        let Some(pod) = pod(&valid, &workload, &pairing, &image) else { continue };
        let spec = pod.spec.expect("a spec");
        let mut again = spec.clone();
        inject(&valid, &workload, &image, &mut again, Some("desktop"));
        assert_eq!(again, spec, "injecting twice differs from injecting once");
        if Policy::default().admit(valid.clone()).is_ok() {
            assert_unprivileged(&serde_json::to_value(&spec).expect("JSON"));
        }
    }
}

/// Pod Security Standard `restricted`: <https://kubernetes.io/docs/concepts/security/pod-security-standards/>
fn assert_unprivileged(spec: &Value) {
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        assert_ne!(spec[field], true, "{field}");
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        assert!(volume["hostPath"].is_null(), "{volume}");
    }
    // Kubernetes refuses ephemeral containers in new pods.
    let containers = ["containers", "initContainers"].map(|list| spec[list].as_array());
    for container in containers.into_iter().flatten().flatten() {
        let security = &container["securityContext"];
        assert_ne!(security["privileged"], true, "{container}");
        assert_eq!(security["allowPrivilegeEscalation"], false, "{container}");
        let dropped = security["capabilities"]["drop"].as_array();
        assert!(dropped.is_some_and(|all| all.contains(&"ALL".into())), "{container}");
        assert_ne!(security["runAsUser"], 0, "{container}");
        for port in container["ports"].as_array().into_iter().flatten() {
            assert!(port["hostPort"].as_u64().unwrap_or(0) == 0, "{container}");
        }
    }
}

/// Checks labels of a container and its image. Lines: the container's name, its labels as `KEY=VALUE`, an empty line, labels of
/// the image.
pub fn docker_labels(text: &str) {
    let (container, image) = text.split_once("\n\n").unwrap_or((text, ""));
    let (name, container) = container.split_once('\n').unwrap_or((container, ""));
    let labels = |lines: &str| -> HashMap<String, String> {
        let pairs = lines.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    let (mut all, image) = (labels(container), labels(image));
    for (key, value) in &image {
        // A container has the labels of its image, unless it has others.
        all.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let own = own_labels::without(&all, &image);
    for (key, value) in &own {
        assert_eq!(all.get(key), Some(value), "a label that the container does not have");
        assert_ne!(image.get(key), Some(value), "a label of the image");
    }
    assert_eq!(own_labels::without(&own, &image), own);
    if let Some((key, role)) = StreamKey::of_object(name, &all) {
        assert_eq!(key.object(role), name);
        let folder = Path::new("/state");
        for path in [folder.join(&key.project), folder.join(&key.stream)] {
            assert_eq!(path.parent(), Some(folder), "another folder");
        }
    }
}

/// Private key of the tokens that [`UncheckedToken`] changes. It is used nowhere else.
const KEY: &str = include_str!("../seeds/key_file/private");
/// Time at which [`GOOD`] was issued, Unix seconds.
const ISSUED: u64 = 1_700_000_000;
/// Life of [`GOOD`], seconds: it does not expire while anything is fuzzed.
const LIFE: i64 = 1 << 32;

static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::from_pem(KEY).expect("a key"));
static GOOD: LazyLock<String> =
    LazyLock::new(|| SIGNER.token("team/desk", "mac", ISSUED, LIFE).expect("signs"));

/// A token that was not verified.
#[derive(Debug, arbitrary::Arbitrary)]
pub struct UncheckedToken {
    /// The token, in place of a changed one.
    text: Option<String>,
    /// Changes of a valid token: position and byte.
    changes: Vec<(u16, u8)>,
    /// Length to which it is cut.
    length: Option<u16>,
}

impl UncheckedToken {
    /// Checks that no token is accepted but the one that was signed.
    pub fn check(self) {
        let verifier = Verifier::new(&[SIGNER.verifying_key()], "mac");
        let good = verifier.verify(&GOOD).expect("a valid token");
        let mut bytes = self.text.map_or_else(|| GOOD.as_bytes().to_vec(), String::into_bytes);
        for (at, byte) in self.changes {
            let at = usize::from(at) % bytes.len().max(1);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(self.length.map_or(usize::MAX, usize::from));
        let token = String::from_utf8_lossy(&bytes);
        let _ = unverified_claims(&token);
        if let Ok(claims) = verifier.verify(&token) {
            assert_eq!(claims, good, "claims that were not signed");
        }
        let other = Verifier::new(&[SIGNER.verifying_key()], "another");
        assert!(other.verify(&token).is_err(), "a token for another audience");
    }
}

/// Checks that a key file is refused, or has keys that are the same when they are printed and parsed again.
pub fn key_file(text: &str) {
    if let Ok(signer) = Signer::from_pem(text) {
        let again = Signer::from_pem(&signer.private_pem().expect("PEM")).expect("parses");
        assert_eq!(again.verifying_key(), signer.verifying_key());
        assert!(!format!("{signer:?}").contains("PRIVATE"), "a private key in a log");
    }
    if let Some(keys) = parse_public_keys(text) {
        assert!(!keys.is_empty());
        let printed: Vec<String> = keys.iter().map(print_public_key).collect();
        assert_eq!(parse_public_keys(&printed.join("\n")), Some(keys));
    }
}
