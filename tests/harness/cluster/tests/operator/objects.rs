//! The objects of a stream: created, repaired, deleted, and otherwise left alone.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cluster::product::{Installed, TIMEOUT, spec_without_gpu, stream};
use serde_json::{Value, json};

/// A stream with an object of each kind.
fn spec() -> Value {
    let mut spec = spec_without_gpu();
    spec["desktop"]["home"] = json!({"size": "1Gi"});
    spec["viewers"] = json!({"ingress": {"host": "desk.example.com"}});
    spec
}

/// Kinds and names of the objects of the stream `name`.
fn objects(name: &str) -> [(&'static str, String); 6] {
    [
        ("pod", format!("{name}-desktop")),
        ("service", format!("{name}-viewers")),
        ("ingress", format!("{name}-viewers")),
        ("networkpolicy", format!("{name}-desktop")),
        ("pvc", format!("{name}-home")),
        ("secret", format!("{name}-viewer")),
    ]
}

pub fn stream_creates_its_objects_and_deletion_deletes_them(bed: &Installed) -> Result<()> {
    bed.apply_stream("objects", &spec())?;
    for (kind, name) in objects("objects") {
        bed.await_object(kind, &name)?;
    }
    let pod = bed.get(&["pod", "objects-desktop"])?;
    ensure!(pod["metadata"]["ownerReferences"][0]["kind"] == "DesktopStream", "{}", pod["metadata"]);
    bed.delete_streams(&["objects"])?;
    for (kind, name) in objects("objects") {
        bed.await_deleted(kind, &name)?;
    }
    Ok(())
}

pub fn changed_service_is_repaired(bed: &Installed) -> Result<()> {
    bed.apply_stream("repaired", &spec())?;
    bed.await_object("service", "repaired-viewers")?;
    let patch = r#"[{"op":"replace","path":"/spec/ports/0/port","value":81}]"#;
    bed.cluster.kubectl(&["patch", "service", "repaired-viewers", "--type=json", "-p", patch])?;
    bed.eventually("the Service has its port again", || {
        let service = bed.get(&["service", "repaired-viewers"])?;
        ensure!(service["spec"]["ports"][0]["port"] == 80, "{}", service["spec"]["ports"]);
        Ok(())
    })?;
    bed.delete_streams(&["repaired"])
}

pub fn deleted_network_policy_is_created_again(bed: &Installed) -> Result<()> {
    bed.apply_stream("policy", &spec())?;
    let before = bed.await_object("networkpolicy", "policy-desktop")?;
    bed.cluster.kubectl(&["delete", "networkpolicy", "policy-desktop"])?;
    bed.eventually("another NetworkPolicy", || {
        let after = bed.get(&["networkpolicy", "policy-desktop"])?;
        ensure!(after["metadata"]["uid"] != before["metadata"]["uid"], "the deleted one");
        Ok(())
    })?;
    bed.delete_streams(&["policy"])
}

pub fn ingress_removed_from_the_spec_is_deleted(bed: &Installed) -> Result<()> {
    let mut spec = spec();
    bed.apply_stream("ingress", &spec)?;
    bed.await_object("ingress", "ingress-viewers")?;
    spec["viewers"] = json!({});
    bed.cluster.kubectl_with_input(&["replace", "-f", "-"], &stream("ingress", &spec).to_string())?.ok()?;
    bed.await_deleted("ingress", "ingress-viewers")?;
    bed.delete_streams(&["ingress"])
}

pub fn optional_fields_that_are_taken_away_are_removed(bed: &Installed) -> Result<()> {
    let mut spec = spec();
    let annotations = json!({"example.com/a": "1"});
    spec["viewers"] = json!({
        "ingress": {"host": "desk.example.com", "tlsSecretName": "tls", "className": "c", "annotations": annotations},
        "service": {"annotations": annotations},
    });
    bed.apply_stream("fewer", &spec)?;
    let objects = || {
        let ingress = bed.get(&["ingress", "fewer-viewers"])?;
        Ok::<_, anyhow::Error>((ingress, bed.get(&["service", "fewer-viewers"])?))
    };
    bed.eventually("the fields are set", || {
        let (ingress, service) = objects()?;
        ensure!(
            ingress["spec"]["tls"][0]["secretName"] == "tls" && ingress["spec"]["ingressClassName"] == "c"
        );
        ensure!(service["metadata"]["annotations"]["example.com/a"] == "1");
        Ok(())
    })?;
    spec["viewers"] = json!({"ingress": {"host": "desk.example.com"}});
    bed.cluster.kubectl_with_input(&["replace", "-f", "-"], &stream("fewer", &spec).to_string())?.ok()?;
    bed.eventually("the fields are removed", || {
        let (ingress, service) = objects()?;
        ensure!(ingress["spec"]["tls"].is_null(), "{}", ingress["spec"]);
        ensure!(ingress["spec"]["ingressClassName"].is_null(), "{}", ingress["spec"]);
        for metadata in [&ingress["metadata"], &service["metadata"]] {
            ensure!(metadata["annotations"]["example.com/a"].is_null(), "{metadata}");
        }
        Ok(())
    })?;
    bed.delete_streams(&["fewer"])
}

pub fn unchanged_stream_causes_no_writes(bed: &Installed) -> Result<()> {
    /// Longer than two of the operator's polls.
    const OBSERVED: Duration = Duration::from_secs(8);
    let mut spec = spec();
    // The apiserver stores it as 1536Mi.
    spec["desktop"]["home"]["size"] = "1.5Gi".into();
    bed.apply_stream("steady", &spec)?;
    for (kind, name) in objects("steady") {
        bed.await_object(kind, &name)?;
    }
    // The final reason: the cluster has no StorageClass for the claim.
    bed.await_reason("steady", "DevicesReady", "VolumePending")?;
    let deadline = Instant::now() + TIMEOUT;
    let mut before = versions(bed)?;
    loop {
        std::thread::sleep(OBSERVED);
        let after = versions(bed)?;
        ensure!(after.len() >= 7, "{after:?}");
        if after == before {
            break;
        }
        // Controllers of the cluster may still have written after the conditions were reached: the scheduler its events, the
        // volume controller the claim's. An operator that writes on each poll never reaches a pause.
        ensure!(Instant::now() < deadline, "written within {OBSERVED:?}: {before:?}, then {after:?}");
        before = after;
    }
    bed.delete_streams(&["steady"])
}

/// Resource versions of the stream and its objects.
fn versions(bed: &Installed) -> Result<Vec<String>> {
    let all = bed.get(&["desktopstream,pod,service,ingress,networkpolicy,pvc,secret"])?;
    let items = all["items"].as_array().cloned().unwrap_or_default();
    let own = items.iter().filter(|it| it["metadata"]["name"].to_string().contains("steady"));
    let mut versions: Vec<String> =
        own.map(|it| format!("{} {}", it["kind"], it["metadata"]["resourceVersion"])).collect();
    versions.sort();
    Ok(versions)
}
