//! Byte-exact vectors of every message, in both directions. An accidental change of a format fails here,
//! and so does a message without a vector. The vectors are also the fuzzers' seeds.

mod variants;
mod vectors;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use protocol::frame::{Decoder, Message};
use protocol::mailbox::{Answer, REQUEST_BYTES, Request, Status};
use protocol::stream::{self, ClientMessage, ServerMessage};
use protocol::{PixelFormat, hxfr, link, mailbox};
use variants::Variants;
use vectors::Vector;

/// Checks that every variant of `T` is among `seen`.
fn all_seen<'a, T: Variants + 'a>(seen: impl IntoIterator<Item = &'a T>) {
    let seen: BTreeSet<_> = seen.into_iter().map(Variants::name).collect();
    assert_eq!(seen, T::NAMES.iter().copied().collect(), "a variant has no vector");
}

/// Checks the vectors of a framed type: exact in both directions, complete and within their limits. Also
/// checks that the type accepts no message type without a vector.
fn framed_vectors<T: Message + Variants + Debug + PartialEq>(vectors: &[Vector<T>]) {
    for vector in vectors {
        let (Vector { name, message, .. }, bytes) = (vector, vector.bytes());
        assert_eq!(message.encode().to_vec(), bytes, "{name}: encoded");
        assert_eq!(message.encode().len(), bytes.len(), "{name}: length");
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        assert_eq!(decoder.next_message::<T>().expect(name).as_ref(), Some(message), "{name}: decoded");
        assert!(decoder.is_between_messages(), "{name}: remaining bytes");
    }
    all_seen(vectors.iter().map(|it| &it.message));
    let kinds: BTreeSet<u8> = vectors.iter().map(|it| it.bytes()[4]).collect();
    let accepted = (0..=u8::MAX).filter(|kind| T::limit(*kind).is_some()).collect();
    assert_eq!(kinds, accepted, "only existing message types have a limit");
}

#[test]
fn client_messages_have_exact_bytes() {
    let vectors = vectors::stream::client();
    framed_vectors(&vectors);
    let configs = || {
        vectors.iter().filter_map(|it| match &it.message {
            ClientMessage::Configure(config) => Some(config),
            _ => None,
        })
    };
    all_seen(configs().map(|config| &config.path));
    all_seen(configs().map(|config| &config.codec));
}

#[test]
fn server_messages_have_exact_bytes() {
    let vectors = vectors::stream::server();
    framed_vectors(&vectors);
    all_seen(vectors.iter().filter_map(|it| match &it.message {
        ServerMessage::Error { code, .. } => Some(code),
        _ => None,
    }));
}

#[test]
fn messages_from_a_tap_have_exact_bytes() {
    framed_vectors(&vectors::link::from_tap());
}

#[test]
fn messages_to_a_tap_have_exact_bytes() {
    framed_vectors(&vectors::link::to_tap());
}

#[test]
fn mailbox_requests_have_exact_bytes() {
    let vectors = vectors::mailbox::requests();
    for vector in &vectors {
        let bytes: [u8; REQUEST_BYTES] = vector.bytes().try_into().expect(vector.name);
        assert_eq!(vector.message.encode(), bytes, "{}: encoded", vector.name);
        assert_eq!(Request::decode(&bytes), Ok(vector.message), "{}: decoded", vector.name);
        assert!(Request::is_request(&bytes));
    }
    all_seen(vectors.iter().map(|it| &it.message.operation));
}

#[test]
fn mailbox_answers_have_exact_bytes() {
    let vectors = vectors::mailbox::answers();
    for vector in &vectors {
        let bytes: [u8; mailbox::ANSWER_BYTES] = vector.bytes().try_into().expect(vector.name);
        assert_eq!(vector.message.encode(), bytes, "{}: encoded", vector.name);
        assert_eq!(Answer::decode(&bytes), Ok(vector.message), "{}: decoded", vector.name);
        assert_eq!(vector.message.status.label(), vector.name);
    }
    let statuses: Vec<Status> = vectors.iter().map(|it| it.message.status).collect();
    all_seen(&statuses);
    assert_eq!(statuses, Status::ALL);
}

