//! The CustomResourceDefinitions. The files in `crds/` and in the chart are generated from here.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use super::rules::{self, NoSuchProperty};
use super::{DesktopStream, HostAgent, conditions};

/// Error while the definitions are generated.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// A validation rule refers to a property that the schema does not have.
    #[error(transparent)]
    Rule(#[from] NoSuchProperty),
    /// A definition cannot be written as YAML.
    #[error("cannot write the CustomResourceDefinition as YAML: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
}

/// Both definitions, with their validation rules.
///
/// # Errors
/// If a rule refers to a property that the schema does not have.
pub fn all() -> Result<Vec<CustomResourceDefinition>, NoSuchProperty> {
    let (mut streams, mut host_agents) = (DesktopStream::crd(), HostAgent::crd());
    rules::write(&mut streams, rules::DESKTOP_STREAM)?;
    set_initial_status(&mut streams);
    rules::write(&mut host_agents, rules::HOST_AGENT)?;
    let mut all = vec![streams, host_agents];
    for version in all.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        if let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            normalize(root);
        }
    }
    Ok(all)
}

/// Gives streams a status before the operator writes one, as Gateway API does. Without it, tools that wait for readiness
/// (kstatus, `helm --wait`) take a stream that has not been reconciled for ready. The generation -1 is never that of a spec.
fn set_initial_status(crd: &mut CustomResourceDefinition) {
    let initial = serde_json::json!({
        "observedGeneration": -1,
        "conditions": [{
            "type": conditions::READY,
            "status": "Unknown",
            "reason": conditions::reasons::WAITING.name,
            "message": "waiting for the operator",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }],
    });
    for version in &mut crd.spec.versions {
        let root = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let status = root.and_then(|root| root.properties.as_mut()?.get_mut("status"));
        if let Some(status) = status {
            status.default = Some(JSON(initial.clone()));
        }
    }
}

/// Rewrites a schema of Rust types to the conventions of Kubernetes: no `nullable` (the apiserver then drops nulls, and
/// `has()` in rules works), descriptions in one line, `int32` and `int64` in place of Rust's integer
/// formats, a list type on every list.
fn normalize(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    // Line breaks of doc comments; kubectl wraps lines by itself.
    schema.description = schema.description.take().map(|text| text.replace('\n', " "));
    let (format, max) = match schema.format.as_deref() {
        Some("uint8" | "uint16" | "uint32") => (Some("int32"), f64::from(i32::MAX)),
        Some("uint64") => (Some("int64"), i64::MAX as f64),
        _ => (None, 0.0),
    };
    if let Some(format) = format {
        schema.format = Some(format.to_owned());
        schema.maximum = schema.maximum.filter(|maximum| *maximum <= max);
    }
    if schema.type_.as_deref() == Some("array") {
        schema.x_kubernetes_list_type.get_or_insert_with(|| "atomic".to_owned());
    }
    schema.properties.iter_mut().flatten().for_each(|(_, property)| normalize(property));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        normalize(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        normalize(values);
    }
}

/// File names and contents.
///
/// # Errors
/// If a definition cannot be generated or written as YAML.
pub fn files() -> Result<Vec<(String, String)>, CrdError> {
    let mut files = Vec::new();
    for crd in all()? {
        let text = quote_booleans(&serde_yaml_ng::to_string(&crd)?);
        files.push((format!("{}.yaml", crd.spec.names.plural), text));
    }
    Ok(files)
}

/// Quotes strings that are booleans in YAML 1.1 (<https://yaml.org/type/bool.html>), which kubectl and helm read, but not in
/// YAML 1.2, which is written: the value `Off` of an enum would become `false`.
fn quote_booleans(yaml: &str) -> String {
    let quoted = |line: &str| {
        let at = line
            .rfind(": ")
            .map(|at| at + 2)
            .or_else(|| line.trim_start().strip_prefix("- ").map(|it| line.len() - it.len()));
        match at.map(|at| line.split_at(at)) {
            Some((key, word)) if is_boolean_of_yaml_1_1(word) => format!("{key}'{word}'\n"),
            _ => format!("{line}\n"),
        }
    };
    yaml.lines().map(quoted).collect()
}

