//! Properties of all messages and all bytes: encoded messages decode to themselves, accepted bytes are
//! canonical, and malformed bytes give an error.

mod strategies;
mod vectors;

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use protocol::frame::{Decoder, HEADER_BYTES, Header, Message};
use protocol::link::{FromTap, ToTap};
use protocol::mailbox::{self, Answer, Request};
use protocol::pixel::MAX_SIDE;
use protocol::stream::{self, ClientMessage, ServerMessage};
use protocol::wire::{Reader, put_text};
use protocol::{DecodeError, PixelFormat, Rect, hxfr};

/// The only message in `bytes`; `None` if it is incomplete.
fn read<T: Message>(bytes: &[u8]) -> Result<Option<T>, DecodeError> {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    let message = decoder.next_message::<T>()?;
    match (&message, decoder.buffered()) {
        (Some(_), left @ 1..) => Err(DecodeError::Trailing(left)),
        _ => Ok(message),
    }
}

/// Properties of any valid message.
fn round_trip<T: Message + Debug + PartialEq>(message: &T) -> Result<(), TestCaseError> {
    let bytes = message.encode().to_vec();
    prop_assert_eq!(bytes.len(), message.encode().len());
    let alone = read(&bytes)?;
    prop_assert_eq!(alone.as_ref(), Some(message));
    // An incomplete message stays in the buffer.
    for len in (0..bytes.len()).take(600) {
        let mut part = Decoder::new();
        part.push(&bytes[..len]);
        prop_assert_eq!(part.next_message::<T>(), Ok(None));
        prop_assert_eq!(part.buffered(), len);
    }
    // Two messages received together are taken one by one.
    let mut two = Decoder::new();
    two.push(&[&bytes[..], &bytes].concat());
    for _ in 0..2 {
        let taken = two.next_message::<T>()?;
        prop_assert_eq!(taken.as_ref(), Some(message));
    }
    prop_assert!(two.is_between_messages());

    // A payload that is shorter or longer than its fields is refused, even if the header agrees.
    let (kind, payload) = (bytes[4], &bytes[HEADER_BYTES..]);
    for len in (0..payload.len()).take(600) {
        let cut = T::decode(Header { len: len as u32, kind }, Bytes::copy_from_slice(&payload[..len]));
        prop_assert!(cut.is_err() || (kind == ACCESS_UNIT && len >= 25), "cut to {} bytes: {:?}", len, cut);
    }
    let longer = [payload, &[0]].concat();
    let longer = T::decode(Header { len: longer.len() as u32, kind }, longer.into());
    prop_assert!(longer.is_err() || kind == ACCESS_UNIT, "a byte too many was accepted");
    Ok(())
}

/// Type of `AccessUnit`, whose last field (after 25 bytes) ends with the message.
const ACCESS_UNIT: u8 = 0x85;

/// Property of any bytes: an error, or a message that encodes to the same bytes.
fn any_payload<T: Message + Debug + PartialEq>(kind: u8, payload: &[u8]) -> Result<(), TestCaseError> {
    let header = Header { len: payload.len() as u32, kind };
    if let Ok(message) = T::decode(header, Bytes::copy_from_slice(payload)) {
        prop_assert!(T::limit(kind).is_some(), "a type without a limit was accepted");
        prop_assert_eq!(message.encode().to_vec(), [&header.encode()[..], payload].concat());
    }
    Ok(())
}

/// A vector's bytes with some overwritten, cut or appended.
fn near<T>(vectors: &[vectors::Vector<T>]) -> impl Strategy<Value = Vec<u8>> {
    let originals: Vec<Vec<u8>> = vectors.iter().map(vectors::Vector::bytes).collect();
    let edits = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (prop::sample::select(originals), edits, 0_usize..4, vec(any::<u8>(), 0..4)).prop_map(
        |(mut bytes, edits, cut, tail)| {
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(bytes.len() - cut);
            bytes.extend(tail);
            bytes
        },
    )
}

fn near_bytes<T: Message + Debug + PartialEq>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(Some(message)) = read::<T>(bytes) {
        prop_assert_eq!(message.encode().to_vec(), bytes);
    }
    match bytes.split_first_chunk::<HEADER_BYTES>() {
        Some((head, payload)) => any_payload::<T>(head[4], payload),
        None => Ok(()),
    }
}

