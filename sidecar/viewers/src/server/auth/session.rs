//! Session cookies.
//!
//! A browser exchanges the token for a session once, by POST. The cookie's value is `ISSUED.EXPIRES.MAC`: two Unix times
//! in seconds, and in hexadecimal the HMAC-SHA256 of them and the stream's name, keyed by the token's SHA-256. It reveals no
//! token, serves one stream, and is invalid as soon as the token changes. Later responses renew a session that is used, at
//! most until [`MAX_AGE`].

use cookie::{Cookie, SameSite};
use hmac::digest::Key;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::origin::Host;
use super::token::ViewerToken;

/// Lifetime of a session after its last renewal, seconds.
pub const LIFETIME: u64 = 4 * 3600;
/// Maximum age of a session after the exchange of the token, seconds.
pub const MAX_AGE: u64 = 24 * 3600;
/// Time by which this host's clock may have been set back since a session began, seconds. A session of a later time
/// was issued while the clock was wrong, and would outlive [`MAX_AGE`].
const MAX_CLOCK_STEP: u64 = 300;
/// Prefix of the MAC's input. Separates it from other uses of the token.
const CONTEXT: &[u8] = b"desktopstream viewer session 1\0";
/// Prefix by which browsers demand `Secure`, `Path=/` and no `Domain` (RFC 6265bis section 4.1.3.2).
const HOST_PREFIX: &str = "__Host-";

/// Times of a session, Unix time in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Time at which the token was exchanged.
    pub issued: u64,
    /// Time from which on the session is invalid.
    pub expires: u64,
}

impl Session {
    /// A session that begins now.
    pub fn new(now: u64) -> Self {
        Self { issued: now, expires: now.saturating_add(LIFETIME) }
    }

    /// A later end for a session of which half the lifetime is over; `None` if it needs none, or has reached its
    /// maximum age.
    pub fn renewed(self, now: u64) -> Option<Self> {
        let due = now.saturating_add(LIFETIME / 2) >= self.expires;
        let expires = now.saturating_add(LIFETIME).min(self.issued.saturating_add(MAX_AGE));
        (due && expires > self.expires).then_some(Self { expires, ..self })
    }
}

/// Names, mints and verifies the cookies of one stream.
#[derive(Debug, Clone)]
pub struct Sessions {
    stream: String,
    /// First 8 bytes of the name's SHA-256, in hexadecimal.
    digest: String,
}

impl Sessions {
    /// Sessions of the stream with this name.
    pub fn new(stream: String) -> Self {
        let digest = hex::encode(&Sha256::digest(&stream)[..8]);
        Self { stream, digest }
    }

    /// Name of the cookie. It contains stream and port because browsers share cookies between the ports of a host.
    fn name(&self, host: Option<Host<'_>>, secure: bool) -> String {
        let port = host.and_then(|host| host.port).map_or_else(|| "web".to_owned(), |port| port.to_string());
        format!("{}desktopstream-{port}-{}", if secure { HOST_PREFIX } else { "" }, self.digest)
    }

    /// `Set-Cookie` with `session`, inaccessible to scripts and not sent with requests from other sites.
    pub fn cookie(
        &self,
        token: &ViewerToken,
        session: Session,
        host: Option<Host<'_>>,
        secure: bool,
        now: u64,
    ) -> String {
        let age = i64::try_from(session.expires.saturating_sub(now)).unwrap_or(i64::MAX);
        Cookie::build((self.name(host, secure), self.value(token, session)))
            .path("/")
            .http_only(true)
            .same_site(SameSite::Strict)
            .secure(secure)
            .max_age(cookie::time::Duration::seconds(age))
            .build()
            .to_string()
    }

