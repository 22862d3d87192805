//! Service, Ingress and NetworkPolicy of a stream.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend,
    IngressSpec, IngressTLS, NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec,
    ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use crate::validate::Validated;
use operator_api::{ServiceType, names};

/// Name of the viewers' port.
const PORT: &str = "viewers";

pub(super) fn service(stream: &Validated) -> Service {
    let wanted = &stream.spec.viewers.service;
    let mut metadata = metadata(stream, stream.names.service());
    if !wanted.annotations.is_empty() {
        metadata.annotations = Some(wanted.annotations.clone());
    }
    let kind = match wanted.kind {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            selector: Some([(names::STREAM.to_owned(), stream.names.stream.clone())].into()),
            ports: Some(vec![ServicePort {
                name: Some(PORT.to_owned()),
                port: wanted.port.into(),
                target_port: Some(IntOrString::Int(names::VIEWER_PORT.into())),
                protocol: Some("TCP".to_owned()),
                app_protocol: Some("http".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

pub(super) fn ingress(stream: &Validated) -> Option<Ingress> {
    let wanted = stream.spec.viewers.ingress.as_ref()?;
    let mut metadata = metadata(stream, stream.names.ingress());
    if !wanted.annotations.is_empty() {
        metadata.annotations = Some(wanted.annotations.clone());
    }
    let backend = IngressBackend {
        service: Some(IngressServiceBackend {
            name: stream.names.service(),
            port: Some(ServiceBackendPort { name: Some(PORT.to_owned()), ..ServiceBackendPort::default() }),
        }),
        ..IngressBackend::default()
    };
    let path = HTTPIngressPath { path: Some("/".to_owned()), path_type: "Prefix".to_owned(), backend };
    let tls = wanted.tls_secret_name.as_ref().map(|secret| {
        vec![IngressTLS { hosts: Some(vec![wanted.host.clone()]), secret_name: Some(secret.clone()) }]
    });
    Some(Ingress {
        metadata,
        spec: Some(IngressSpec {
            ingress_class_name: wanted.class_name.clone(),
            rules: Some(vec![IngressRule {
                host: Some(wanted.host.clone()),
                http: Some(HTTPIngressRuleValue { paths: vec![path] }),
            }]),
            tls,
            ..IngressSpec::default()
        }),
        ..Ingress::default()
    })
}

/// `None` with `attach`: the ports of an existing workload are not known.
pub(super) fn network_policy(stream: &Validated) -> Option<NetworkPolicy> {
    stream.spec.desktop.as_ref()?;
    let port = |port: u16| NetworkPolicyPort {
        port: Some(IntOrString::Int(port.into())),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    };
    Some(NetworkPolicy {
        metadata: metadata(stream, stream.names.network_policy()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some([(names::STREAM.to_owned(), stream.names.stream.clone())].into()),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                ports: Some(vec![port(names::VIEWER_PORT), port(names::SIDECAR_ADMIN_PORT)]),
                ..NetworkPolicyIngressRule::default()
            }]),
            ..NetworkPolicySpec::default()
        }),
    })
}

pub(super) fn viewer_url(stream: &Validated) -> String {
    match &stream.spec.viewers.ingress {
        Some(ingress) if ingress.tls_secret_name.is_some() => format!("https://{}/", ingress.host),
        Some(ingress) => format!("http://{}/", ingress.host),
        None => {
            let port = match stream.spec.viewers.service.port {
                80 => String::new(),
                port => format!(":{port}"),
            };
            format!("http://{}.{}.svc{port}/", stream.names.service(), stream.namespace)
        }
    }
}
