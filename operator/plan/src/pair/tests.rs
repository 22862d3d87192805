#![expect(clippy::needless_pass_by_value, reason = "json! makes values")]

use serde_json::{Value, json};

use super::*;
use crate::testing::{node, validated};

fn candidate(name: &str, load: u32, capacity: u32) -> Candidate {
    Candidate { name: name.to_owned(), load, capacity, ..Candidate::default() }
}

fn wants(spec: Value) -> Validated {
    validated(&json!({"spec": spec}))
}

fn chosen(pairing: &Pairing) -> (&str, Option<&str>) {
    match pairing {
        Pairing::Paired { host_agent, endpoint } => (host_agent, endpoint.as_deref()),
        other => panic!("{other:?}"),
    }
}

fn why(pairing: &Pairing) -> (Reason, &str) {
    match pairing {
        Pairing::None { reason, text } => (*reason, text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_least_loaded_that_is_reached_and_has_room() {
    let nodes = [
        node("n1", 105, &[("a", "tcp://10.0.0.1:1"), ("b", "vsock://2:1")]),
        node("n2", 105, &[("c", "vsock://2:1")]),
    ];
    let all = [candidate("a", 3, 4), candidate("b", 5, 10), candidate("c", 0, 10)];
    let stream = wants(json!({}));
    assert_eq!(chosen(&pair(&stream, &all, &nodes, None, None)), ("c", None), "anywhere");
    assert_eq!(chosen(&pair(&stream, &all, &nodes, Some("n1"), None)), ("b", Some("vsock://2:1")), "there");
    assert_eq!(chosen(&pair(&stream, &all, &nodes, Some("n1"), Some("a"))).0, "a", "the one that it has");
    let full = [candidate("a", 4, 4), candidate("b", 9, 10)];
    assert_eq!(chosen(&pair(&stream, &full, &nodes, Some("n1"), Some("a"))).0, "b", "unless that is full");
}

#[test]
fn names_selectors_and_transports_are_heeded() {
    let nodes = [node("n1", 105, &[("a", "tcp://10.0.0.1:1"), ("b", "vsock://2:1")])];
    let mut all = [candidate("a", 0, 4), candidate("b", 1, 4)];
    all[1].labels.insert("room".to_owned(), "lab".to_owned());
    let pick = |spec: Value| pair(&wants(json!({"hostAgent": spec})), &all, &nodes, Some("n1"), None);
    assert_eq!(chosen(&pick(json!({"name": "b"}))).0, "b");
    assert_eq!(chosen(&pick(json!({"selector": {"matchLabels": {"room": "lab"}}}))).0, "b");
    assert_eq!(chosen(&pick(json!({"transport": "Vsock"}))).0, "b");
    assert_eq!(why(&pick(json!({"transport": "Unix"}))).0, reasons::HOST_AGENT_UNREACHABLE);
    assert_eq!(why(&pick(json!({"name": "z"}))), (reasons::NO_HOST_AGENT, "there is no HostAgent \"z\""));
    all[1].node_selector.insert("zone".to_owned(), "x".to_owned());
    let pick = pair(&wants(json!({"hostAgent": {"name": "b"}})), &all, &nodes, Some("n1"), None);
    assert_eq!(why(&pick).0, reasons::HOST_AGENT_UNREACHABLE, "nodes that may use it");
}

#[test]
fn why_there_is_none() {
    let stream = wants(json!({}));
    let deaf = [node("n1", 105, &[])];
    let all = [candidate("a", 0, 1)];
    assert_eq!(why(&pair(&stream, &[], &deaf, None, None)).0, reasons::NO_HOST_AGENT);
    let unreachable = pair(&stream, &all, &deaf, None, None);
    assert_eq!(why(&unreachable), (reasons::HOST_AGENT_UNREACHABLE, "no node that has the device reaches a"));
    let gone = pair(&stream, &all, &deaf, Some("n1"), Some("a"));
    assert_eq!(why(&gone), (reasons::HOST_AGENT_GONE, "node n1 does not reach a"));
    let nodes = [node("n1", 105, &[("a", "vsock://2:1")])];
    let full = pair(&stream, &[candidate("a", 1, 1)], &nodes, None, None);
    assert_eq!(why(&full), (reasons::HOST_AGENT_FULL, "a has 1 of 1 streams"));
    let own = wants(json!({"encode": {"where": "Sidecar"}}));
    assert_eq!(pair(&own, &all, &nodes, None, None), Pairing::NotNeeded);
}

#[test]
fn a_node_without_the_device_or_cordoned_is_no_place() {
    let all = [candidate("a", 0, 9)];
    let mut nodes = [node("n1", 105, &[("a", "vsock://2:1")])];
    let stream = wants(json!({"gpu": {"class": "Amd"}}));
    assert_eq!(why(&pair(&stream, &all, &nodes, None, None)).0, reasons::HOST_AGENT_UNREACHABLE);
    nodes[0].unschedulable = true;
    assert_eq!(why(&pair(&wants(json!({})), &all, &nodes, None, None)).0, reasons::HOST_AGENT_UNREACHABLE);
}
