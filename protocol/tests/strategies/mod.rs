//! Arbitrary messages: within their limits, and with unchecked fields.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use protocol::link::{
    Context, FromTap, MAX_EXPECT, MAX_TEXT as MAX_LINK_TEXT, Quantiles, RingRefusal, Stats, ToTap,
};
use protocol::mailbox::{Answer, FrameRequest, Operation, Request, Status};
use protocol::pixel::MAX_SIDE;
use protocol::stream::{
    AccessUnit, ClientMessage, Codec, Config, ErrorCode, MAX_FPS, MAX_RECTS, MAX_TEXT, MAX_TOKEN, Path,
    Pixels, ServerMessage,
};
use protocol::{PixelFormat, Rect};

/// Any text of at most `limit` bytes; sometimes of exactly that length.
fn text(limit: usize) -> impl Strategy<Value = String> {
    let exact = Just("x".repeat(limit));
    let near = ".{0,200}".prop_map(move |text| {
        let mut end = text.len().min(limit);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text[..end].to_owned()
    });
    prop_oneof![1 => exact, 8 => near]
}

fn format() -> impl Strategy<Value = PixelFormat> {
    select(&PixelFormat::ALL[..])
}

fn side() -> impl Strategy<Value = u16> {
    prop_oneof![1..=MAX_SIDE as u16, Just(1), Just(MAX_SIDE as u16)]
}

/// A number that is often near the end of a range.
pub fn edge() -> impl Strategy<Value = u32> {
    prop_oneof![0..=5_u32, u32::MAX - 5..=u32::MAX, 65_530..=65_540_u32, 0..=MAX_SIDE + 1, any::<u32>()]
}

/// Any rectangle, also an invalid one.
pub fn any_rect() -> impl Strategy<Value = Rect> {
    (edge(), edge(), edge(), edge()).prop_map(|(x, y, width, height)| Rect { x, y, width, height })
}

/// A rectangle inside a frame of this size.
pub fn rect_in(width: u32, height: u32) -> impl Strategy<Value = Rect> {
    (0..width, 0..height).prop_flat_map(move |(x, y)| {
        (1..=width - x, 1..=height - y).prop_map(move |(width, height)| Rect { x, y, width, height })
    })
}

fn config() -> impl Strategy<Value = Config> {
    let codec = select(&[Codec::H264, Codec::Hevc][..]);
    let path = select(&[Path::ResourceId, Path::Pixels][..]);
    (side(), side(), format(), 1..=MAX_FPS, any::<u32>(), any::<u32>(), codec, path).prop_map(
        |(width, height, format, max_fps, bitrate_kbps, keyframe_ms, codec, path)| Config {
            width,
            height,
            format,
            max_fps,
            bitrate_kbps,
            keyframe_ms,
            codec,
            path,
        },
    )
}

/// Valid pixels of a small frame.
fn pixels() -> impl Strategy<Value = Pixels> {
    (format(), 1..=20_u16, 1..=20_u16)
        .prop_flat_map(|(format, width, height)| {
            let rects = vec(rect_in(width.into(), height.into()), 1..=MAX_RECTS);
            (any::<u64>(), any::<u64>(), Just(format), Just(width), Just(height), rects, any::<u8>())
        })
        .prop_map(|(seq, capture_ns, format, width, height, mut rects, fill)| {
            if format == PixelFormat::Nv12 {
                for rect in &mut rects {
                    *rect = blocks(*rect, width.into(), height.into());
                }
            }
            let need: usize = rects.iter().map(|rect| format.bytes(rect.width, rect.height)).sum();
            let data = (0..need).map(|at| (at as u8).wrapping_mul(fill)).collect();
            Pixels { seq, capture_ns, format, width, height, rects, data }
        })
}

/// The smallest rectangle of whole 2 x 2 blocks that contains `rect`.
fn blocks(rect: Rect, width: u32, height: u32) -> Rect {
    let (x, y) = (rect.x / 2 * 2, rect.y / 2 * 2);
    let right = (rect.x + rect.width).next_multiple_of(2).min(width);
    let bottom = (rect.y + rect.height).next_multiple_of(2).min(height);
    Rect { x, y, width: right - x, height: bottom - y }
}