#[test]
fn hxfr_requests_have_exact_bytes() {
    let vectors = vectors::hxfr::requests();
    for vector in &vectors {
        let (name, message, bytes) = (vector.name, &vector.message, vector.bytes());
        assert_eq!(message.encode(vectors::hxfr::SESSION), bytes, "{name}: encoded");
        let (head, payload) = bytes.split_first_chunk().expect(name);
        let header = hxfr::Header::decode(*head, hxfr::request_limit).expect(name);
        assert_eq!((header.session, header.len as usize), (vectors::hxfr::SESSION, payload.len()), "{name}");
        let decoded = hxfr::Request::decode(header, Bytes::copy_from_slice(payload));
        assert_eq!(decoded.as_ref(), Ok(message), "{name}: decoded");
    }
    all_seen(vectors.iter().map(|it| &it.message));
}

#[test]
fn hxfr_replies_have_exact_bytes() {
    let vectors = vectors::hxfr::replies();
    for vector in &vectors {
        let (name, bytes) = (vector.name, vector.bytes());
        assert_eq!(vector.message.encode(vectors::hxfr::SESSION), bytes, "{name}: encoded");
        let (head, payload) = bytes.split_first_chunk().expect(name);
        let header = hxfr::Header::decode(*head, hxfr::reply_limit).expect(name);
        assert_eq!((header.session, header.len as usize), (vectors::hxfr::SESSION, payload.len()), "{name}");
        let decoded = hxfr::Reply::decode(header, Bytes::copy_from_slice(payload));
        assert_eq!(decoded.as_ref(), Ok(&vector.message), "{name}: decoded");
    }
    all_seen(vectors.iter().map(|it| &it.message));
}

#[test]
fn pixel_formats_are_drm_fourcc_codes() {
    let codes = [*b"XR24", *b"AR24", *b"XB24", *b"AB24", *b"NV12"].map(u32::from_le_bytes);
    assert_eq!(PixelFormat::ALL.map(PixelFormat::fourcc), codes);
    assert_eq!(codes.map(PixelFormat::from_fourcc), PixelFormat::ALL.map(Ok));
    all_seen(&PixelFormat::ALL);
}

/// Constants on which both ends must agree, besides the messages' bytes.
#[test]
fn constants_of_the_formats_are_fixed() {
    assert_eq!(
        [stream::MAGIC, link::MAGIC, mailbox::MAGIC].map(u32::to_le_bytes),
        [*b"DSST", *b"DSLK", *b"DSMB"]
    );
    assert_eq!((stream::VERSION, link::VERSION, mailbox::VERSION), (1, 2, 1));
    assert_eq!([0, 1, 7].map(mailbox::request_offset), [0, 128, 896]);
    assert_eq!([0, 1, 7].map(mailbox::answer_offset), [2048, 2176, 2944]);
    assert_eq!((mailbox::WIDTH, mailbox::BYTES, mailbox::VIRGL_FORMAT), (1024, 4096, 67));
}

/// `fuzz/seeds/TARGET/NAME` holds exactly the bytes of these vectors.
/// `UPDATE_SEEDS=1 cargo test -p protocol --test golden` writes them.
#[test]
fn fuzzing_seeds_are_current() {
    seeds("stream_client", &vectors::stream::client());
    seeds("stream_server", &vectors::stream::server());
    seeds("link_from_tap", &vectors::link::from_tap());
    seeds("link_to_tap", &vectors::link::to_tap());
    seeds("mailbox_request", &vectors::mailbox::requests());
    seeds("mailbox_answer", &vectors::mailbox::answers());
    seeds("hxfr_request", &vectors::hxfr::requests());
    seeds("hxfr_reply", &vectors::hxfr::replies());
}

fn seeds<T>(target: &str, vectors: &[Vector<T>]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    if std::env::var_os("UPDATE_SEEDS").is_some() {
        fs::create_dir_all(&folder).expect("folder");
        for old in present(&folder) {
            fs::remove_file(old).expect("removed");
        }
        for vector in vectors {
            fs::write(folder.join(vector.name), vector.bytes()).expect("written");
        }
    }
    let wanted: BTreeSet<PathBuf> = vectors.iter().map(|it| folder.join(it.name)).collect();
    assert_eq!(wanted.len(), vectors.len(), "{target}: two vectors have the same name");
    assert_eq!(present(&folder), wanted, "run UPDATE_SEEDS=1 cargo test -p protocol --test golden");
    for vector in vectors {
        let bytes = fs::read(folder.join(vector.name)).expect(vector.name);
        assert_eq!(bytes, vector.bytes(), "{target}/{}: run with UPDATE_SEEDS=1", vector.name);
    }
}

fn present(folder: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("entry").path()).collect()
}
