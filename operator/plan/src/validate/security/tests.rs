use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::testing::stream;
use crate::validate::validate;

#[derive(Deserialize)]
struct Case {
    #[serde(rename = "case")]
    name: String,
    needs: String,
    spec: Value,
}

fn valid(spec: &Value) -> Validated {
    let object = json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream",
        "metadata": {"name": "desk", "namespace": "team", "uid": "u"}, "spec": spec,
    });
    validate(&serde_json::from_value(object).expect("a stream")).expect("valid")
}

#[test]
fn privileged_spec_is_admitted_only_by_the_permission_that_it_needs() {
    let cases: Vec<Case> =
        serde_yaml_ng::from_str(include_str!("../../../tests/data/privileged-specs.yaml")).expect("YAML");
    assert!(cases.len() >= 25);
    for Case { name: case, needs, spec } in cases {
        let default = Policy { ingress_hosts: vec!["*".to_owned()], ..Policy::default() };
        let refused = default.admit(valid(&spec)).expect_err(&case);
        assert!(refused.to_string().contains("administrator"), "{case}: {refused}");
        assert!(Policy::unlimited().admit(valid(&spec)).is_ok(), "{case}");
        let level = |pod_security| Policy { pod_security, ..Policy::unlimited() };
        match needs.as_str() {
            "card nodes" => {
                assert!(Policy { card_nodes: false, ..Policy::unlimited() }.admit(valid(&spec)).is_err());
            }
            "annotations" => {
                let none = Policy { annotations: Vec::new(), ..Policy::unlimited() };
                assert!(none.admit(valid(&spec)).is_err(), "{case}");
            }
            needs => {
                for standard in PodSecurity::ALL {
                    let needed =
                        PodSecurity::ALL.into_iter().find(|it| it.name() == needs).expect("a standard");
                    assert_eq!(level(standard).admit(valid(&spec)).is_ok(), standard >= needed, "{case}");
                }
            }
        }
    }
}

#[test]
fn default_policy_admits_what_the_operator_fills_in() {
    let simple = stream(&json!({"spec": {"desktop": {"securityContext": {"readOnlyRootFilesystem": true}}}}));
    let hardened = json!({"desktop": {"podTemplate": {"spec": {
        "securityContext": {"runAsUser": 1001, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s"}}],
        "containers": [{"name": "desktop", "image": "a", "ports": [{"containerPort": 1}], "securityContext": {
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}, "allowPrivilegeEscalation": false,
        }}],
    }}}});
    for stream in [validate(&simple).expect("valid"), valid(&hardened)] {
        Policy::default().admit(stream).expect("admitted");
    }
}

#[test]
fn patterns_select_annotations_by_prefix_and_hosts_by_domain() {
    assert!(is_key("cert-manager.io/*", "cert-manager.io/issuer") && is_key("a/b", "a/b"));
    assert!(!is_key("cert-manager.io/*", "nginx.ingress.kubernetes.io/x") && !is_key("a/b", "a/bc"));
    assert!(is_host("*", "any.host") && is_host("*.example.com", "a.b.example.com"));
    for host in ["example.com", "evil-example.com", "example.com.evil"] {
        assert!(!is_host("*.example.com", host), "{host}");
    }
    let spec = json!({"desktop": {"image": "a"}, "viewers": {"ingress": {"host": "a.evil.com"}}});
    let policy = Policy { ingress_hosts: vec!["*.example.com".to_owned()], ..Policy::unlimited() };
    let refused = policy.admit(valid(&spec)).expect_err("another domain").to_string();
    assert!(refused.contains("spec.viewers.ingress.host") && refused.contains("*.example.com"), "{refused}");
}