    /// The valid session among the cookies of a `Cookie` header, and whether its cookie is one of HTTPS.
    pub fn find(
        &self,
        token: &ViewerToken,
        header: &str,
        host: Option<Host<'_>>,
        now: u64,
    ) -> Option<(Session, bool)> {
        let names = [true, false].map(|secure| self.name(host, secure));
        let cookies = Cookie::split_parse(header).filter_map(Result::ok);
        let mut own = cookies.filter(|cookie| names.iter().any(|name| name == cookie.name()));
        own.find_map(|cookie| {
            let session = self.verify(token, cookie.value(), now)?;
            Some((session, cookie.name().starts_with(HOST_PREFIX)))
        })
    }

    fn verify(&self, token: &ViewerToken, value: &str, now: u64) -> Option<Session> {
        let (times, _) = value.rsplit_once('.')?;
        let (issued, expires) = times.split_once('.')?;
        let session = Session { issued: issued.parse().ok()?, expires: expires.parse().ok()? };
        // Only the text that `cookie` prints is equal: no signs, leading zeros or upper-case digits.
        let is_own: bool = self.value(token, session).as_bytes().ct_eq(value.as_bytes()).into();
        let is_valid = now < session.expires && session.issued <= now.saturating_add(MAX_CLOCK_STEP);
        (is_own && is_valid).then_some(session)
    }

    /// Value of the cookie.
    fn value(&self, token: &ViewerToken, session: Session) -> String {
        let Session { issued, expires } = session;
        format!("{issued}.{expires}.{}", hex::encode(self.mac(token, session).finalize().into_bytes()))
    }

