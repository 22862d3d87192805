//! Endpoints: exact texts, which are also the fuzzer's seeds, and the round trip of any text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use contract::Endpoint;
use contract::endpoint::{CID_ANY, CID_HOST, Fingerprint};
use proptest::prelude::*;

/// An endpoint and its text; the name is that of the seed file.
struct Vector {
    name: &'static str,
    text: &'static str,
    endpoint: Endpoint,
}

fn fingerprint() -> Fingerprint {
    Fingerprint(std::array::from_fn(|at| if at == 31 { 0xff } else { at as u8 }))
}

fn vectors() -> [Vector; 8] {
    let tcp = |host: &str, port| Endpoint::Tcp { host: host.to_owned(), port };
    let tls = |host: &str, port, fingerprint| Endpoint::Tls { host: host.to_owned(), port, fingerprint };
    [
        Vector { name: "tls_listener", text: "tls://0.0.0.0:15937", endpoint: tls("0.0.0.0", 15937, None) },
        Vector {
            name: "tls_name",
            text: "tls://a.b:1234#sha256=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff",
            endpoint: tls("a.b", 1234, Some(fingerprint())),
        },
        Vector {
            name: "tls_v6",
            text: "tls://[::1]:1#sha256=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff",
            endpoint: tls("::1", 1, Some(fingerprint())),
        },
        Vector { name: "tcp_name", text: "tcp://a.b:1234", endpoint: tcp("a.b", 1234) },
        Vector { name: "tcp_v6", text: "tcp://[fe80::1%n0]:1", endpoint: tcp("fe80::1%n0", 1) },
        Vector { name: "unix", text: "unix:/run/s", endpoint: Endpoint::Unix("/run/s".into()) },
        Vector {
            name: "vsock_any",
            text: "vsock://any:5",
            endpoint: Endpoint::Vsock { cid: CID_ANY, port: 5 },
        },
        Vector {
            name: "vsock_host",
            text: "vsock://2:5000",
            endpoint: Endpoint::Vsock { cid: CID_HOST, port: 5000 },
        },
    ]
}

#[test]
fn endpoint_prints_and_parses_as_its_vector() {
    for vector in vectors() {
        assert_eq!(vector.endpoint.to_string(), vector.text);
        assert_eq!(vector.text.parse(), Ok(vector.endpoint));
    }
}

/// `fuzz/seeds/endpoint` holds exactly the vectors. `UPDATE_SEEDS=1` writes them.
#[test]
fn fuzzing_seeds_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/endpoint");
    if std::env::var_os("UPDATE_SEEDS").is_some() {
        for vector in vectors() {
            fs::write(folder.join(vector.name), vector.text).expect("written");
        }
    }
    let present: BTreeSet<PathBuf> =
        fs::read_dir(&folder).expect("folder").map(|entry| entry.expect("entry").path()).collect();
    assert_eq!(present, vectors().iter().map(|vector| folder.join(vector.name)).collect());
    for vector in vectors() {
        assert_eq!(fs::read(folder.join(vector.name)).expect("read"), vector.text.as_bytes());
    }
}

/// A vector's text with some bytes overwritten, cut or appended.
fn near_a_vector() -> impl Strategy<Value = Vec<u8>> {
    let texts: Vec<&str> = vectors().iter().map(|vector| vector.text).collect();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let tail = prop::collection::vec(any::<u8>(), 0..4);
    (prop::sample::select(texts), edits, 0_usize..4, tail).prop_map(|(text, edits, cut, tail)| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut);
        bytes.extend(tail);
        bytes
    })
}

/// Texts that resemble endpoints.
fn endpoint_text() -> impl Strategy<Value = String> {
    let host = "[a-z0-9:.%/\\[\\]]{0,12}";
    prop_oneof![
        "tcp://([a-z]{1,5}|[0-9.]{7}|\\[[0-9a-f:]{2,9}\\]):[0-9]{1,6}",
        (host, "[0-9+]{1,6}").prop_map(|(host, port)| format!("tcp://{host}:{port}")),
        "tls://[a-z]{1,5}:[0-9]{1,5}(#sha256=[0-9a-f]{63,65})?",
        "unix:/{0,5}[a-z/]{0,9}",
        "vsock://(any|host|[0-9]{1,11}):[0-9]{1,11}",
        ".{0,30}",
    ]
}

fn round_trips(text: &str) -> Result<(), TestCaseError> {
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    }
    Ok(())
}

proptest! {
    #[test]
    fn bytes_near_a_vector_round_trip_or_are_refused(bytes in near_a_vector()) {
        if let Ok(text) = String::from_utf8(bytes) {
            round_trips(&text)?;
        }
    }

    #[test]
    fn any_text_round_trips_or_is_refused(text in endpoint_text()) {
        round_trips(&text)?;
    }
}
