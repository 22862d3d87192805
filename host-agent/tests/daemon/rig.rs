//! A daemon in this process, with ports and keys of its own.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use contract::{Endpoint, HostAgentStatus};
use host_agent::admin;
use host_agent::config::Options;
use host_agent::serve::{self, Daemon};
use stream_token::Signer;

use crate::client::Client;
use crate::tap::Tap;

/// Maximum wait for any condition: test machines are small and busy.
pub const TIMEOUT: Duration = Duration::from_secs(20);
/// Interval between two queries of a condition.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Name of the rig's host-agent.
pub const NAME: &str = "rig";

/// The key that the rig trusts.
pub static TRUSTED: LazyLock<Signer> = LazyLock::new(|| Signer::generate().expect("generated"));

pub struct Rig {
    pub daemon: Daemon,
    options: Options,
    folder: tempfile::TempDir,
}

/// A valid token for a stream.
pub fn token(stream: &str) -> String {
    sign(&TRUSTED, stream, NAME, 60)
}

pub fn sign(signer: &Signer, stream: &str, host_agent: &str, seconds: i64) -> String {
    signer.token(stream, host_agent, now(), seconds).expect("signed")
}

/// The time, Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

impl Rig {
    /// A daemon with this encoder.
    pub async fn new(encoder: &str) -> Self {
        Self::with(Options { encoder: Some(encoder.to_owned()), ..Options::default() }).await
    }

    /// A daemon with these options; sockets and keys are the rig's own.
    pub async fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let public_key = folder.path().join("key.pub");
        std::fs::write(&public_key, TRUSTED.public_base64()).expect("file written");
        let any_port = Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 0 };
        let any_tls_port = Endpoint::Tls { host: "127.0.0.1".to_owned(), port: 0, fingerprint: None };
        let own = Options {
            listen: vec![any_port, Endpoint::Unix(folder.path().join("stream.sock")), any_tls_port],
            tls_key: Some(folder.path().join("tls.key")),
            link: Some(folder.path().join("link.sock")),
            name: Some(NAME.to_owned()),
            public_key: vec![public_key],
            ..Options::default()
        };
        let mut options = options.or(own);
        let daemon = serve::start(options.clone().resolve().expect("valid")).await.expect("started");
        // A restart uses the same addresses.
        options.listen = daemon.listeners.iter().cloned().map(Endpoint::without_fingerprint).collect();
        options.admin = Some(daemon.admin.clone());
        Self { daemon, options, folder }
    }

    /// Shuts the daemon down and starts it again with the same addresses.
    pub async fn restart(self) -> Self {
        let Self { daemon, options, folder } = self;
        daemon.shut_down().await;
        let daemon = serve::start(options.clone().resolve().expect("valid")).await.expect("started again");
        Self { daemon, options, folder }
    }

    pub fn link(&self) -> PathBuf {
        self.daemon.link.clone()
    }

    pub async fn connect(&self) -> Client {
        Client::connect(&self.daemon.listeners[0]).await
    }

    pub async fn connect_by_unix_socket(&self) -> Client {
        Client::connect(&self.daemon.listeners[1]).await
    }

    /// Endpoint with TLS, and its fingerprint.
    pub fn tls(&self) -> &Endpoint {
        &self.daemon.listeners[2]
    }

    /// Opens a session of a stream.
    pub async fn session(&self, stream: &str) -> Client {
        let mut client = self.connect().await;
        client.hello(&token(stream)).await;
        client
    }

    pub fn tap(&self, name: &str) -> Tap {
        Tap::connect(&self.link(), name)
    }

    /// Status code and body of an admin page.
    pub async fn get(&self, path: &str) -> (u16, String) {
        get(&self.daemon.admin, path).await
    }

    pub async fn status(&self) -> HostAgentStatus {
        let (code, body) = self.get("/status").await;
        assert_eq!(code, 200);
        serde_json::from_str(&body).expect("a status")
    }

    /// Waits until `/status` meets a condition.
    pub async fn until(
        &self,
        description: &str,
        condition: impl Fn(&HostAgentStatus) -> bool,
    ) -> HostAgentStatus {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let status = self.status().await;
            if condition(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "timeout: {description}; last status: {status:#?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Status code and body of an admin page.
pub async fn get(admin: &Endpoint, path: &str) -> (u16, String) {
    let (admin, path) = (admin.clone(), path.to_owned());
    let get = move || admin::client::get(&admin, &path, TIMEOUT).expect("an answer");
    tokio::task::spawn_blocking(get).await.expect("no panic")
}
