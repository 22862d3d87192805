//! What a schema can't say by types: CEL rules, evaluated by the apiserver before anything is stored.
//!
//! Each says in its message what to write instead. `plan::validate` says the rest; together they are the
//! law, and the webhook and the controller apply the same.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, ValidationRule,
};

/// A rule: where it stands in the schema, CEL, and what to write instead.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Properties from the root, dotted; empty for the root.
    pub at: &'static str,
    /// CEL; `self` is what stands there.
    pub rule: &'static str,
    /// What the user reads.
    pub message: &'static str,
}

const fn rule(at: &'static str, rule: &'static str, message: &'static str) -> Rule {
    Rule { at, rule, message }
}

/// Rules of `DesktopStream`.
pub const DESKTOP_STREAM: &[Rule] = &[
    rule(
        "",
        "self.metadata.name.size() <= 50 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "the name must have at most 50 of a-z, 0-9 and '-', begin with a letter and not end with '-': it names a Service, too",
    ),
    rule(
        "spec",
        "has(self.desktop) != has(self.attach)",
        "give either desktop (we run it) or attach (it runs already and gets the sidecar), and not both",
    ),
    rule(
        "spec",
        "has(self.desktop) == has(oldSelf.desktop)",
        "a stream can't change between desktop and attach; delete it and make another",
    ),
    rule(
        "spec",
        "!(self.capture.require == 'ZeroCopy' && self.encode.where == 'Sidecar')",
        "capture.require ZeroCopy means that the host encodes: set encode.where to Auto or HostAgent",
    ),
    rule(
        "spec",
        "!(self.capture.require == 'ZeroCopy' && self.gpu.count == 0)",
        "capture.require ZeroCopy needs a GPU: set gpu.count to 1",
    ),
    rule(
        "spec",
        "!(self.encode.where == 'Sidecar' && (has(self.hostAgent.name) || has(self.hostAgent.selector)))",
        "encode.where Sidecar uses no host-agent: remove hostAgent.name and hostAgent.selector",
    ),
    rule(
        "spec.desktop",
        "has(self.image) != has(self.podTemplate)",
        "give either image or podTemplate, and not both",
    ),
    rule(
        "spec.desktop",
        "!has(self.podTemplate) || !(has(self.command) || has(self.args) || has(self.env) || has(self.resources) \
         || has(self.securityContext) || has(self.volumes) || has(self.volumeMounts) || has(self.nodeSelector) \
         || has(self.tolerations) || has(self.imagePullPolicy) || has(self.imagePullSecrets))",
        "with podTemplate, write the container's fields in its container named desktop",
    ),
    rule(
        "spec.desktop",
        "!has(self.env) || self.env.all(e, e.name != 'XDG_RUNTIME_DIR')",
        "XDG_RUNTIME_DIR is /run/desktop, shared with the sidecar: remove it from env",
    ),
    rule(
        "spec.desktop",
        "!has(self.volumes) || self.volumes.all(v, !v.name.startsWith('desktopstream-'))",
        "volumes named desktopstream-… are ours: give it another name",
    ),
    rule(
        "spec.desktop.home",
        "(has(self.storageClassName) == has(oldSelf.storageClassName)) && \
         (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
        "a volume's storage class can't change; delete the stream and its claim, or make another",
    ),
    rule(
        "spec.capture",
        "has(self.width) == has(self.height)",
        "give both width and height, or neither to take the desktop's own size",
    ),
    rule(
        "spec.capture",
        "!has(self.width) || self.width % 2 == 0",
        "width must be even: video is in 2x2 blocks",
    ),
    rule(
        "spec.capture",
        "!has(self.height) || self.height % 2 == 0",
        "height must be even: video is in 2x2 blocks",
    ),
    rule(
        "spec.capture",
        "!(self.require == 'ZeroCopy' && self.source == 'TestPattern')",
        "the test pattern is drawn on the CPU: set require to Any, or source to Auto",
    ),
    rule(
        "spec.gpu",
        "!(self.count == 0 && self.nodes == 'RenderAndCard')",
        "count 0 gives no device: set nodes to RenderOnly, or count to 1",
    ),
    rule(
        "spec.hostAgent",
        "!(has(self.name) && has(self.selector))",
        "give either name or selector, and not both",
    ),
    rule(
        "spec.viewers.auth",
        "!(self.type == 'None' && has(self.secretName))",
        "type None asks for no token: remove secretName, or set type to Token",
    ),
];

/// Rules of `HostAgent`.
pub const HOST_AGENT: &[Rule] = &[
    rule(
        "",
        "self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "the name must have at most 63 of a-z, 0-9 and '-': it becomes a node label",
    ),
    rule(
        "spec",
        "!has(self.endpoints) || self.endpoints.all(e, self.endpoints.exists_one(f, f == e))",
        "each endpoint only once",
    ),
];

/// A rule's place is not in the schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no property {0:?} in the schema: correct the rule's place")]
pub struct NoSuchPlace(String);

/// Writes `rules` into `crd`.
pub fn write(crd: &mut CustomResourceDefinition, rules: &[Rule]) -> Result<(), NoSuchPlace> {
    for version in &mut crd.spec.versions {
        let root = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let root = root.ok_or_else(|| NoSuchPlace("openAPIV3Schema".to_owned()))?;
        for Rule { at, rule, message } in rules {
            let place = find(root, at).ok_or_else(|| NoSuchPlace((*at).to_owned()))?;
            place.x_kubernetes_validations.get_or_insert_default().push(ValidationRule {
                rule: (*rule).to_owned(),
                message: Some((*message).to_owned()),
                ..ValidationRule::default()
            });
        }
    }
    Ok(())
}

fn find<'s>(root: &'s mut JSONSchemaProps, at: &str) -> Option<&'s mut JSONSchemaProps> {
    at.split('.')
        .filter(|part| !part.is_empty())
        .try_fold(root, |at, part| at.properties.as_mut()?.get_mut(part))
}