    fn mac(&self, token: &ViewerToken, session: Session) -> Hmac<Sha256> {
        // HMAC pads keys with zeros: this is the key SHA-256(token).
        let mut key = Key::<Hmac<Sha256>>::default();
        key[..32].copy_from_slice(&Sha256::digest(token.as_bytes()));
        let mut mac = Hmac::<Sha256>::new(&key);
        mac.update(CONTEXT);
        mac.update(&session.issued.to_be_bytes());
        mac.update(&session.expires.to_be_bytes());
        mac.update(self.stream.as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn token(text: &str) -> ViewerToken {
        text.parse().expect("a token")
    }

    fn sessions(stream: &str) -> Sessions {
        Sessions::new(stream.to_owned())
    }

    /// The pair `NAME=VALUE` that a browser returns for a new session's cookie.
    fn pair(stream: &str, key: &str, host: &str, secure: bool) -> String {
        let cookie =
            sessions(stream).cookie(&token(key), Session::new(NOW), Some(Host::parse(host)), secure, NOW);
        cookie.split(';').next().expect("a pair").to_owned()
    }

    fn find(stream: &str, key: &str, host: &str, header: &str, now: u64) -> Option<(Session, bool)> {
        sessions(stream).find(&token(key), header, Some(Host::parse(host)), now)
    }

    const KEY: &str = "0123456789abcdef";

    #[test]
    fn cookie_reveals_no_token_and_is_inaccessible_to_scripts_and_other_sites() {
        let cookie = sessions("team/desk").cookie(
            &token(KEY),
            Session::new(NOW),
            Some(Host::parse("h:1")),
            false,
            NOW,
        );
        assert!(!cookie.contains(KEY), "{cookie}");
        let cookie = Cookie::parse(cookie).expect("a cookie");
        assert_eq!((cookie.http_only(), cookie.same_site()), (Some(true), Some(SameSite::Strict)));
        assert_eq!((cookie.path(), cookie.domain()), (Some("/"), None));
        let lifetime = cookie::time::Duration::seconds(LIFETIME as i64);
        assert_eq!(cookie.max_age(), Some(lifetime));
        assert_ne!(cookie.secure(), Some(true), "a browser would not store a Secure cookie of plain HTTP");
        assert!(cookie.name().starts_with("desktopstream-1-"), "{}", cookie.name());
        let secure = sessions("team/desk").cookie(&token(KEY), Session::new(NOW), None, true, NOW);
        let secure = Cookie::parse(secure).expect("a cookie");
        assert_eq!((secure.secure(), secure.path(), secure.domain()), (Some(true), Some("/"), None));
        assert!(secure.name().starts_with("__Host-desktopstream-"), "{}", secure.name());
    }

    #[test]
    fn session_serves_its_stream_port_and_token_only() {
        let cookie = pair("team/desk", KEY, "h:8080", false);
        let session = Session::new(NOW);
        assert_eq!(find("team/desk", KEY, "h:8080", &cookie, NOW), Some((session, false)));
        assert_eq!(find("team/desk", KEY, "h:8081", &cookie, NOW), None, "another port");
        assert_eq!(find("team/desk", "fedcba9876543210", "h:8080", &cookie, NOW), None, "a changed token");
        assert_eq!(find("team/other", KEY, "h:8080", &cookie, NOW), None, "another stream's name");
        let other = pair("team/other", KEY, "h:8080", false);
        let (name, value) = (cookie.split('=').next(), other.split('=').nth(1));
        let forged = format!("{}={}", name.expect("a name"), value.expect("a value"));
        assert_eq!(find("team/desk", KEY, "h:8080", &forged, NOW), None, "another stream's value");
        let secure = pair("team/desk", KEY, "h", true);
        assert_eq!(find("team/desk", KEY, "h", &secure, NOW), Some((session, true)));
    }

    #[test]
    fn session_ends_at_its_time_and_its_times_cannot_be_changed() {
        let cookie = pair("team/desk", KEY, "h:1", false);
        assert!(find("team/desk", KEY, "h:1", &cookie, NOW + LIFETIME - 1).is_some());
        assert_eq!(find("team/desk", KEY, "h:1", &cookie, NOW + LIFETIME), None);
        let later = cookie.replace(&(NOW + LIFETIME).to_string(), &(NOW + 2 * LIFETIME).to_string());
        assert_ne!(later, cookie);
        assert_eq!(find("team/desk", KEY, "h:1", &later, NOW), None);
    }

    #[test]
    fn session_of_a_clock_that_was_ahead_is_refused() {
        let cookie = pair("team/desk", KEY, "h:1", false);
        assert!(find("team/desk", KEY, "h:1", &cookie, NOW - MAX_CLOCK_STEP).is_some());
        assert_eq!(find("team/desk", KEY, "h:1", &cookie, NOW - MAX_CLOCK_STEP - 1), None);
    }

    #[test]
    fn malformed_value_is_refused_and_the_valid_one_beside_it_is_found() {
        let cookie = pair("team/desk", KEY, "h:1", false);
        let (name, value) = cookie.split_once('=').expect("a pair");
        let upper = value.to_ascii_uppercase();
        for bad in [
            "",
            ".",
            "..",
            "1.2.3",
            "+1.2.3",
            &value[1..],
            &upper,
            &format!("0{value}"),
            &format!("{value}0"),
        ] {
            assert_eq!(find("team/desk", KEY, "h:1", &format!("{name}={bad}"), NOW), None, "{bad}");
            for all in [format!("{name}={bad}; {cookie}"), format!("{cookie}; x=y; {name}={bad}")] {
                assert!(find("team/desk", KEY, "h:1", &all, NOW).is_some(), "{all}");
            }
        }
        assert_eq!(find("team/desk", KEY, "h:1", &format!("{name}={KEY}"), NOW), None, "the token itself");
    }

    #[test]
    fn used_session_is_renewed_until_its_maximum_age() {
        let session = Session::new(NOW);
        assert_eq!(session.renewed(NOW + LIFETIME / 2 - 1), None, "not yet due");
        let later = NOW + LIFETIME / 2;
        assert_eq!(session.renewed(later), Some(Session { issued: NOW, expires: later + LIFETIME }));
        let (mut last, mut now) = (session, later);
        while let Some(next) = last.renewed(now) {
            (last, now) = (next, next.expires - LIFETIME / 2);
        }
        assert_eq!(last.expires, NOW + MAX_AGE);
    }
}
