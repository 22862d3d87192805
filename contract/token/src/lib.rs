//! Stream tokens: JWTs (RFC 7519) signed with Ed25519 (RFC 8037). The operator and `host-agent token` sign;
//! the host-agent verifies tokens for sessions, the sidecar those for its status.
//!
//! The algorithm is fixed: a token that names another one is rejected. No IO: callers read and store keys.

#![forbid(unsafe_code)]

mod key;
mod stream_key;
mod verify;

pub use contract::Claims;
pub use contract::claims::Confirmation;
pub use key::{KeyError, Signer, key_id, parse_public_key, parse_public_keys, print_public_key};
pub use stream_key::{Credentials, StreamKey, thumbprint};
pub use verify::{LEEWAY_SECONDS, TokenError, Verifier, is_stream_name, unverified_claims};
