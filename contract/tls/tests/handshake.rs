//! Real handshakes on loopback.

use std::io;

use contract::endpoint::Fingerprint;
use stream_tls::{Acceptor, Identity, KeyError, PublicKey, connect, generate_key, is_other_key};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn identity() -> Identity {
    Identity::from_pem(&generate_key().expect("a key")).expect("an identity")
}

/// Performs a handshake and sends a byte each way. Returns the client's key as the server sees it, or the client's error.
async fn handshake(
    server: &Identity,
    pinned: Fingerprint,
    client: Option<&Identity>,
) -> io::Result<Option<PublicKey>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let acceptor = Acceptor::new(server).expect("an acceptor");
    assert_eq!(acceptor.fingerprint(), server.fingerprint());
    let accepted = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (mut stream, key) = acceptor.accept(stream).await?;
        let byte = stream.read_u8().await?;
        stream.write_u8(byte + 1).await?;
        stream.flush().await?;
        io::Result::Ok(key)
    });
    let stream = TcpStream::connect(address).await.expect("connected");
    let mut stream = connect(stream, pinned, client).await?;
    stream.write_u8(1).await?;
    stream.flush().await?;
    assert_eq!(stream.read_u8().await?, 2);
    accepted.await.expect("no panic")
}

#[tokio::test]
async fn pinned_server_is_accepted_and_sees_the_clients_key() {
    let (server, client) = (identity(), identity());
    let pinned = server.fingerprint();
    assert_eq!(handshake(&server, pinned, None).await.expect("without a key"), None);
    let first = handshake(&server, pinned, Some(&client)).await.expect("with a key");
    assert!(first.is_some());
    assert_eq!(handshake(&server, pinned, Some(&client)).await.expect("again"), first, "the key is stable");
    assert_ne!(handshake(&server, pinned, Some(&identity())).await.expect("another"), first);
}

#[tokio::test]
async fn server_with_another_key_is_refused() {
    let error = handshake(&identity(), identity().fingerprint(), None).await.expect_err("refused");
    assert!(is_other_key(&error), "{error:?}");
}

#[tokio::test]
async fn server_without_tls_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.write_all(b"\x17\0\0\0\x81\0\0\0DSST").await
    });
    let error = connect(stream, identity().fingerprint(), None).await.expect_err("refused");
    assert!(!is_other_key(&error), "{error:?}");
}

#[test]
fn identity_of_a_stored_key_keeps_its_fingerprint() {
    let pem = generate_key().expect("a key");
    let [first, second] = [&pem, &pem].map(|pem| Identity::from_pem(pem).expect("an identity"));
    assert_eq!(first.fingerprint(), second.fingerprint());
    assert_ne!(first.fingerprint(), identity().fingerprint());
    assert!(!format!("{first:?}").contains("PRIVATE"));
}

#[test]
fn key_of_another_kind_is_refused() {
    let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key").serialize_pem();
    for pem in ["", "no", &ecdsa] {
        assert!(matches!(Identity::from_pem(pem), Err(KeyError::NotAKey)), "{pem}");
    }
}