proptest! {
    #[test]
    fn client_message_round_trips(message in strategies::client_message()) {
        round_trip(&message)?;
    }

    #[test]
    fn server_message_round_trips(message in strategies::server_message()) {
        round_trip(&message)?;
    }

    #[test]
    fn message_from_a_tap_round_trips(message in strategies::from_tap()) {
        round_trip(&message)?;
    }

    #[test]
    fn message_to_a_tap_round_trips(message in strategies::to_tap()) {
        round_trip(&message)?;
    }

    #[test]
    fn request_round_trips(request in strategies::request()) {
        let bytes = request.encode();
        prop_assert!(Request::is_request(&bytes));
        prop_assert_eq!(Request::decode(&bytes), Ok(request));
    }

    #[test]
    fn answer_round_trips(answer in strategies::answer()) {
        prop_assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
    }

    #[test]
    fn any_payload_is_canonical_or_refused(kind in any::<u8>(), payload in vec(any::<u8>(), 0..600)) {
        any_payload::<ClientMessage>(kind, &payload)?;
        any_payload::<ServerMessage>(kind, &payload)?;
        any_payload::<FromTap>(kind, &payload)?;
        any_payload::<ToTap>(kind, &payload)?;
    }

    #[test]
    fn bytes_near_a_client_message_are_canonical_or_refused(bytes in near(&vectors::stream::client())) {
        near_bytes::<ClientMessage>(&bytes)?;
    }

    #[test]
    fn bytes_near_a_server_message_are_canonical_or_refused(bytes in near(&vectors::stream::server())) {
        near_bytes::<ServerMessage>(&bytes)?;
    }

    #[test]
    fn bytes_near_a_message_from_a_tap_are_canonical_or_refused(bytes in near(&vectors::link::from_tap())) {
        near_bytes::<FromTap>(&bytes)?;
    }

    #[test]
    fn bytes_near_a_message_to_a_tap_are_canonical_or_refused(bytes in near(&vectors::link::to_tap())) {
        near_bytes::<ToTap>(&bytes)?;
    }

    #[test]
    fn bytes_near_a_request_are_canonical_or_refused(bytes in near(&vectors::mailbox::requests())) {
        if let Ok(bytes) = bytes.try_into()
            && let Ok(request) = Request::decode(&bytes)
        {
            prop_assert_eq!(request.encode(), bytes);
        }
    }

    #[test]
    fn bytes_near_an_answer_are_canonical_or_refused(bytes in near(&vectors::mailbox::answers())) {
        if let Ok(bytes) = bytes.try_into()
            && let Ok(answer) = Answer::decode(&bytes)
        {
            prop_assert_eq!(answer.encode(), bytes);
        }
    }

    #[test]
    fn header_over_its_limit_is_refused(len in any::<u32>(), kind in any::<u8>(), zeros in prop_oneof![4 => Just([0; 3]), 1 => any::<[u8; 3]>()]) {
        let mut bytes = Header { len, kind }.encode();
        bytes[5..].copy_from_slice(&zeros);
        for limit in [ClientMessage::limit, ServerMessage::limit, <FromTap as Message>::limit, <ToTap as Message>::limit] {
            let accepted = Header::decode(bytes, limit);
            let expected = zeros == [0; 3] && limit(kind).is_some_and(|limit| len <= limit);
            prop_assert_eq!(accepted.is_ok(), expected);
            if let Ok(header) = accepted {
                prop_assert_eq!(header, Header { len, kind });
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }

    #[test]
    fn text_is_cut_at_a_character_boundary(text in ".{0,80}", limit in 0_usize..100) {
        let mut out = BytesMut::new();
        put_text(&mut out, &text, limit);
        let mut reader = Reader::new(out.freeze());
        let back = reader.text("text", limit)?;
        prop_assert_eq!(reader.end(), Ok(()));
        prop_assert!(text.starts_with(&back) && back.len() <= limit);
        let next = text[back.len()..].chars().next();
        prop_assert!(next.is_none_or(|next| back.len() + next.len_utf8() > limit), "cut more than needed");
    }

    #[test]
    fn message_with_long_texts_is_valid(text in "\\PC{0,200}", repeat in 1_usize..60) {
        let long = text.repeat(repeat);
        let hello = ClientMessage::Hello { min: 1, max: 1, token: long.clone(), client: long.clone() };
        let Some(ClientMessage::Hello { token, client, .. }) = read(&hello.encode().to_vec())? else {
            return Err(TestCaseError::fail("refused"));
        };
        prop_assert!(long.starts_with(&token) && token.len() <= stream::MAX_TOKEN);
        prop_assert!(token.starts_with(&client) && client.len() <= stream::MAX_TEXT);
        if long.len() <= stream::MAX_TEXT {
            prop_assert_eq!(&client, &long);
        }
    }

    /// The sender's check and the peer's decoder agree on any pixels.
    #[test]
    fn pixels_check_agrees_with_the_decoder(pixels in strategies::unchecked_pixels()) {
        let checked = pixels.check();
        let message = ClientMessage::Pixels(pixels);
        let decoded = read::<ClientMessage>(&message.encode().to_vec());
        match checked {
            Ok(()) => prop_assert_eq!(decoded, Ok(Some(message))),
            Err(_) => prop_assert!(decoded.is_err(), "accepted: {:?}", decoded),
        }
    }

    #[test]
    fn request_with_any_damage_round_trips_or_is_refused(request in strategies::unchecked_request()) {
        if let Ok(back) = Request::decode(&request.encode()) {
            prop_assert_eq!(back, request);
        }
    }

    #[test]
    fn fits_agrees_with_wide_arithmetic(rect in strategies::any_rect(), width in strategies::edge(), height in strategies::edge()) {
        let right = u64::from(rect.x) + u64::from(rect.width);
        let bottom = u64::from(rect.y) + u64::from(rect.height);
        let inside = right <= width.into() && bottom <= height.into();
        prop_assert_eq!(rect.fits(width, height), inside && rect.width > 0 && rect.height > 0);
        prop_assert_eq!(Rect::full(width, height).fits(width, height), width > 0 && height > 0);
    }

    #[test]
    fn union_is_the_smallest_rectangle_around_both(a in strategies::rect_in(MAX_SIDE, MAX_SIDE), b in strategies::rect_in(MAX_SIDE, MAX_SIDE)) {
        let both = a.union(b);
        prop_assert_eq!(both, b.union(a));
        prop_assert_eq!(a.union(a), a);
        prop_assert!(both.fits(MAX_SIDE, MAX_SIDE));
        let right = |it: Rect| it.x + it.width;
        let bottom = |it: Rect| it.y + it.height;
        prop_assert!([a, b].iter().all(|it| both.x <= it.x && both.y <= it.y));
        prop_assert!([a, b].iter().all(|it| right(both) >= right(*it) && bottom(both) >= bottom(*it)));
        prop_assert!([a, b].iter().any(|it| both.x == it.x) && [a, b].iter().any(|it| both.y == it.y));
        prop_assert!([a, b].iter().any(|it| right(both) == right(*it)));
        prop_assert!([a, b].iter().any(|it| bottom(both) == bottom(*it)));
    }

    #[test]
    fn union_of_any_two_does_not_overflow(a in strategies::any_rect(), b in strategies::any_rect()) {
        let both = a.union(b);
        if a.width == 0 || a.height == 0 {
            prop_assert_eq!(both, b);
        } else if b.width == 0 || b.height == 0 {
            prop_assert_eq!(both, a);
        } else {
            prop_assert_eq!((both.x, both.y), (a.x.min(b.x), a.y.min(b.y)));
        }
    }

    #[test]
    fn frame_size_agrees_with_wide_arithmetic(width in strategies::edge(), height in strategies::edge()) {
        let pixels = u128::from(width) * u128::from(height);
        let blocks = u128::from(width.div_ceil(2)) * u128::from(height.div_ceil(2));
        for format in PixelFormat::ALL {
            let exact = if format == PixelFormat::Nv12 { pixels + 2 * blocks } else { 4 * pixels };
            prop_assert_eq!(format.bytes(width, height) as u128, exact.min(usize::MAX as u128));
        }
    }

    #[test]
    fn mailbox_slots_and_offsets_are_one_to_one(offset in any::<u64>(), slot in 0..mailbox::SLOTS) {
        prop_assert_eq!(mailbox::slot_at(mailbox::request_offset(slot) as u64), Some(slot));
        if let Some(slot) = mailbox::slot_at(offset) {
            prop_assert!(slot < mailbox::SLOTS);
            prop_assert_eq!(mailbox::request_offset(slot) as u64, offset);
        }
        prop_assert_eq!(mailbox::slot_at(mailbox::answer_offset(slot) as u64), None);
        prop_assert!(mailbox::answer_offset(slot) + mailbox::ANSWER_BYTES <= mailbox::BYTES);
    }

    #[test]
    fn version_is_chosen_from_the_offer_only(min in any::<u16>(), max in any::<u16>()) {
        match stream::choose_version(min, max) {
            Ok(version) => prop_assert!(min <= version && version <= max && version == stream::VERSION),
            Err(error) => {
                prop_assert!(min > stream::VERSION || max < stream::VERSION);
                prop_assert_eq!(error, DecodeError::Version { min, max, ours: stream::VERSION });
            }
        }
    }
}

/// Copies of `bytes`, each with another bit flipped.
fn flipped(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..8 * bytes.len()).map(|bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    })
}

