//! A daemon in this process, on ports of its own, with keys of its own.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use host_agent::auth::Claims;
use host_agent::config::Options;
use host_agent::serve::{self, Running};
use host_agent::status::Status;
use host_agent::token;
use protocol::endpoint::Endpoint;

use crate::client::Client;
use crate::tap::Tap;

/// Longest wait for anything: these machines are small and busy.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The name that tokens are for.
pub const NAME: &str = "rig";

pub struct Rig {
    pub running: Running,
    pub options: Options,
    folder: tempfile::TempDir,
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// A token for a stream, signed by the key of the rig.
pub fn token(stream: &str) -> String {
    sign(&key(1), stream, NAME, 60)
}

pub fn sign(key: &SigningKey, stream: &str, aud: &str, seconds: i64) -> String {
    let claims: Claims = token::claims(stream, aud, seconds).expect("claims");
    token::sign(key, &claims).expect("signs")
}

impl Rig {
    pub async fn new(encoder: &str) -> Self {
        Self::with(Options { encoder: Some(encoder.to_owned()), ..Options::default() }).await
    }

    pub async fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let public = folder.path().join("key.pub");
        std::fs::write(&public, host_agent::auth::print_public_key(&key(1).verifying_key()))
            .expect("written");
        let any_port = "tcp://127.0.0.1:0".parse().expect("an endpoint");
        let defaults = Options {
            listen: vec![any_port, Endpoint::Unix(folder.path().join("stream.sock"))],
            link: Some(folder.path().join("link.sock")),
            admin: Some(([127, 0, 0, 1], 0).into()),
            name: Some(NAME.to_owned()),
            public_key: vec![public],
            ..Options::default()
        };
        let mut options = options.or(defaults);
        let running = serve::start(options.clone().settle().expect("holds")).await.expect("starts");
        // A restart comes back where it was.
        options.listen.clone_from(&running.listeners);
        options.admin = Some(running.admin);
        Self { running, options, folder }
    }

    /// Ends the daemon and starts it again in the same places.
    pub async fn restart(self) -> Self {
        let Self { running, options, folder } = self;
        running.shut_down().await;
        let running = serve::start(options.clone().settle().expect("holds")).await.expect("starts again");
        Self { running, options, folder }
    }

    pub fn link(&self) -> PathBuf {
        self.running.link.clone()
    }

    pub async fn connect(&self) -> Client {
        Client::connect(&self.running.listeners[0]).await
    }

    /// A session of `stream`.
    pub async fn session(&self, stream: &str) -> Client {
        let mut client = self.connect().await;
        client.hello(&token(stream)).await;
        client
    }

    pub fn tap(&self, name: &str) -> Tap {
        Tap::connect(&self.link(), name)
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.running.admin);
        let get = move || {
            let agent: ureq::Agent = ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(PATIENCE))
                .build()
                .into();
            let mut answer = agent.get(&url).call().expect("answers");
            (answer.status().as_u16(), answer.body_mut().read_to_string().expect("text"))
        };
        tokio::task::spawn_blocking(get).await.expect("no panic")
    }

    pub async fn status(&self) -> Status {
        let (code, body) = self.get("/status").await;
        assert_eq!(code, 200);
        serde_json::from_str(&body).expect("status parses")
    }

    /// Waits until `/status` is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < end, "never: {what}; last: {status:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
