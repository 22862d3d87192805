//! The key that signs tokens for host-agents and for the status of sidecars.
//!
//! The private key is in a Secret of the operator's namespace, created on the first start. The public key is in a ConfigMap
//! beside it, for host-agent's `--public-key`. Both outlive the operator: hosts trust the key, so a reinstallation must find
//! it.
//!
//! During a rotation the Secret has a second key, which signs nothing yet. The ConfigMap has both public keys, so that hosts
//! and sidecars accept the tokens of the second one before the first is signed (docs/kubernetes.md, "Rotating the signing
//! key").

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Api, Client};
use operator_api::names::{self, PUBLIC_KEY_CONFIG_MAP, SIGNING_KEY_SECRET};
use stream_token::Signer;

use super::error::Error;

/// Key of the private key in its Secret.
const PRIVATE: &str = "key.pem";
/// Key of the next private key in the Secret. Optional.
const NEXT: &str = "next.pem";
/// Key of the public keys in their ConfigMap, in PEM.
const PUBLIC: &str = "key.pem.pub";
/// Key of the public key in its ConfigMap, as base64 of its 32 bytes.
const PUBLIC_BASE64: &str = "base64";

/// Error of a key or token.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The Secret does not contain a usable key.
    #[error(
        "Secret {SIGNING_KEY_SECRET} has no Ed25519 private key in PEM under {0}: correct it, or delete it and restart the \
         operator"
    )]
    NotAKey(&'static str),
    /// A key or a token cannot be made.
    #[error(transparent)]
    Token(#[from] stream_token::KeyError),
    /// No random numbers are available.
    #[error("cannot get random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// A token for viewers: 256 random bits in hexadecimal, which a URL can contain.
///
/// # Errors
/// If no random numbers are available.
pub fn viewer_token() -> Result<String, KeyError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// Reads the cluster's key, or creates one, and publishes its public key.
///
/// # Errors
/// If the apiserver refuses, or the Secret does not contain a key.
pub async fn ensure(client: &Client, namespace: &str) -> Result<SigningKeys, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = secrets
        .get_opt(SIGNING_KEY_SECRET)
        .await
        .map_err(Error::api(format!("read Secret {SIGNING_KEY_SECRET}")))?;
    let keys = match found {
        Some(secret) => read(&secret)?,
        None => create(&secrets).await?,
    };
    publish(client, namespace, &keys).await?;
    let public_pem = keys.public_pem()?;
    Ok(SigningKeys { signer: keys.signer, public_pem })
}

/// The key that signs, and what verifies its tokens.
#[derive(Debug)]
pub struct SigningKeys {
    /// Signs tokens.
    pub signer: Signer,
    /// Public keys in PEM: that of the signer, and during a rotation the next one.
    pub public_pem: String,
}

/// The keys of the Secret.
#[derive(Debug)]
struct Keys {
    /// Signs tokens.
    signer: Signer,
    /// Signs tokens after the next step of a rotation.
    next: Option<Signer>,
}

impl Keys {
    /// Public keys in PEM, that of the signer first.
    fn public_pem(&self) -> Result<String, KeyError> {
        let keys = std::iter::once(&self.signer).chain(&self.next);
        Ok(keys.map(Signer::public_pem).collect::<Result<Vec<_>, _>>()?.concat())
    }
}

fn read(secret: &Secret) -> Result<Keys, KeyError> {
    let key = |name: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name))?;
        let pem = std::str::from_utf8(&bytes.0).unwrap_or_default();
        Some(Signer::from_pem(pem).map_err(|_| KeyError::NotAKey(name)))
    };
    Ok(Keys { signer: key(PRIVATE).ok_or(KeyError::NotAKey(PRIVATE))??, next: key(NEXT).transpose()? })
}

/// Creates a key. If another operator created one first, reads that.
async fn create(secrets: &Api<Secret>) -> Result<Keys, Error> {
    let signer = Signer::generate().map_err(KeyError::from)?;
    let pem = signer.private_pem().map_err(KeyError::from)?;
    let secret = Secret {
        metadata: metadata(SIGNING_KEY_SECRET),
        data: Some([(PRIVATE.to_owned(), ByteString(pem.into_bytes()))].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(Keys { signer, next: None }),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let other = secrets
                .get(SIGNING_KEY_SECRET)
                .await
                .map_err(Error::api(format!("read Secret {SIGNING_KEY_SECRET}")))?;
            Ok(read(&other)?)
        }
        Err(error) => Err(Error::api(format!("create Secret {SIGNING_KEY_SECRET}"))(error)),
    }
}

async fn publish(client: &Client, namespace: &str, keys: &Keys) -> Result<(), Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let (pem, base64) = (keys.public_pem()?, keys.signer.public_base64());
    let map = ConfigMap {
        metadata: metadata(PUBLIC_KEY_CONFIG_MAP),
        data: Some([(PUBLIC.to_owned(), pem), (PUBLIC_BASE64.to_owned(), base64)].into()),
        ..ConfigMap::default()
    };
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    let applied = maps.patch(PUBLIC_KEY_CONFIG_MAP, &params, &Patch::Apply(&map)).await;
    applied.map(drop).map_err(Error::api(format!("apply ConfigMap {PUBLIC_KEY_CONFIG_MAP}")))
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
    use super::*;

    #[test]
    fn viewer_tokens_have_256_bits_and_differ() {
        let (a, b) = (viewer_token().expect("a token"), viewer_token().expect("another"));
        assert_ne!(a, b);
        assert_eq!(a.len(), 64);
    }

    #[test]
    fn secret_without_a_key_is_refused_with_a_remedy() {
        let secret = |pem: &str| Secret {
            data: Some([(PRIVATE.to_owned(), ByteString(pem.as_bytes().to_vec()))].into()),
            ..Secret::default()
        };
        let pem = Signer::generate().and_then(|key| key.private_pem()).expect("a key");
        assert!(read(&secret(&pem)).is_ok());
        for bad in [secret("no"), Secret::default()] {
            let error = read(&bad).expect_err("not a key");
            assert!(error.to_string().contains("delete it and restart"), "{error}");
        }
    }

    #[test]
    fn next_key_is_published_and_signs_nothing() {
        let (first, second) = (Signer::generate().expect("a key"), Signer::generate().expect("a key"));
        let data = |next: &str| {
            let pem = first.private_pem().expect("PEM");
            let all = [(PRIVATE, pem.as_str()), (NEXT, next)];
            let all = all.map(|(name, pem)| (name.to_owned(), ByteString(pem.as_bytes().to_vec())));
            Secret { data: Some(all.into()), ..Secret::default() }
        };
        let keys = read(&data(&second.private_pem().expect("PEM"))).expect("reads");
        assert_eq!(keys.signer.verifying_key(), first.verifying_key());
        let published = stream_token::parse_public_keys(&keys.public_pem().expect("PEM"));
        assert_eq!(published, Some(vec![first.verifying_key(), second.verifying_key()]));
        assert!(read(&data("no")).expect_err("not a key").to_string().contains(NEXT));
    }
}
