//! The CustomResourceDefinitions as files: `crds/` in the repository is what this prints.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use super::rules::{self, NoSuchPlace};
use super::{DesktopStream, HostAgent};

/// Why they can't be printed.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// A rule has no place.
    #[error(transparent)]
    Rule(#[from] NoSuchPlace),
    /// They are no YAML.
    #[error("can't write YAML: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
}

/// Both definitions, with their rules.
pub fn all() -> Result<Vec<CustomResourceDefinition>, NoSuchPlace> {
    let (mut streams, mut host_agents) = (DesktopStream::crd(), HostAgent::crd());
    rules::write(&mut streams, rules::DESKTOP_STREAM)?;
    rules::write(&mut host_agents, rules::HOST_AGENT)?;
    let mut all = vec![streams, host_agents];
    for version in all.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        if let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            plain(root);
        }
    }
    Ok(all)
}

/// Takes off what Rust's types say and Kubernetes does without: `null` where a field may be absent (the
/// apiserver then drops nulls, and `has()` in rules means what it says), and formats that it doesn't know.
fn plain(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema.format.as_ref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = None;
    }
    schema.properties.iter_mut().flatten().for_each(|(_, property)| plain(property));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        plain(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        plain(values);
    }
}

/// File names and contents.
pub fn files() -> Result<Vec<(String, String)>, CrdError> {
    let mut files = Vec::new();
    for crd in all()? {
        files.push((format!("{}.yaml", crd.spec.names.plural), serde_yaml_ng::to_string(&crd)?));
    }
    Ok(files)
}

/// All as one stream of YAML documents.
pub fn stream() -> Result<String, CrdError> {
    let documents: Vec<String> = files()?.into_iter().map(|(_, text)| format!("---\n{text}")).collect();
    Ok(documents.concat())
}
