//! The key that signs tokens for host-agents, and the tokens.
//!
//! The private key lies in a Secret of the operator's own namespace, made on the first start; the public one
//! in a ConfigMap beside it, for host-agent's `--public-key`. To renew it, delete the Secret and restart.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};

use super::error::Error;
use operator_api::names::{self, PUBLIC_KEY_CONFIG_MAP as CONFIG_MAP, SIGNING_KEY_SECRET as SECRET};
use operator_plan::workload::hex;

const PRIVATE: &str = "key.pem";
const PUBLIC: &str = "key.pem.pub";

/// Why there is no key or token.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The Secret has none.
    #[error(
        "Secret {SECRET} has no Ed25519 private key in PEM under {PRIVATE}; delete it, and the operator makes another"
    )]
    NotAKey,
    /// A library refused; names no secret.
    #[error("can't {what}: {why}")]
    Crypto {
        /// What was tried.
        what: &'static str,
        /// What it said.
        why: String,
    },
}

fn crypto<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> KeyError {
    move |error| KeyError::Crypto { what, why: error.to_string() }
}

/// What a token says; host-agent's `auth::Claims` is its other side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The stream: `namespace/name`.
    pub sub: String,
    /// The HostAgent.
    pub aud: String,
    /// Good until then, Unix seconds.
    pub exp: u64,
    /// Made then, Unix seconds.
    pub iat: u64,
    /// Its own name, for logs.
    pub jti: String,
}

/// Signs tokens.
pub struct Signer {
    encoding: EncodingKey,
    public_pem: String,
}

impl Signer {
    /// From a private key in PEM (PKCS #8).
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = SigningKey::from_pkcs8_pem(pem.trim()).map_err(|_| KeyError::NotAKey)?;
        let der = key.to_pkcs8_der().map_err(crypto("encode the key"))?;
        let public_pem =
            key.verifying_key().to_public_key_pem(LineEnding::LF).map_err(crypto("write the key as PEM"))?;
        Ok(Self { encoding: EncodingKey::from_ed_der(der.as_bytes()), public_pem })
    }

    /// The key that verifies what this signs, in PEM.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// A token for `stream` on `host_agent`, good from `now` for `life` seconds.
    pub fn token(&self, stream: &str, host_agent: &str, now: u64, life: u64) -> Result<String, KeyError> {
        let claims = Claims {
            sub: stream.to_owned(),
            aud: host_agent.to_owned(),
            exp: now.saturating_add(life),
            iat: now,
            jti: hex(&random::<8>()?),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.encoding)
            .map_err(crypto("sign the token"))
    }
}

/// A token for viewers: 256 random bits, in characters that a URL takes.
pub fn viewer_token() -> Result<String, KeyError> {
    Ok(hex(&random::<32>()?))
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(crypto("get random bytes"))?;
    Ok(bytes)
}

/// A new private key in PEM.
pub fn generate() -> Result<String, KeyError> {
    let key = SigningKey::from_bytes(&random()?);
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(crypto("write the key as PEM"))?;
    Ok((*pem).clone())
}

/// The cluster's signer: the one that is there, or a new one.
pub async fn ensure(client: &Client, namespace: &str) -> Result<Signer, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = secrets.get_opt(SECRET).await.map_err(Error::api(format!("read Secret {SECRET}")))?;
    let pem = match found {
        Some(secret) => read(&secret)?,
        None => make(&secrets).await?,
    };
    let signer = Signer::from_pem(&pem)?;
    publish(client, namespace, &signer).await?;
    Ok(signer)
}

fn read(secret: &Secret) -> Result<String, KeyError> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(PRIVATE)).ok_or(KeyError::NotAKey)?;
    String::from_utf8(bytes.0.clone()).map_err(|_| KeyError::NotAKey)
}

/// Whoever is first wins: the other reads what the first has made.
async fn make(secrets: &Api<Secret>) -> Result<String, Error> {
    let pem = generate()?;
    let secret = Secret {
        metadata: metadata(SECRET),
        data: Some([(PRIVATE.to_owned(), ByteString(pem.clone().into_bytes()))].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(pem),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let other = secrets.get(SECRET).await.map_err(Error::api(format!("read Secret {SECRET}")))?;
            Ok(read(&other)?)
        }
        Err(error) => Err(Error::api(format!("make Secret {SECRET}"))(error)),
    }
}

async fn publish(client: &Client, namespace: &str, signer: &Signer) -> Result<(), Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let line: String = signer.public_pem().lines().filter(|line| !line.starts_with('-')).collect();
    // The last 32 bytes of the SPKI are the key itself: what host-agent takes on one line.
    let raw = BASE64_STANDARD.decode(line).map_err(crypto("read our own key"))?;
    let raw = BASE64_STANDARD.encode(&raw[raw.len().saturating_sub(32)..]);
    let map = ConfigMap {
        metadata: metadata(CONFIG_MAP),
        data: Some([(PUBLIC.to_owned(), signer.public_pem().to_owned()), ("base64".to_owned(), raw)].into()),
        ..ConfigMap::default()
    };
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    let applied = maps.patch(CONFIG_MAP, &params, &Patch::Apply(&map)).await;
    applied.map(|_| ()).map_err(Error::api(format!("apply ConfigMap {CONFIG_MAP}")))
}

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some([(names::MANAGED_BY.to_owned(), names::MANAGER.to_owned())].into()),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::VerifyingKey;
    use ed25519_dalek::pkcs8::DecodePublicKey;
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;

    #[test]
    fn the_public_key_verifies_what_the_signer_signs() {
        let signer = Signer::from_pem(&generate().expect("a key")).expect("reads");
        let now = jsonwebtoken::get_current_timestamp();
        let token = signer.token("team/desk", "mac", now, 60).expect("signs");
        let public = VerifyingKey::from_public_key_pem(signer.public_pem()).expect("PEM");
        // As host-agent checks it.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&["mac"]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        let key = DecodingKey::from_ed_der(public.as_bytes());
        let claims = jsonwebtoken::decode::<Claims>(&token, &key, &validation).expect("verifies").claims;
        assert_eq!((claims.sub.as_str(), claims.exp - claims.iat), ("team/desk", 60));
        validation.set_audience(&["other"]);
        assert!(jsonwebtoken::decode::<Claims>(&token, &key, &validation).is_err());
    }

    #[test]
    fn viewer_tokens_are_long_and_differ() {
        let (a, b) = (viewer_token().expect("a token"), viewer_token().expect("another"));
        assert_ne!(a, b);
        assert_eq!(a.len(), 64);
        assert!(matches!(Signer::from_pem("no"), Err(KeyError::NotAKey)));
    }
}
