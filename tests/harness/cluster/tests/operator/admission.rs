//! Rules of the API: schema, CEL and webhook, with the real apiserver.

use anyhow::{Context as _, Result, ensure};
use cluster::product::{Installed, samples, spec_without_gpu, stream};
use serde_json::{Value, json};

/// The corpus of the operator's unit tests.
pub fn invalid_specs_are_refused_by_the_declared_rule(bed: &Installed) -> Result<()> {
    let file = lab::repository().join("operator/plan/tests/data/bad-specs.yaml");
    let all: Vec<Value> = serde_yaml_ng::from_str(&std::fs::read_to_string(file)?)?;
    ensure!(all.len() >= 25, "only {} specs", all.len());
    let mut wrong = Vec::new();
    for case in &all {
        if let Err(error) = is_refused(bed, case) {
            wrong.push(format!("{}: {error:#}", case["case"]));
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    Ok(())
}

fn is_refused(bed: &Installed, case: &Value) -> Result<()> {
    let part = case["says"].as_str().context("the case has no message")?;
    let name = case["name"].as_str().unwrap_or("bad-spec");
    let is_update = !case["old"].is_null();
    if is_update {
        let mut old = case["old"].clone();
        old["operatingMode"] = "Suspended".into();
        bed.apply_stream(name, &old)?;
    }
    let mut object = stream(name, &case["spec"]);
    let (accepted, answer) = loop {
        if is_update {
            let old = bed.api.get("default", "desktopstream", name)?;
            object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        }
        let (accepted, answer) = bed.api.put(if is_update { "PUT" } else { "POST" }, &object)?;
        // The operator may have written the status since the object was read.
        if answer["reason"] != "Conflict" {
            break (accepted, answer);
        }
    };
    if is_update || accepted {
        bed.cluster.kubectl(&["delete", "desktopstream", name])?;
    }
    let message = answer["message"].as_str().unwrap_or_default();
    ensure!(!accepted && message.contains(part), "expected {part:?}, got {message}");
    let by_webhook = message.contains("admission webhook");
    ensure!(by_webhook == (case["by"] == "webhook"), "not refused by {}: {message}", case["by"]);
    println!("         {}: {message}", case["case"]);
    Ok(())
}

fn with_samples(bed: &Installed, check: impl FnOnce() -> Result<()>) -> Result<()> {
    let folder = lab::repository().join("docs/samples").display().to_string();
    bed.cluster.kubectl(&["apply", "-f", &folder])?;
    check()?;
    bed.cluster.kubectl(&["delete", "-f", &folder])?;
    Ok(())
}

pub fn samples_are_accepted_and_reach_their_conditions(bed: &Installed) -> Result<()> {
    with_samples(bed, || {
        for sample in samples::ALL {
            if let Some((condition, reason)) = sample.cluster {
                bed.await_reason(sample.stream, condition, reason).context(sample.stream)?;
            }
        }
        Ok(())
    })
}

pub fn defaults_are_stored_in_the_object(bed: &Installed) -> Result<()> {
    bed.apply_stream("defaults", &spec_without_gpu())?;
    let spec = bed.get(&["desktopstream", "defaults"])?["spec"].clone();
    ensure!(spec["viewers"]["service"]["port"] == 80, "{spec}");
    ensure!(spec["encode"]["bitrateKbps"] == 6000, "{spec}");
    bed.delete_streams(&["defaults"])
}

pub fn kubectl_get_prints_the_documented_columns(bed: &Installed) -> Result<()> {
    bed.apply_stream("columns", &spec_without_gpu())?;
    let table = bed.cluster.kubectl(&["get", "dst"])?;
    for column in ["NAME", "PHASE", "FRAME-PATH", "FPS", "NODE", "HOST-AGENT", "AGE"] {
        ensure!(table.contains(column), "no column {column}: {table}");
    }
    bed.delete_streams(&["columns"])
}

/// An object may be older than a rule that it breaks: here it is stored while the webhook is not configured.
pub fn invalid_spec_stored_without_the_webhook_is_reported(bed: &Installed) -> Result<()> {
    bed.cluster.kubectl(&["delete", "validatingwebhookconfiguration", "desktopstream"])?;
    let mut spec = spec_without_gpu();
    spec["desktop"]["image"] = "a b".into();
    bed.eventually("the apiserver stops calling the webhook", || bed.apply_stream("invalid", &spec))?;
    let message = bed.await_reason("invalid", "Ready", "InvalidSpec")?;
    ensure!(message.contains("spec.desktop.image"), "{message}");
    bed.reinstall()?;
    // Metadata can be changed, and the object can be deleted.
    let annotation = json!({"metadata": {"annotations": {"note": "changed"}}}).to_string();
    bed.cluster.kubectl(&["patch", "desktopstream", "invalid", "--type=merge", "-p", &annotation])?;
    bed.delete_streams(&["invalid"])
}

/// Deletes the webhook's configuration during `check`, so that only the schema and the apiserver's policies are left.
fn without_webhook(bed: &Installed, check: impl FnOnce() -> Result<()>) -> Result<()> {
    bed.cluster.kubectl(&["delete", "validatingwebhookconfiguration", "desktopstream"])?;
    let checked = check();
    bed.reinstall()?;
    checked
}

/// The corpus of the operator's unit tests. The installation allows the Pod Security Standard `baseline`.
pub fn privileged_specs_are_refused_without_the_webhook_too(bed: &Installed) -> Result<()> {
    let file = lab::repository().join("operator/plan/tests/data/privileged-specs.yaml");
    let all: Vec<Value> = serde_yaml_ng::from_str(&std::fs::read_to_string(file)?)?;
    let check = || -> Result<()> {
        let mut wrong = Vec::new();
        for case in &all {
            let output = bed.dry_run(&stream("privileged", &case["spec"]))?;
            let expected = case["needs"] == "baseline";
            let is_right =
                output.success() == expected && (expected || output.stderr.contains("administrator"));
            if !is_right {
                wrong.push(format!("{}: {output:?}", case["case"]));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    };
    check().context("with the webhook")?;
    without_webhook(bed, || {
        bed.eventually("the apiserver stops calling the webhook", || {
            let invalid = json!({"desktop": {"image": "a b"}});
            bed.dry_run(&stream("invalid", &invalid))?.ok().map(drop)
        })?;
        check().context("without the webhook")
    })
}

/// A user who may create streams, and pods in a second step, but reads no Secret.
pub fn author_without_the_rights_of_a_stream_is_refused(bed: &Installed) -> Result<()> {
    const USER: &str = "--as=ann";
    let grant = |name: &str, verbs: &str, resources: &str| -> Result<()> {
        bed.cluster.kubectl(&["create", "role", name, verbs, resources])?;
        bed.cluster
            .kubectl(&["create", "rolebinding", name, &format!("--role={name}"), "--user=ann"])
            .map(drop)
    };
    let create = |spec: &Value| {
        let object = stream("rights", spec).to_string();
        bed.cluster.kubectl_with_input(&["create", USER, "--dry-run=server", "-f", "-"], &object)
    };
    let refused = |spec: &Value, right: &str| -> Result<()> {
        bed.eventually(&format!("{right} is required"), || {
            let output = create(spec)?;
            ensure!(!output.success() && output.stderr.contains(right), "{output:?}");
            Ok(())
        })
    };
    let check = || -> Result<()> {
        let mut spec = spec_without_gpu();
        grant("streams", "--verb=create,update,patch,get", "--resource=desktopstreams.desktopstream.dev")?;
        refused(&spec, "create pods")?;
        grant("pods", "--verb=create", "--resource=pods")?;
        bed.eventually("the rights suffice", || create(&spec)?.ok().map(drop))?;
        spec["desktop"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "admin"}}]);
        refused(&spec, "get secrets/admin")?;
        spec = spec_without_gpu();
        spec["viewers"] = json!({"auth": {"secretName": "admin"}});
        refused(&spec, "get secrets/admin")?;
        spec["viewers"] = json!({"service": {"type": "LoadBalancer"}});
        refused(&spec, "create services")?;
        spec["viewers"] = json!({"ingress": {"host": "bank.example.com"}});
        refused(&spec, "create ingresses")?;
        // The API server reads the deprecated field if the other one is empty.
        let account = json!({"gpu": {"count": 0}, "desktop": {"podTemplate": {"spec": {
            "serviceAccountName": "", "serviceAccount": "deployer",
            "containers": [{"name": "desktop", "image": "a"}],
        }}}});
        refused(&account, "impersonate serviceaccounts/deployer")?;
        without_webhook(bed, || {
            refused(&spec, "create ingresses")?;
            refused(&account, "impersonate serviceaccounts/deployer")?;
            spec["viewers"] = json!({"auth": {"secretName": "admin"}});
            refused(&spec, "ValidatingAdmissionPolicy")
        })
    };
    let checked = check();
    for kind in ["rolebinding", "role"] {
        bed.cluster.kubectl(&["delete", kind, "streams", "pods", "--ignore-not-found"])?;
    }
    checked
}

pub fn webhook_outage_does_not_block_finalizers(bed: &Installed) -> Result<()> {
    bed.apply_stream("finalized", &spec_without_gpu())?;
    bed.scale(0)?;
    let finalizers = |list: &Value| {
        let patch = json!({"metadata": {"finalizers": list}}).to_string();
        bed.cluster.kubectl(&["patch", "desktopstream", "finalized", "--type=merge", "-p", &patch]).map(drop)
    };
    finalizers(&json!(["example.com/test"]))?;
    bed.cluster.kubectl(&["delete", "desktopstream", "finalized", "--wait=false"])?;
    finalizers(&Value::Null)?;
    bed.await_deleted("desktopstream", "finalized")?;
    bed.reinstall()
}