/// Pixels with at most one field changed at random; about a fifth stay valid. Some would be valid if a field
/// wrapped around.
pub fn unchecked_pixels() -> impl Strategy<Value = Pixels> {
    let change = prop_oneof![
        Just(Change::No),
        prop_oneof![Just(0), Just(MAX_SIDE as u16 + 1), any::<u16>()].prop_map(Change::Width),
        any_rect().prop_map(Change::Rect),
        (select(&[0, 1 << 16, 1 << 17][..]), select(&[0, 1 << 16][..])).prop_map(Change::Far),
        prop_oneof![Just(0), Just(17), Just(255), 256..=272_usize].prop_map(Change::Count),
        (0..200_usize).prop_map(Change::Bytes),
    ];
    (pixels(), change).prop_map(|(mut pixels, change)| {
        match change {
            Change::No => {}
            Change::Width(width) => pixels.width = width,
            Change::Rect(rect) => pixels.rects[0] = rect,
            Change::Far((x, y)) => {
                pixels.rects[0].x += x;
                pixels.rects[0].height += y;
            }
            Change::Count(count) => {
                let first = pixels.rects[0];
                pixels.rects = vec![first; count];
                // A receiver that read only the low byte of the count would read the other rectangles as pixels.
                let need = pixels.format.bytes(first.width, first.height) * (count % 256);
                pixels.data = vec![7; need.saturating_sub(count / 256 * 256 * 8)].into();
            }
            Change::Bytes(bytes) => pixels.data = vec![9; bytes].into(),
        }
        pixels
    })
}

/// A change to valid pixels.
#[derive(Debug, Clone)]
enum Change {
    No,
    Width(u16),
    Rect(Rect),
    /// Added to the left edge and the height.
    Far((u32, u32)),
    Count(usize),
    Bytes(usize),
}

/// A message of a sidecar.
pub fn client_message() -> impl Strategy<Value = ClientMessage> {
    prop_oneof![
        (any::<u16>(), any::<u16>(), text(MAX_TOKEN), text(MAX_TEXT))
            .prop_map(|(min, max, token, client)| ClientMessage::Hello { min, max, token, client }),
        config().prop_map(ClientMessage::Configure),
        pixels().prop_map(ClientMessage::Pixels),
        Just(ClientMessage::RequestKeyframe),
        text(MAX_TOKEN).prop_map(|token| ClientMessage::Renew { token }),
        any::<u64>().prop_map(ClientMessage::Ping),
        Just(ClientMessage::Bye),
    ]
}

fn access_unit() -> impl Strategy<Value = AccessUnit> {
    let data = vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    (any::<u64>(), any::<u64>(), any::<bool>(), any::<bool>(), any::<u32>(), any::<u32>(), data).prop_map(
        |(seq, capture_ns, idr, repeat, queue_us, encode_us, data)| AccessUnit {
            seq,
            capture_ns,
            idr,
            repeat,
            queue_us,
            encode_us,
            data,
        },
    )
}

/// A message of a host-agent.
pub fn server_message() -> impl Strategy<Value = ServerMessage> {
    use ErrorCode::{
        BadToken, Capacity, Encoder, ExpiredToken, Protocol, RateLimited, Replaced, ShuttingDown, Version,
    };
    let code = select(
        &[Protocol, Version, BadToken, ExpiredToken, Capacity, Encoder, Replaced, ShuttingDown, RateLimited]
            [..],
    );
    prop_oneof![
        (any::<u16>(), any::<u64>(), any::<[u8; 16]>(), any::<u16>(), any::<u32>(), text(MAX_TEXT)).prop_map(
            |(version, session, nonce, taps, max_pixels, server)| ServerMessage::HelloAck {
                version,
                session,
                nonce,
                taps,
                max_pixels,
                server,
            }
        ),
        (any::<u32>(), any::<u16>(), text(MAX_TEXT))
            .prop_map(|(context, tap_version, vm)| ServerMessage::Bound { context, tap_version, vm }),
        text(MAX_TEXT).prop_map(|reason| ServerMessage::Unbound { reason }),
        text(MAX_TEXT).prop_map(|encoder| ServerMessage::Configured { encoder }),
        access_unit().prop_map(ServerMessage::AccessUnit),
        any::<u64>().prop_map(|seq| ServerMessage::Dropped { seq }),
        (code, text(MAX_TEXT)).prop_map(|(code, message)| ServerMessage::Error { code, message }),
        any::<u64>().prop_map(ServerMessage::Pong),
    ]
}

