//! The webhook's self-signed certificate.
//!
//! Every certificate has a CA of its own, whose key is discarded. The CA bundle that the apiserver trusts contains the
//! previous CA too, so that both certificates are valid while replicas change over. One Secret holds all of it.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use operator_api::names;

/// Annotation on the Secret: expiry, Unix seconds.
const EXPIRES: &str = "desktopstream.dev/cert-expires";
/// Lifetime of a certificate.
pub const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Time before its expiry at which a certificate is renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(90 * 24 * 3600);

/// A certificate with its key and CA bundle, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cert {
    /// Certificate, without its CA.
    pub chain: String,
    /// Private key.
    pub key: String,
    /// CA of this certificate and of the previous one.
    pub bundle: String,
    /// Expiry, Unix seconds.
    pub expires: u64,
}

impl Cert {
    /// Makes a certificate for `hosts`, valid from `now` (Unix seconds) for `life`. The bundle includes the CA of `before`.
    ///
    /// # Errors
    /// If a key cannot be generated or a host name is invalid.
    pub fn make(
        hosts: Vec<String>,
        now: u64,
        life: Duration,
        before: Option<&Self>,
    ) -> Result<Self, rcgen::Error> {
        let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        let expires = now + life.as_secs();
        // The clocks of apiserver and operator can differ.
        let begin = now.saturating_sub(3600);
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "desktopstream webhook CA");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        (authority.not_before, authority.not_after) = (at(begin), at(expires));
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let mut leaf = CertificateParams::new(hosts)?;
        leaf.distinguished_name.push(DnType::CommonName, "desktopstream webhook");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        (leaf.not_before, leaf.not_after) = (at(begin), at(expires));
        let key = KeyPair::generate()?;
        let cert = leaf.signed_by(&key, &authority)?;
        let own = authority.pem();
        let old = before.map(|before| first(&before.bundle)).unwrap_or_default();
        Ok(Self { chain: cert.pem(), key: key.serialize_pem(), bundle: format!("{own}{old}"), expires })
    }

    /// True if the certificate must be renewed.
    pub fn is_due(&self, now: u64) -> bool {
        now + RENEW_BEFORE.as_secs() >= self.expires
    }

    /// Renders the Secret.
    pub fn secret(&self) -> Secret {
        let data = [("tls.crt", &self.chain), ("tls.key", &self.key), ("ca.crt", &self.bundle)];
        Secret {
            metadata: ObjectMeta {
                name: Some(names::WEBHOOK_CERT_SECRET.to_owned()),
                labels: Some([(names::MANAGED_BY.to_owned(), names::MANAGER.to_owned())].into()),
                annotations: Some([(EXPIRES.to_owned(), self.expires.to_string())].into()),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(
                data.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes()))).into(),
            ),
            ..Secret::default()
        }
    }

    /// Reads the Secret; `None` if it is not one that [`Self::secret`] renders.
    pub fn read(secret: &Secret) -> Option<Self> {
        let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
        Some(Self {
            chain: text("tls.crt")?,
            key: text("tls.key")?,
            bundle: text("ca.crt")?,
            expires: secret.annotations().get(EXPIRES)?.parse().ok()?,
        })
    }
}

/// The first certificate of a bundle, which is the newest.
fn first(bundle: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----\n";
    bundle.split_inclusive(END).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_bundle_keeps_the_previous_ca_only() {
        let hosts = || vec!["webhook.ns.svc".to_owned()];
        let count = |cert: &Cert| cert.bundle.matches("BEGIN CERTIFICATE").count();
        let first = Cert::make(hosts(), 1_000_000, LIFE, None).expect("a certificate");
        assert_eq!(count(&first), 1);
        assert!(!first.is_due(1_000_000));
        assert!(first.is_due(first.expires - 24 * 3600));
        let second = Cert::make(hosts(), 2_000_000, LIFE, Some(&first)).expect("a certificate");
        let third = Cert::make(hosts(), 3_000_000, LIFE, Some(&second)).expect("a certificate");
        assert_eq!((count(&second), count(&third)), (2, 2));
        assert!(second.bundle.contains(&first.bundle));
        assert!(!third.bundle.contains(&first.bundle));
        assert_eq!(Cert::read(&third.secret()), Some(third));
        assert_eq!(Cert::read(&Secret::default()), None);
    }
}