/// Checks that every vector with one bit flipped is refused or decodes to another message.
fn check_flipped_bits<T: Debug + PartialEq>(
    vectors: &[vectors::Vector<T>],
    decode: impl Fn(&[u8]) -> Option<T>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    for vector in vectors {
        for bytes in flipped(&vector.bytes()) {
            if let Some(message) = decode(&bytes) {
                assert_ne!(message, vector.message, "{}: a second encoding", vector.name);
                assert_eq!(encode(&message), bytes, "{}: not canonical", vector.name);
            }
        }
    }
}

#[test]
fn flipped_bit_is_refused_or_gives_another_message() {
    fn framed<T: Message + Debug + PartialEq>(vectors: &[vectors::Vector<T>]) {
        check_flipped_bits(
            vectors,
            |bytes| read(bytes).ok().flatten(),
            |message: &T| message.encode().to_vec(),
        );
    }
    framed(&vectors::stream::client());
    framed(&vectors::stream::server());
    framed(&vectors::link::from_tap());
    framed(&vectors::link::to_tap());
    check_flipped_bits(
        &vectors::mailbox::requests(),
        |bytes| Request::decode(bytes.try_into().expect("64 bytes")).ok(),
        |request| request.encode().to_vec(),
    );
    check_flipped_bits(
        &vectors::mailbox::answers(),
        |bytes| Answer::decode(bytes.try_into().expect("64 bytes")).ok(),
        |answer| answer.encode().to_vec(),
    );
}