/// True for a plain scalar that is a boolean in YAML 1.1 only.
fn is_boolean_of_yaml_1_1(word: &str) -> bool {
    ["y", "n", "yes", "no", "on", "off"].iter().any(|boolean| boolean.eq_ignore_ascii_case(word))
}

/// All definitions as one stream of YAML documents.
///
/// # Errors
/// If a definition cannot be generated or written as YAML.
pub fn stream() -> Result<String, CrdError> {
    let documents: Vec<String> = files()?.into_iter().map(|(_, text)| format!("---\n{text}")).collect();
    Ok(documents.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(schema: &JSONSchemaProps, at: &str, check: &mut impl FnMut(&JSONSchemaProps, &str)) {
        check(schema, at);
        for (name, property) in schema.properties.iter().flatten() {
            visit(property, &format!("{at}.{name}"), check);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            visit(items, &format!("{at}[]"), check);
        }
    }

    fn each(check: &mut impl FnMut(&JSONSchemaProps, &str)) {
        for crd in all().expect("generates") {
            for version in &crd.spec.versions {
                let schema = version.schema.as_ref().and_then(|it| it.open_api_v3_schema.as_ref());
                visit(schema.expect("a schema"), &crd.spec.names.kind, check);
            }
        }
    }

    #[test]
    fn schema_lists_have_list_types_and_integers_have_kubernetes_formats() {
        let (mut lists, mut integers) = (0, 0);
        each(&mut |schema, at| {
            if schema.type_.as_deref() == Some("array") {
                lists += 1;
                let kind = schema.x_kubernetes_list_type.as_deref().expect(at);
                assert_eq!(kind == "map", schema.x_kubernetes_list_map_keys.is_some(), "{at}");
            }
            if schema.type_.as_deref() == Some("integer") {
                integers += 1;
                assert!(matches!(schema.format.as_deref(), Some("int32" | "int64")), "{at}");
            }
        });
        assert!(lists > 10 && integers > 10, "{lists} lists, {integers} integers");
    }

    #[test]
    fn status_has_open_strings_and_an_initial_ready_condition() {
        each(&mut |schema, at| {
            if at.contains(".status") {
                assert!(schema.enum_.is_none() || at.ends_with("conditions[].status"), "closed enum at {at}");
            }
            if at == "DesktopStream.status" {
                let initial = schema.default.clone().expect("a default").0;
                assert_eq!(initial["observedGeneration"], -1);
                assert_eq!(
                    (&initial["conditions"][0]["type"], &initial["conditions"][0]["status"]),
                    (&"Ready".into(), &"Unknown".into())
                );
            }
        });
    }

    #[test]
    fn schema_fields_of_this_api_have_descriptions() {
        each(&mut |schema, at| {
            let below_podspec = schema.x_kubernetes_preserve_unknown_fields == Some(true)
                || ["[]", "podTemplate.", ".env", ".volumes", ".volumeMounts", ".imagePullSecrets"]
                    .iter()
                    .any(|part| at.contains(part));
            assert!(below_podspec || schema.description.is_some() || at.ends_with("metadata"), "{at}");
        });
    }

    #[test]
    fn files_have_no_string_that_yaml_1_1_reads_as_a_boolean() {
        let mut words = 0;
        for (crd, (name, text)) in all().expect("generates").iter().zip(files().expect("writes")) {
            for word in text.lines().filter_map(|line| line.split_whitespace().next_back()) {
                assert!(!is_boolean_of_yaml_1_1(word), "{name}: {word}");
                words += usize::from(is_boolean_of_yaml_1_1(word.trim_matches('\'')));
            }
            let read: CustomResourceDefinition = serde_yaml_ng::from_str(&text).expect("YAML");
            assert_eq!(read, *crd, "quotes change nothing else");
        }
        assert!(words > 0, "an enum has the value Off");
    }

    #[test]
    fn category_is_not_a_name_of_a_kind() {
        // kubectl resolves a word as a category first: `kubectl get desktopstream x` would list every kind of it.
        for crd in all().expect("generates") {
            let names = crd.spec.names;
            let own: Vec<String> = [Some(names.plural), names.singular]
                .into_iter()
                .flatten()
                .chain(names.short_names.unwrap_or_default())
                .collect();
            assert!(names.categories.unwrap_or_default().iter().all(|category| !own.contains(category)));
        }
    }
}
