//! The webhook's certificate, made by ourselves and renewed in time.
//!
//! A new CA with each certificate; the bundle that the apiserver trusts holds the old one, too, so that both
//! certificates are good while replicas change over. Nobody keeps a CA's key. All of it lies in one Secret.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use operator_api::names::{self, WEBHOOK_CERT_SECRET as SECRET};

/// Annotation: when it expires, Unix seconds.
const EXPIRES: &str = "desktopstream.dev/cert-expires";
/// How long a certificate is good.
pub const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// It is renewed this long before it expires.
const EARLY: Duration = Duration::from_secs(90 * 24 * 3600);

/// A certificate, its key, and what vouches for it; all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cert {
    /// The chain to serve.
    pub cert: String,
    /// Its key.
    pub key: String,
    /// CAs that vouch for it and for its predecessor.
    pub bundle: String,
    /// When it expires, Unix seconds.
    pub expires: u64,
}

impl Cert {
    /// A new one for these names, made `now`; the apiserver goes on trusting what `before` was signed by.
    pub fn make(
        hosts: Vec<String>,
        now: u64,
        life: Duration,
        before: Option<&Self>,
    ) -> Result<Self, rcgen::Error> {
        let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        let expires = now + life.as_secs();
        // Clocks of apiserver and operator may differ.
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
        Ok(Self { cert: cert.pem(), key: key.serialize_pem(), bundle: format!("{own}{old}"), expires })
    }

    /// Whether it should be renewed.
    pub fn is_due(&self, now: u64) -> bool {
        now + EARLY.as_secs() >= self.expires
    }

    /// As a Secret.
    pub fn secret(&self) -> Secret {
        let data = [("tls.crt", &self.cert), ("tls.key", &self.key), ("ca.crt", &self.bundle)];
        Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
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

    /// From a Secret; `None` if it isn't one of ours.
    pub fn read(secret: &Secret) -> Option<Self> {
        let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
        Some(Self {
            cert: text("tls.crt")?,
            key: text("tls.key")?,
            bundle: text("ca.crt")?,
            expires: secret.annotations().get(EXPIRES)?.parse().ok()?,
        })
    }
}

/// The first certificate of a bundle: the newest.
fn first(bundle: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----\n";
    bundle.split_inclusive(END).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_keeps_the_last_authority_and_no_more() {
        let hosts = || vec!["webhook.ns.svc".to_owned()];
        let count = |cert: &Cert| cert.bundle.matches("BEGIN CERTIFICATE").count();
        let first = Cert::make(hosts(), 1_000_000, LIFE, None).expect("makes");
        assert_eq!(count(&first), 1);
        assert!(!first.is_due(1_000_000));
        assert!(first.is_due(first.expires - 24 * 3600));
        let second = Cert::make(hosts(), 2_000_000, LIFE, Some(&first)).expect("makes");
        let third = Cert::make(hosts(), 3_000_000, LIFE, Some(&second)).expect("makes");
        assert_eq!((count(&second), count(&third)), (2, 2));
        assert!(second.bundle.contains(&first.bundle));
        assert!(!third.bundle.contains(&first.bundle));
        assert_eq!(Cert::read(&third.secret()), Some(third));
        assert_eq!(Cert::read(&Secret::default()), None);
    }
}