/// HXFR ignores reserved bytes, so accepted bytes need not be canonical.
#[test]
fn flipped_bit_of_hxfr_is_refused_or_round_trips() {
    fn split(bytes: &[u8], limit: fn(u8) -> Option<u32>) -> Result<(hxfr::Header, Bytes), DecodeError> {
        let (head, payload) = bytes.split_first_chunk().expect("a header");
        Ok((hxfr::Header::decode(*head, limit)?, Bytes::copy_from_slice(payload)))
    }
    let request = |bytes: &[u8]| {
        split(bytes, hxfr::request_limit).and_then(|(header, payload)| hxfr::Request::decode(header, payload))
    };
    let reply = |bytes: &[u8]| {
        split(bytes, hxfr::reply_limit).and_then(|(header, payload)| hxfr::Reply::decode(header, payload))
    };
    for bytes in vectors::hxfr::requests().iter().flat_map(|it| flipped(&it.bytes()).collect::<Vec<_>>()) {
        if let Ok(taken) = request(&bytes) {
            assert_eq!(request(&taken.encode(vectors::hxfr::SESSION)), Ok(taken));
        }
    }
    for bytes in vectors::hxfr::replies().iter().flat_map(|it| flipped(&it.bytes()).collect::<Vec<_>>()) {
        if let Ok(taken) = reply(&bytes) {
            assert_eq!(reply(&taken.encode(vectors::hxfr::SESSION)), Ok(taken));
        }
    }
}
