#![expect(clippy::needless_pass_by_value, reason = "json! makes values")]

use serde_json::{Value, json};

use super::*;
use crate::testing::{node, validated};

fn candidate(name: &str, load: u32, capacity: u32) -> Candidate {
    let spec = HostAgentSpec { capacity, plaintext: true, ..HostAgentSpec::default() };
    Candidate { name: name.to_owned(), load, spec, ..Candidate::default() }
}

fn stream_of(spec: Value) -> Validated {
    validated(&json!({"spec": spec}))
}

fn chosen(pairing: &Pairing) -> (&str, Option<String>) {
    match pairing {
        Pairing::Paired { host_agent, endpoint } => (host_agent, endpoint.as_ref().map(ToString::to_string)),
        other => panic!("{other:?}"),
    }
}

fn reason(pairing: &Pairing) -> (Reason, &str) {
    match pairing {
        Pairing::None { reason, text } => (*reason, text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pair_chooses_the_least_loaded_reachable_host_agent_with_capacity() {
    let nodes = [
        node("n1", 105, &[("a", "tcp://10.0.0.1:1"), ("b", "vsock://2:1")]),
        node("n2", 105, &[("c", "vsock://2:1")]),
    ];
    let all = [candidate("a", 3, 4), candidate("b", 5, 10), candidate("c", 0, 10)];
    let stream = stream_of(json!({}));
    assert_eq!(chosen(&pair(&stream, &all, &nodes, None, None)), ("c", None), "without a node");
    assert_eq!(
        chosen(&pair(&stream, &all, &nodes, Some("n1"), None)),
        ("b", Some("vsock://2:1".to_owned())),
        "on n1"
    );
    assert_eq!(chosen(&pair(&stream, &all, &nodes, Some("n1"), Some("a"))).0, "a", "the current one");
    let full = [candidate("a", 4, 4), candidate("b", 9, 10)];
    assert_eq!(chosen(&pair(&stream, &full, &nodes, Some("n1"), Some("a"))).0, "b", "unless it is full");
}

#[test]
fn endpoint_of_the_facts_that_the_spec_no_longer_allows_is_not_paired() {
    let key = |digit: &str| digit.repeat(64);
    let found = |endpoint: &str, spec: HostAgentSpec| {
        let all = [Candidate { spec: HostAgentSpec { capacity: 1, ..spec }, ..candidate("a", 0, 1) }];
        let nodes = [node("n1", 105, &[("a", endpoint)])];
        pair(&stream_of(json!({})), &all, &nodes, Some("n1"), Some("a"))
    };
    let pinned = HostAgentSpec { fingerprint: Some(key("a")), ..HostAgentSpec::default() };
    let [current, former] = ["a", "b"].map(|digit| format!("tls://10.0.0.1:1#sha256={}", key(digit)));
    assert_eq!(chosen(&found(&current, pinned.clone())), ("a", Some(current.clone())));
    for (endpoint, spec) in [
        (former.as_str(), pinned.clone()),
        ("tcp://10.0.0.1:1", pinned),
        ("tcp://10.0.0.1:1", HostAgentSpec::default()),
    ] {
        assert_eq!(reason(&found(endpoint, spec)).0, reasons::HOST_AGENT_GONE, "{endpoint}");
    }
}

#[test]
fn pair_respects_name_selector_transport_and_node_selector() {
    let nodes = [node("n1", 105, &[("a", "tcp://10.0.0.1:1"), ("b", "vsock://2:1")])];
    let mut all = [candidate("a", 0, 4), candidate("b", 1, 4)];
    all[1].labels.insert("room".to_owned(), "lab".to_owned());
    let pick = |spec: Value| pair(&stream_of(json!({"hostAgent": spec})), &all, &nodes, Some("n1"), None);
    assert_eq!(chosen(&pick(json!({"name": "b"}))).0, "b");
    assert_eq!(chosen(&pick(json!({"selector": {"matchLabels": {"room": "lab"}}}))).0, "b");
    assert_eq!(chosen(&pick(json!({"transport": "Vsock"}))).0, "b");
    assert_eq!(reason(&pick(json!({"transport": "Unix"}))).0, reasons::HOST_AGENT_UNREACHABLE);
    assert_eq!(
        reason(&pick(json!({"name": "z"}))),
        (reasons::NO_HOST_AGENT, "HostAgent \"z\" does not exist")
    );
    all[1].spec.node_selector.insert("zone".to_owned(), "x".to_owned());
    let pick = pair(&stream_of(json!({"hostAgent": {"name": "b"}})), &all, &nodes, Some("n1"), None);
    assert_eq!(reason(&pick).0, reasons::HOST_AGENT_UNREACHABLE, "nodes that may not use it");
}

#[test]
fn pair_without_a_choice_gives_the_reason() {
    let stream = stream_of(json!({}));
    let isolated = [node("n1", 105, &[])];
    let all = [candidate("a", 0, 1)];
    assert_eq!(reason(&pair(&stream, &[], &isolated, None, None)).0, reasons::NO_HOST_AGENT);
    let unreachable = pair(&stream, &all, &isolated, None, None);
    assert_eq!(reason(&unreachable), (reasons::HOST_AGENT_UNREACHABLE, "no node with the device reaches a"));
    let gone = pair(&stream, &all, &isolated, Some("n1"), Some("a"));
    assert_eq!(reason(&gone), (reasons::HOST_AGENT_GONE, "node n1 does not reach a"));
    let nodes = [node("n1", 105, &[("a", "vsock://2:1")])];
    let full = pair(&stream, &[candidate("a", 1, 1)], &nodes, None, None);
    assert_eq!(reason(&full), (reasons::HOST_AGENT_FULL, "a has 1 of 1 streams"));
    let own = stream_of(json!({"encode": {"placement": "Sidecar"}}));
    assert_eq!(pair(&own, &all, &nodes, None, None), Pairing::NotNeeded);
}

#[test]
fn pair_on_an_unknown_node_keeps_the_current_host_agent() {
    let (stream, all) = (stream_of(json!({})), [candidate("a", 0, 1)]);
    for nodes in [vec![], vec![node("n2", 105, &[("b", "vsock://2:1")])]] {
        let pairing = pair(&stream, &all, &nodes, Some("n1"), Some("a"));
        let unknown = Pairing::Unknown { host_agent: Some("a".to_owned()), node: "n1".to_owned() };
        assert_eq!(pairing, unknown, "{nodes:?}");
        assert_eq!(pairing.host_agent(), Some("a"), "it counts as its load");
    }
}

#[test]
fn pair_ignores_nodes_without_the_device_and_cordoned_nodes() {
    let all = [candidate("a", 0, 9)];
    let mut nodes = [node("n1", 105, &[("a", "vsock://2:1")])];
    let stream = stream_of(json!({"gpu": {"class": "Amd"}}));
    assert_eq!(reason(&pair(&stream, &all, &nodes, None, None)).0, reasons::HOST_AGENT_UNREACHABLE);
    nodes[0].unschedulable = true;
    assert_eq!(
        reason(&pair(&stream_of(json!({})), &all, &nodes, None, None)).0,
        reasons::HOST_AGENT_UNREACHABLE
    );
}