fn context() -> impl Strategy<Value = Context> {
    (any::<u32>(), any::<u64>()).prop_map(|(id, generation)| Context { id, generation })
}

fn quantiles() -> impl Strategy<Value = Quantiles> {
    any::<[u64; 4]>().prop_map(|[count, p50, p99, max]| Quantiles { count, p50, p99, max })
}

fn stats() -> impl Strategy<Value = Stats> {
    let counters = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u8>(), any::<u32>(), any::<u32>());
    (any::<[u64; Status::ALL.len()]>(), counters, quantiles(), quantiles()).prop_map(
        |(answers, (request_bytes, picture_bytes, faults, disabled, contexts, resources), entry, read)| {
            Stats {
                answers,
                request_bytes,
                picture_bytes,
                faults,
                disabled,
                contexts,
                resources,
                entry,
                read,
            }
        },
    )
}

/// A message of a tap.
pub fn from_tap() -> impl Strategy<Value = FromTap> {
    let versions = any::<[u16; 3]>();
    prop_oneof![
        (versions, any::<[u8; 16]>(), any::<u32>(), any::<u32>(), text(MAX_LINK_TEXT)).prop_map(
            |([min, max, tap_version], instance, pid, abi, vm)| FromTap::Hello {
                min,
                max,
                tap_version,
                instance,
                pid,
                abi,
                vm,
            }
        ),
        (context(), any::<[u8; 16]>(), text(MAX_LINK_TEXT))
            .prop_map(|(context, nonce, name)| FromTap::Bind { context, nonce, name }),
        context().prop_map(FromTap::ContextGone),
        stats().prop_map(FromTap::Stats),
        any::<[u64; 2]>().prop_map(|[session, ring]| FromTap::RingReady { session, ring }),
        (any::<[u64; 2]>(), select(&RingRefusal::ALL[..]))
            .prop_map(|([session, ring], refusal)| FromTap::RingRefused { session, ring, refusal }),
    ]
}

/// A message of a host-agent to a tap.
pub fn to_tap() -> impl Strategy<Value = ToTap> {
    prop_oneof![
        any::<u16>().prop_map(|version| ToTap::HelloAck { version }),
        (any::<[u64; 2]>(), context()).prop_map(|([session, ring], context)| ToTap::Attach {
            session,
            ring,
            context
        }),
        any::<u64>().prop_map(|session| ToTap::Detach { session }),
        prop::collection::vec(any::<u64>(), 0..=MAX_EXPECT).prop_map(ToTap::Expect),
        any::<u64>().prop_map(ToTap::Forget),
    ]
}

fn frame_request(damage_in: bool) -> impl Strategy<Value = FrameRequest> {
    (side(), side()).prop_flat_map(move |(width, height)| {
        let damage =
            if damage_in { rect_in(width.into(), height.into()).boxed() } else { any_rect().boxed() };
        let readable = select(&PixelFormat::ALL[..4]);
        (any::<u32>(), readable, any::<u32>(), damage, any::<u64>()).prop_map(
            move |(resource, format, stride, damage, capture_ns)| FrameRequest {
                resource,
                format,
                width,
                height,
                stride,
                damage,
                capture_ns,
            },
        )
    })
}

/// A mailbox request.
pub fn request() -> impl Strategy<Value = Request> {
    let operation = prop_oneof![
        Just(Operation::Echo),
        any::<[u8; 16]>().prop_map(Operation::Bind),
        frame_request(true).prop_map(Operation::Frame),
    ];
    (1..=u64::MAX, operation).prop_map(|(seq, operation)| Request { seq, operation })
}

/// A request with any damage, and a sequence number that may be 0.
pub fn unchecked_request() -> impl Strategy<Value = Request> {
    let seq = prop_oneof![Just(0), any::<u64>()];
    (seq, frame_request(false)).prop_map(|(seq, frame)| Request { seq, operation: Operation::Frame(frame) })
}

/// A mailbox answer.
pub fn answer() -> impl Strategy<Value = Answer> {
    (any::<u64>(), select(&Status::ALL[..]), any::<u32>(), any::<u32>(), any::<u16>()).prop_map(
        |(seq, status, spent_ns, dropped, tap_version)| Answer {
            seq,
            status,
            spent_ns,
            dropped,
            tap_version,
        },
    )
}
