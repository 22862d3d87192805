//! Endpoints of a HostAgent: those that a machine tries, and the rules for them.

use std::net::Ipv4Addr;

use contract::Endpoint;
use contract::endpoint::CID_HOST;
use contract::names::HOST_AGENT_PORT;
use operator_api::HostAgentSpec;

/// Host in an endpoint that stands for the machine's default gateway.
const GATEWAY: &str = "gateway";

/// Checks what the apiserver's schema and rules check, because Docker mode has no apiserver.
///
/// # Errors
/// The message names the field and the remedy.
pub fn validate(spec: &HostAgentSpec) -> Result<(), String> {
    if let Some(fingerprint) = &spec.fingerprint {
        parse_fingerprint(fingerprint).ok_or_else(|| {
            "spec.fingerprint: must be 64 of 0-9 and a-f, the output of `host-agent fingerprint`".to_owned()
        })?;
    }
    let has_key = spec.fingerprint.is_some() || spec.endpoints.iter().any(|it| it.starts_with("tls:"));
    for text in &spec.endpoints {
        match text.parse() {
            Err(error) => return Err(format!("spec.endpoints: {error}")),
            Ok(Endpoint::Tcp { .. }) if has_key => {
                return Err(format!(
                    "spec.endpoints: {text} is plaintext, and the host-agent has a key: remove it, or the fingerprint and tls:// endpoints"
                ));
            }
            Ok(Endpoint::Tcp { .. }) if !spec.plaintext => {
                return Err(format!(
                    "spec.endpoints: {text} is plaintext: use tls:// and set fingerprint, or set plaintext to true"
                ));
            }
            Ok(Endpoint::Tls { fingerprint: None, .. }) if spec.fingerprint.is_none() => {
                return Err(format!(
                    "spec.endpoints: {text} has no fingerprint: set fingerprint to the output of `host-agent fingerprint`"
                ));
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

fn parse_fingerprint(text: &str) -> Option<contract::endpoint::Fingerprint> {
    text.parse().ok()
}

/// Endpoints to connect to, in the order of preference: those of the spec, or the default ones, with the host `gateway`
/// replaced and the spec's fingerprint added. Those that [`validate`] refuses are left out.
pub fn endpoints(spec: &HostAgentSpec, gateway: Option<Ipv4Addr>) -> Vec<Endpoint> {
    let fingerprint = spec.fingerprint.as_deref().and_then(parse_fingerprint);
    let complete = |text: &String| {
        let endpoint: Endpoint = text.parse().ok()?;
        let endpoint = match endpoint.tcp_address() {
            Some((GATEWAY, _)) => endpoint.with_host(&gateway?.to_string()),
            _ => endpoint,
        };
        let endpoint = match endpoint {
            Endpoint::Tls { host, port, fingerprint: own } => {
                Endpoint::Tls { host, port, fingerprint: own.or(fingerprint) }
            }
            other => other,
        };
        allows(spec, &endpoint).then_some(endpoint)
    };
    if spec.endpoints.is_empty() {
        return defaults(spec).iter().filter_map(complete).collect();
    }
    spec.endpoints.iter().filter_map(complete).collect()
}

/// True if a stream may use an endpoint, which a node has found, by the present spec: plaintext is permitted, and a key is
/// that of the spec.
pub fn allows(spec: &HostAgentSpec, endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Vsock { .. } | Endpoint::Unix(_) => true,
        Endpoint::Tcp { .. } => spec.plaintext && spec.fingerprint.is_none(),
        Endpoint::Tls { fingerprint, .. } => {
            let listed = spec.endpoints.iter().filter_map(|text| match text.parse() {
                Ok(Endpoint::Tls { fingerprint, .. }) => fingerprint,
                _ => None,
            });
            let mut pinned = listed.chain(spec.fingerprint.as_deref().and_then(parse_fingerprint));
            fingerprint.is_some_and(|found| pinned.any(|key| key == found))
        }
    }
}

/// vsock, and the gateway by TLS if there is a fingerprint, else in plaintext if that is allowed.
fn defaults(spec: &HostAgentSpec) -> Vec<String> {
    let scheme = match (&spec.fingerprint, spec.plaintext) {
        (Some(_), _) => Some("tls"),
        (None, true) => Some("tcp"),
        (None, false) => None,
    };
    let gateway = scheme.map(|scheme| format!("{scheme}://{GATEWAY}:{HOST_AGENT_PORT}"));
    std::iter::once(format!("vsock://{CID_HOST}:{HOST_AGENT_PORT}")).chain(gateway).collect()
}

/// True if only vsock is tried, because nothing identifies the host-agent at the gateway.
pub fn tries_only_vsock(spec: &HostAgentSpec) -> bool {
    spec.endpoints.is_empty() && spec.fingerprint.is_none() && !spec.plaintext
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINGERPRINT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const OTHER: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn spec(endpoints: &[&str], fingerprint: Option<&str>, plaintext: bool) -> HostAgentSpec {
        HostAgentSpec {
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            fingerprint: fingerprint.map(str::to_owned),
            plaintext,
            ..HostAgentSpec::default()
        }
    }

    fn texts(spec: &HostAgentSpec, gateway: Option<Ipv4Addr>) -> Vec<String> {
        endpoints(spec, gateway).iter().map(ToString::to_string).collect()
    }

    const GATEWAY_ADDRESS: Option<Ipv4Addr> = Some(Ipv4Addr::new(192, 168, 64, 1));

    #[test]
    fn default_endpoint_at_the_gateway_needs_a_fingerprint_or_permission() {
        assert_eq!(texts(&spec(&[], None, false), GATEWAY_ADDRESS), ["vsock://2:15937"]);
        assert!(tries_only_vsock(&spec(&[], None, false)));
        let pinned = format!("tls://192.168.64.1:15937#sha256={FINGERPRINT}");
        for plaintext in [false, true] {
            let spec = spec(&[], Some(FINGERPRINT), plaintext);
            assert_eq!(texts(&spec, GATEWAY_ADDRESS), ["vsock://2:15937", &pinned]);
        }
        let plaintext = spec(&[], None, true);
        assert_eq!(texts(&plaintext, GATEWAY_ADDRESS), ["vsock://2:15937", "tcp://192.168.64.1:15937"]);
    }

    #[test]
    fn endpoint_of_the_spec_is_completed_or_left_out() {
        let gateway = |text: &str, fingerprint| texts(&spec(&[text], fingerprint, false), GATEWAY_ADDRESS);
        let pinned = format!("tls://192.168.64.1:1#sha256={FINGERPRINT}");
        assert_eq!(gateway("tls://gateway:1", Some(FINGERPRINT)), [pinned.as_str()]);
        assert_eq!(gateway(&format!("tls://gateway:1#sha256={FINGERPRINT}"), Some(OTHER)), [pinned]);
        assert_eq!(gateway("tls://gateway:1", None), [""; 0]);
        assert_eq!(gateway("tcp://gateway:1", Some(FINGERPRINT)), [""; 0]);
        assert_eq!(gateway("vsock://host:1", None), ["vsock://2:1"]);
        assert_eq!(gateway("nonsense", None), [""; 0]);
        assert_eq!(texts(&spec(&["tls://gateway:1"], Some(FINGERPRINT), false), None), [""; 0]);
        assert_eq!(texts(&spec(&["tcp://mac:1"], None, true), None), ["tcp://mac:1"]);
    }

    #[test]
    fn spec_whose_endpoints_are_left_out_is_invalid() {
        let cases: [(&[&str], Option<&str>, &str); 5] = [
            (&["tcp://gateway:1"], Some(FINGERPRINT), "has a key"),
            (&["tcp://127.0.0.1:1"], None, "plaintext to true"),
            (&["unix:/a", "tls://gateway:1"], None, "host-agent fingerprint"),
            (&["nonsense"], None, "tls://HOST:PORT"),
            (&[], Some("00"), "64 of 0-9"),
        ];
        for (endpoints, fingerprint, says) in cases {
            let error = validate(&spec(endpoints, fingerprint, false)).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
        validate(&spec(&[], None, false)).expect("vsock only");
        validate(&spec(&["tcp://gateway:1"], None, true)).expect("plaintext by name");
        validate(&spec(&["tls://gateway:1"], Some(FINGERPRINT), false)).expect("pinned");
        validate(&spec(&[&format!("tls://mac:1#sha256={FINGERPRINT}")], None, false)).expect("pinned");
    }

    #[test]
    fn endpoint_of_older_facts_is_used_only_if_the_spec_still_allows_it() {
        let tls = |key: &str| format!("tls://10.0.0.1:1#sha256={key}");
        let pinned = spec(&[], Some(FINGERPRINT), false);
        let listed = spec(&[&tls(OTHER)], Some(FINGERPRINT), false);
        let plaintext = spec(&[], None, true);
        let downgraded = spec(&[], Some(FINGERPRINT), true);
        let cases = [
            (&pinned, tls(FINGERPRINT), true),
            (&pinned, tls(OTHER), false),
            (&listed, tls(OTHER), true),
            (&plaintext, tls(OTHER), false),
            (&pinned, "tls://10.0.0.1:1".to_owned(), false),
            (&pinned, "tcp://10.0.0.1:1".to_owned(), false),
            (&plaintext, "tcp://10.0.0.1:1".to_owned(), true),
            (&downgraded, "tcp://10.0.0.1:1".to_owned(), false),
            (&pinned, "vsock://2:1".to_owned(), true),
            (&pinned, "unix:/a".to_owned(), true),
        ];
        for (spec, endpoint, expected) in cases {
            assert_eq!(
                allows(spec, &endpoint.parse().expect("an endpoint")),
                expected,
                "{spec:?} {endpoint}"
            );
        }
    }
}
