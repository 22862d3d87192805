//! Validation rules in CEL, which the apiserver evaluates before it stores an object.
//!
//! Each message names the remedy. `plan::validate` repeats these rules, because Docker mode has no apiserver,
//! and adds the ones that CEL cannot express.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, ValidationRule,
};

/// A validation rule.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Property that the rule is attached to: names from the root, separated by dots; empty for the root.
    pub at: &'static str,
    /// CEL expression; `self` is the property.
    pub rule: &'static str,
    /// Message of a violation.
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
        "the name must have at most 50 of a-z, 0-9 and '-', begin with a letter and not end with '-': it is part of a Service's name",
    ),
    rule("spec", "has(self.desktop) != has(self.attach)", "set exactly one of desktop and attach"),
    rule(
        "spec",
        "has(self.desktop) == has(oldSelf.desktop)",
        "desktop and attach cannot replace each other: delete the stream and create another one",
    ),
    rule(
        "spec",
        "!(self.capture.require == 'ZeroCopy' && self.encode.placement == 'Sidecar')",
        "capture.require ZeroCopy encodes on the host: set encode.placement to Auto or HostAgent",
    ),
    rule(
        "spec",
        "!(self.capture.require == 'ZeroCopy' && self.gpu.count == 0)",
        "capture.require ZeroCopy needs a GPU: set gpu.count to 1",
    ),
    rule(
        "spec",
        "!(self.encode.placement == 'Sidecar' && (has(self.hostAgent.name) || has(self.hostAgent.selector)))",
        "encode.placement Sidecar uses no host-agent: remove hostAgent.name and hostAgent.selector",
    ),
    rule(
        "spec.desktop",
        "has(self.image) != has(self.podTemplate)",
        "set exactly one of image and podTemplate",
    ),
    rule(
        "spec.desktop",
        "!has(self.podTemplate) || !(has(self.command) || has(self.args) || has(self.env) || has(self.resources) \
         || has(self.securityContext) || has(self.volumes) || has(self.volumeMounts) || has(self.nodeSelector) \
         || has(self.tolerations) || has(self.imagePullPolicy) || has(self.imagePullSecrets))",
        "with podTemplate, set the container's fields in its container named desktop",
    ),
    rule(
        "spec.desktop",
        "!has(self.env) || self.env.all(e, e.name != 'XDG_RUNTIME_DIR')",
        "XDG_RUNTIME_DIR is /run/desktop, shared with the sidecar: remove it from env",
    ),
    rule(
        "spec.desktop",
        "!has(self.volumes) || self.volumes.all(v, !v.name.startsWith('desktopstream-'))",
        "volume names that start with desktopstream- are reserved: choose another name",
    ),
    rule(
        "spec.desktop.home",
        "(has(self.storageClassName) == has(oldSelf.storageClassName)) && \
         (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
        "the storage class of a volume cannot change: delete the stream and its claim, or create another stream",
    ),
    rule(
        "spec.capture",
        "has(self.width) == has(self.height)",
        "set both width and height, or neither to use the size of the desktop's output",
    ),
    rule(
        "spec.capture",
        "!has(self.width) || self.width % 2 == 0",
        "width must be even, because chroma is subsampled in 2x2 blocks",
    ),
    rule(
        "spec.capture",
        "!has(self.height) || self.height % 2 == 0",
        "height must be even, because chroma is subsampled in 2x2 blocks",
    ),
    rule(
        "spec.capture",
        "!(self.require == 'ZeroCopy' && self.source == 'TestPattern')",
        "the test pattern is drawn on the CPU: set require to Any, or source to Auto",
    ),
    rule(
        "spec.gpu",
        "!(self.count == 0 && self.deviceNodes == 'RenderAndCard')",
        "count 0 allocates no device: set deviceNodes to RenderOnly, or count to 1",
    ),
    rule("spec.hostAgent", "!(has(self.name) && has(self.selector))", "set at most one of name and selector"),
    rule(
        "spec.viewers.auth",
        "!(self.type == 'None' && has(self.secretName))",
        "type None uses no token: remove secretName, or set type to Token",
    ),
];

/// Rules of `HostAgent`.
pub const HOST_AGENT: &[Rule] = &[
    rule(
        "",
        "self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "the name must have at most 63 of a-z, 0-9 and '-': it is part of a node label",
    ),
    rule(
        "spec",
        "!has(self.endpoints) || self.endpoints.all(e, self.endpoints.exists_one(f, f == e))",
        "list each endpoint once",
    ),
    rule(
        "spec",
        "!has(self.endpoints) || (has(self.plaintext) && self.plaintext) \
         || self.endpoints.all(e, !e.startsWith('tcp://'))",
        "tcp:// is plaintext: use tls:// and set fingerprint to the output of `host-agent fingerprint`, or set plaintext to true",
    ),
    rule(
        "spec",
        "!has(self.endpoints) || self.endpoints.all(e, !e.startsWith('tcp://')) \
         || (!has(self.fingerprint) && self.endpoints.all(e, !e.startsWith('tls://')))",
        "tcp:// is plaintext, and the host-agent has a key: remove it, or the fingerprint and tls:// endpoints",
    ),
    rule(
        "spec",
        "!has(self.endpoints) || has(self.fingerprint) \
         || self.endpoints.all(e, !e.startsWith('tls://') || e.contains('#'))",
        "a tls:// endpoint needs the host-agent's identity: set fingerprint to the output of `host-agent fingerprint`",
    ),
];

/// Error of a rule whose property is not in the schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the schema has no property {0:?}: correct the rule's `at`")]
pub struct NoSuchProperty(String);

/// Adds `rules` to the schema of every version of `crd`.
///
/// # Errors
/// If a rule refers to a property that the schema does not have.
pub fn write(crd: &mut CustomResourceDefinition, rules: &[Rule]) -> Result<(), NoSuchProperty> {
    for version in &mut crd.spec.versions {
        let root = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let root = root.ok_or_else(|| NoSuchProperty("openAPIV3Schema".to_owned()))?;
        for Rule { at, rule, message } in rules {
            let place = find(root, at).ok_or_else(|| NoSuchProperty((*at).to_owned()))?;
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
