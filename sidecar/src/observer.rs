//! Recognises the operator, which reads the status with tokens that it signs.

use std::path::{Path, PathBuf};

use contract::names::STATUS_AUDIENCE;
use stream_token::{Verifier, parse_public_keys};

/// Maximum length of a token, bytes. The operator's have about 350, and more with a long name.
const MAX_TOKEN: usize = 2048;
/// Maximum size of the file with the public keys, bytes. A key in PEM has about 115.
const MAX_FILE: u64 = 16 << 10;

/// Verifies the operator's tokens for the status of one stream.
#[derive(Debug, Clone)]
pub struct Observer {
    /// File with the operator's public keys. It is read for each token: Kubernetes replaces it when a key is rotated.
    pub keys: PathBuf,
    /// `namespace/name` of the stream.
    pub stream: String,
}

impl Observer {
    /// True if the token is valid now, for the status of this stream.
    pub fn accepts(&self, token: &str) -> bool {
        // Viewers' tokens, which also come here, have no dots.
        if token.len() > MAX_TOKEN || token.bytes().filter(|byte| *byte == b'.').count() != 2 {
            return false;
        }
        let Some(keys) = read(&self.keys).as_deref().and_then(parse_public_keys) else {
            tracing::debug!(file = %self.keys.display(), "no public keys of the operator");
            return false;
        };
        match Verifier::new(&keys, STATUS_AUDIENCE).verify(token) {
            Ok(claims) => claims.sub == self.stream,
            Err(error) => {
                tracing::debug!(%error, "token for the status refused");
                false
            }
        }
    }
}

fn read(path: &Path) -> Option<String> {
    let size = std::fs::metadata(path).ok()?.len();
    (size <= MAX_FILE).then(|| std::fs::read_to_string(path).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use contract::names::STATUS_TOKEN_SECONDS;
    use stream_token::Signer;

    use super::*;

    #[test]
    fn token_is_accepted_only_for_this_stream_and_while_its_key_is_published() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let (old, new) = (Signer::generate().expect("a key"), Signer::generate().expect("a key"));
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("status.pub");
        let observer = Observer { keys: file.clone(), stream: "team/desk".to_owned() };
        let token = |signer: &Signer, stream: &str, audience: &str, life: i64| {
            signer.token(stream, audience, now, life).expect("signs")
        };
        let life = i64::from(STATUS_TOKEN_SECONDS);
        let good = token(&old, "team/desk", STATUS_AUDIENCE, life);
        assert!(!observer.accepts(&good), "there is no file");
        let pem = |signers: &[&Signer]| -> String {
            signers.iter().map(|signer| signer.public_pem().expect("PEM")).collect()
        };
        std::fs::write(&file, pem(&[&old])).expect("written");
        assert!(observer.accepts(&good));
        for bad in [
            token(&old, "team/other", STATUS_AUDIENCE, life),
            token(&old, "team/desk", "mac", life),
            token(&old, "team/desk", STATUS_AUDIENCE, -life),
            token(&new, "team/desk", STATUS_AUDIENCE, life),
            format!("{good}{}", "A".repeat(MAX_TOKEN)),
            good.replace('.', ""),
            String::new(),
        ] {
            assert!(!observer.accepts(&bad), "{bad}");
        }
        let next = token(&new, "team/desk", STATUS_AUDIENCE, life);
        std::fs::write(&file, pem(&[&new, &old])).expect("written");
        assert!(observer.accepts(&good) && observer.accepts(&next), "during a rotation");
        std::fs::write(&file, pem(&[&new])).expect("written");
        assert!(!observer.accepts(&good) && observer.accepts(&next), "after it");
        std::fs::write(&file, "no key").expect("written");
        assert!(!observer.accepts(&next));
        std::fs::write(&file, pem(&[&new]) + &" ".repeat(MAX_FILE as usize)).expect("written");
        assert!(!observer.accepts(&next), "the file is too large");
    }
}
