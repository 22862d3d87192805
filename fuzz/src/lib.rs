//! What the fuzzers hold true, apart from how they get their bytes.
//!
//! A decoder may refuse anything, without a panic; what it accepts is canonical: encoding it again gives
//! the bytes that it took. A failed assertion here is a finding.

use bytes::{Bytes, BytesMut};
use protocol::frame::{HEADER_BYTES, Message};
use protocol::mailbox::{Answer, Operation, Request};
use protocol::stream::{ClientMessage, Pixels};
use protocol::{Endpoint, PixelFormat, Rect, hxfr};

/// Reads a peer's bytes as one side of a framed protocol does: as they are, message after message, and
/// with a header whose length is right, so that the fuzzer need not keep it so.
pub fn framed<T: Message>(sent: &[u8]) {
    take_all::<T>(sent);
    if let Some((header, payload)) = sent.split_first_chunk::<HEADER_BYTES>() {
        let len = (payload.len() as u32).to_le_bytes();
        take_all::<T>(&[&len[..], &[header[4], 0, 0, 0], payload].concat());
    }
}

fn take_all<T: Message>(sent: &[u8]) {
    let mut received = BytesMut::from(sent);
    let mut at = 0;
    while let Ok(Some(message)) = T::take(&mut received) {
        let encoded = message.encode();
        assert_eq!(encoded.to_vec(), &sent[at..at + encoded.len()], "not canonical");
        at += encoded.len();
        assert_eq!(received.len(), sent.len() - at, "took more or less than the message");
    }
}

/// A mailbox's request: 64 bytes that the guest can write as it likes.
pub fn mailbox_request(bytes: &[u8]) {
    if let Ok(bytes) = bytes.try_into()
        && let Ok(request) = Request::decode(&bytes)
    {
        assert!(Request::is_request(&bytes));
        assert_eq!(request.encode(), bytes, "not canonical");
        if let Operation::Frame(frame) = request.operation {
            assert!(frame.damage.fits(frame.width.into(), frame.height.into()), "damage outside");
            assert!(frame.format != PixelFormat::Nv12, "no resource is NV12");
        }
    }
}

/// A mailbox's answer.
pub fn mailbox_answer(bytes: &[u8]) {
    if let Ok(bytes) = bytes.try_into()
        && let Ok(answer) = Answer::decode(&bytes)
    {
        assert_eq!(answer.encode(), bytes, "not canonical");
    }
}

/// What a guest with the predecessor's element may send to the host-agent.
///
/// HXFR ignores reserved bytes, so what is accepted need not be canonical: but it means the same when it
/// is encoded and decoded again.
pub fn hxfr_request(sent: &[u8]) {
    let take = |bytes: &[u8]| {
        let (header, payload) = hxfr_split(bytes, hxfr::request_limit)?;
        hxfr::Request::decode(header, payload).ok()
    };
    if let Some(request) = take(sent) {
        assert_eq!(take(&request.encode(0)), Some(request));
    }
}

/// What a host with the predecessor's code may answer.
pub fn hxfr_reply(sent: &[u8]) {
    let take = |bytes: &[u8]| {
        let (header, payload) = hxfr_split(bytes, hxfr::reply_limit)?;
        hxfr::Reply::decode(header, payload).ok()
    };
    match (take(sent), take(sent).and_then(|reply| take(&reply.encode(0)))) {
        // A text of 256 bytes loses its last character: we always end ours with a zero.
        (Some(hxfr::Reply::Error { message, .. }), Some(hxfr::Reply::Error { message: again, .. })) => {
            assert!(message.starts_with(&again) && message.len() - again.len() <= 4);
        }
        (reply, again) => assert_eq!(reply, again),
    }
}

/// A header and all that follows it, whatever length the header names if it is within the limit.
fn hxfr_split(bytes: &[u8], limit: impl Fn(u8) -> Option<u32>) -> Option<(hxfr::Header, Bytes)> {
    let (head, payload) = bytes.split_first_chunk()?;
    let header = hxfr::Header::decode(*head, limit).ok()?;
    Some((hxfr::Header { len: payload.len() as u32, ..header }, Bytes::copy_from_slice(payload)))
}

/// A sender of pixels that minds no limit.
#[derive(Debug, arbitrary::Arbitrary)]
pub struct CarelessPixels {
    seq: u64,
    format: u8,
    /// Small, so that the pixels are few.
    size: [u8; 2],
    wild_size: Option<[u16; 2]>,
    /// Numbers that are brought into the picture, or left wild.
    rects: Vec<([u32; 4], bool)>,
    /// Added to the bytes that the rectangles need.
    surplus: Option<i8>,
}

impl CarelessPixels {
    /// Its check and the receiver's decoder agree, and what breaks a limit is not taken for another.
    pub fn try_out(self) {
        let [width, height] = self.wild_size.unwrap_or(self.size.map(u16::from));
        let (w_limit, h_limit) = (u32::from(width).max(1), u32::from(height).max(1));
        let rects: Vec<Rect> = self
            .rects
            .into_iter()
            .map(|([x, y, w, h], wild)| match wild {
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
        // Large pictures only cost the fuzzer time.
        let data = vec![self.format; need.saturating_add_signed(surplus).min(1 << 16)];
        let pixels =
            Pixels { seq: self.seq, capture_ns: !self.seq, format, width, height, rects, data: data.into() };
        let checked = pixels.check();
        let message = ClientMessage::Pixels(pixels);
        let decoded = ClientMessage::take(&mut BytesMut::from(&message.encode().to_vec()[..]));
        match checked {
            Ok(()) => assert_eq!(decoded, Ok(Some(message))),
            Err(error) => assert!(decoded.is_err(), "{error}, but the peer took {decoded:?}"),
        }
    }
}

/// A text that is an endpoint prints as one that parses to the same.
pub fn endpoint(text: &str) {
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    }
}

/// Annex B: units are found in order, whole and without start codes, and nothing about them panics.
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
    assert!(!entry || encode::is_idr(stream), "an entry point that is no IDR");
    let _ = (encode::codec_string(stream), encode::annexb::sps(stream));
}
