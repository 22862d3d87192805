//! Properties that the fuzz targets check. A failed assertion is a finding.
//!
//! A decoder may refuse any bytes, but must not panic. Accepted bytes are canonical: encoding the decoded
//! value gives the same bytes.

use std::path::Path;

use bytes::Bytes;
use contract::{Endpoint, StreamName};
use protocol::frame::{Decoder, HEADER_BYTES, Message};
use protocol::mailbox::{Answer, Operation, Request};
use protocol::stream::{ClientMessage, Pixels};
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue};
use protocol::{PixelFormat, Rect, hxfr};
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
