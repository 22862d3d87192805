use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use k8s_openapi::api::networking::v1::Ingress;
use operator_api::names;
use operator_plan::kubernetes;
use operator_plan::testing::validated;
use operator_plan::validate::Validated;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Apiserver, World, report};

const SERVICE: &str = "/api/v1/namespaces/team/services/desk-viewers";
const CLAIM: &str = "/api/v1/namespaces/team/persistentvolumeclaims/desk-home";
const INGRESS: &str = "/apis/networking.k8s.io/v1/namespaces/team/ingresses/desk-viewers";

fn owner(uid: &str) -> Owner {
    Owner { namespace: "team".to_owned(), name: "desk".to_owned(), uid: uid.to_owned() }
}

fn stream(uid: &str, spec: &Value) -> Validated {
    validated(&json!({"metadata": {"uid": uid}, "spec": spec}))
}

fn home(uid: &str, home: &Value) -> PersistentVolumeClaim {
    kubernetes::objects(&stream(uid, &json!({"desktop": {"home": home}}))).home.expect("a claim")
}

fn ingress(ingress: &Value) -> Ingress {
    kubernetes::objects(&stream("u-1", &json!({"viewers": {"ingress": ingress}})))
        .ingress
        .expect("an Ingress")
}

fn service() -> Service {
    kubernetes::objects(&stream("u-1", &json!({}))).service
}

async fn ensure_claim(world: &World, uid: &str, claim: &PersistentVolumeClaim) -> Applied<()> {
    ensure(&world.context, &owner(uid), &world.context.stores.claims, claim).await
}

fn reason(applied: Applied<()>) -> &'static str {
    match applied {
        Ok(()) => "none",
        Err(ApplyError::Obstacle(obstacle)) => obstacle.reason.name,
        Err(ApplyError::Failed(error)) => panic!("{error}"),
    }
}

#[tokio::test]
async fn claim_of_the_user_is_never_adopted() {
    let apiserver = Apiserver::default();
    let mut world = World::new(&apiserver);
    for on_delete in ["Delete", "Keep"] {
        let wanted = home("u-1", &json!({"size": "1Gi", "onDelete": on_delete}));
        let mut theirs = serde_json::to_value(&wanted).expect("JSON");
        theirs["metadata"] = json!({"name": "desk-home", "namespace": "team"});
        let before = apiserver.add(CLAIM, theirs);
        // It has no label, so the watch never reports it.
        for _ in 0..2 {
            assert_eq!(reason(ensure_claim(&world, "u-1", &wanted).await), "NameTaken", "{on_delete}");
        }
        report(&mut world.stores.claims, &before);
        assert_eq!(reason(ensure_claim(&world, "u-1", &wanted).await), "NameTaken");
        assert_eq!(apiserver.get(CLAIM), Some(before), "{on_delete}");
        apiserver.remove(CLAIM);
        world = World::new(&apiserver);
    }
}

#[tokio::test]
async fn service_of_the_user_is_never_adopted() {
    let apiserver = Apiserver::default();
    let world = World::new(&apiserver);
    let before = apiserver.add(SERVICE, json!({"metadata": {"name": "desk-viewers"}}));
    let applied = ensure(&world.context, &owner("u-1"), &world.context.stores.services, &service()).await;
    assert_eq!(reason(applied), "NameTaken");
    assert_eq!(apiserver.get(SERVICE), Some(before));
}

#[tokio::test]
async fn object_of_a_deleted_stream_of_the_same_name_is_waited_for() {
    let apiserver = Apiserver::default();
    let mut world = World::new(&apiserver);
    let size = json!({"size": "1Gi"});
    ensure_claim(&world, "u-0", &home("u-0", &size)).await.expect("created");
    let before = apiserver.get(CLAIM).expect("created");
    assert_eq!(reason(ensure_claim(&world, "u-1", &home("u-1", &size)).await), "Waiting");
    report(&mut world.stores.claims, &before);
    assert_eq!(reason(ensure_claim(&world, "u-1", &home("u-1", &size)).await), "Waiting");
    assert_eq!(apiserver.get(CLAIM), Some(before));
}

#[tokio::test]
async fn kept_claim_is_used_by_a_later_stream_and_never_gets_an_owner() {
    let apiserver = Apiserver::default();
    let mut world = World::new(&apiserver);
    ensure_claim(&world, "u-0", &home("u-0", &json!({"size": "1Gi", "onDelete": "Keep"})))
        .await
        .expect("created");
    report(&mut world.stores.claims, &apiserver.get(CLAIM).expect("created"));
    for (size, on_delete) in [("1Gi", "Delete"), ("2Gi", "Delete"), ("2Gi", "Keep")] {
        let wanted = home("u-1", &json!({"size": size, "onDelete": on_delete}));
        assert_eq!(reason(ensure_claim(&world, "u-1", &wanted).await), "none");
        let claim = apiserver.get(CLAIM).expect("kept");
        assert!(claim["metadata"]["ownerReferences"].is_null(), "{claim}");
        assert_eq!(claim["metadata"]["annotations"][names::CREATED_FOR], "u-0");
        assert_eq!(claim["spec"]["resources"]["requests"]["storage"], size, "it may grow");
        report(&mut world.stores.claims, &claim);
    }
}

/// Earlier versions wrote neither the digest nor the UID of the stream.
#[tokio::test]
async fn claim_that_an_earlier_version_kept_is_used_and_never_gets_an_owner() {
    let apiserver = Apiserver::default();
    let mut world = World::new(&apiserver);
    for on_delete in ["Keep", "Delete"] {
        let wanted = home("u-1", &json!({"size": "1Gi", "onDelete": on_delete}));
        let mut earlier = serde_json::to_value(&wanted).expect("JSON");
        for field in ["annotations", "ownerReferences"] {
            earlier["metadata"].as_object_mut().expect("metadata").remove(field);
        }
        report(&mut world.stores.claims, &apiserver.add(CLAIM, earlier));
        for _ in 0..2 {
            assert_eq!(reason(ensure_claim(&world, "u-1", &wanted).await), "none", "{on_delete}");
            let claim = apiserver.get(CLAIM).expect("kept");
            assert!(claim["metadata"]["ownerReferences"].is_null(), "{claim}");
            report(&mut world.stores.claims, &claim);
        }
        apiserver.remove(CLAIM);
        world = World::new(&apiserver);
    }
}

/// An admission plugin refuses a request before the apiserver compares its name with those that exist. The quota is
/// exhausted by the object itself.
#[tokio::test]
async fn own_object_that_the_watch_has_not_reported_yet_is_no_obstacle_for_a_quota() {
    let apiserver = Apiserver::default();
    let mut world = World::new(&apiserver);
    let wanted = home("u-1", &json!({"size": "1Gi"}));
    ensure_claim(&world, "u-1", &wanted).await.expect("created");
    let quota = "persistentvolumeclaims \"desk-home\" is forbidden: exceeded quota: q";
    apiserver.refuse(hyper::Method::POST, "/persistentvolumeclaims", 403, quota);
    assert_eq!(reason(ensure_claim(&world, "u-1", &wanted).await), "none");
    apiserver.remove(CLAIM);
    world = World::new(&apiserver);
    assert_eq!(reason(ensure_claim(&world, "u-1", &wanted).await), "QuotaExceeded");
}

#[tokio::test]
async fn changed_deletion_policy_gives_the_claim_an_owner_and_takes_it_away() {
    let apiserver = Apiserver::default();
    let mut world = World::new(&apiserver);
    for (on_delete, owners) in [("Delete", 1), ("Keep", 0), ("Delete", 1), ("Keep", 0)] {
        let wanted = home("u-1", &json!({"size": "1Gi", "onDelete": on_delete}));
        ensure_claim(&world, "u-1", &wanted).await.expect("applied");
        let claim = apiserver.get(CLAIM).expect("it exists");
        let found = claim["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
        assert_eq!(found, owners, "{on_delete}: {claim}");
        report(&mut world.stores.claims, &claim);
    }
}

#[tokio::test]
async fn optional_field_that_is_taken_away_is_removed() {
    let apiserver = Apiserver::default();
    let mut world = World::new(&apiserver);
    for (spec, annotations) in [
        (json!({"host": "a.b", "tlsSecretName": "s", "className": "c", "annotations": {"x": "y"}}), 2),
        (json!({"host": "a.b"}), 1),
        (json!({"host": "a.b", "tlsSecretName": "s"}), 1),
        (json!({"host": "a.b"}), 1),
    ] {
        let wanted = ingress(&spec);
        ensure(&world.context, &owner("u-1"), &world.context.stores.ingresses, &wanted)
            .await
            .expect("applied");
        let live = apiserver.get(INGRESS).expect("it exists");
        assert_eq!(live["spec"].get("tls").is_some(), spec.get("tlsSecretName").is_some(), "{live}");
        assert_eq!(live["spec"].get("ingressClassName").is_some(), spec.get("className").is_some(), "{live}");
        let found = live["metadata"]["annotations"].as_object().expect("annotations").len();
        assert_eq!(found, annotations, "{live}");
        report(&mut world.stores.ingresses, &live);
    }
}

#[tokio::test]
async fn unchanged_object_is_not_written_again() {
    let apiserver = Apiserver::default();
    let mut world = World::new(&apiserver);
    for asked in ["1.5Gi", "1Gi", "1024Mi"] {
        let wanted = home("u-1", &json!({"size": asked}));
        ensure_claim(&world, "u-1", &wanted).await.expect("created");
        // The apiserver stores the canonical form.
        let stored = if asked == "1.5Gi" { "1536Mi" } else { "1Gi" };
        apiserver.change(CLAIM, &json!({"spec": {"resources": {"requests": {"storage": stored}}}}));
        report(&mut world.stores.claims, &apiserver.get(CLAIM).expect("created"));
        apiserver.take_requests();
        ensure_claim(&world, "u-1", &wanted).await.expect("nothing to do");
        assert_eq!(apiserver.take_requests(), [""; 0], "{asked}");
        apiserver.remove(CLAIM);
        world = World::new(&apiserver);
    }
}

#[tokio::test]
async fn claim_that_its_user_has_grown_stays_as_it_is() {
    let apiserver = Apiserver::default();
    let mut world = World::new(&apiserver);
    let size = |size: &str| home("u-1", &json!({"size": size}));
    ensure_claim(&world, "u-1", &size("1Gi")).await.expect("created");
    apiserver.change(CLAIM, &json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}));
    report(&mut world.stores.claims, &apiserver.get(CLAIM).expect("created"));
    apiserver.take_requests();
    assert_eq!(reason(ensure_claim(&world, "u-1", &size("1Gi")).await), "none");
    assert_eq!(apiserver.take_requests(), [""; 0]);
    // The spec catches up in part.
    assert_eq!(reason(ensure_claim(&world, "u-1", &size("1.5Gi")).await), "none");
    let claim = apiserver.get(CLAIM).expect("it exists");
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "2Gi");
}

#[tokio::test]
async fn object_that_replaced_an_own_one_is_left_alone() {
    let apiserver = Apiserver::default();
    let mut world = World::new(&apiserver);
    let services = &world.context.stores.services;
    ensure(&world.context, &owner("u-1"), services, &service()).await.expect("created");
    report(&mut world.stores.services, &apiserver.get(SERVICE).expect("created"));
    apiserver.remove(SERVICE);
    let before = apiserver.add(SERVICE, json!({"metadata": {"name": "desk-viewers", "namespace": "team"}}));
    let mut wanted = service();
    wanted.annotations_mut().insert("x".to_owned(), "y".to_owned());
    let services = &world.context.stores.services;
    assert_eq!(reason(ensure(&world.context, &owner("u-1"), services, &wanted).await), "NameTaken");
    sweep(&world.context, &owner("u-1"), services, None).await.expect("nothing deleted");
    assert_eq!(apiserver.get(SERVICE), Some(before));
}

#[tokio::test]
async fn sweep_deletes_own_objects_as_the_watch_reported_them() {
    let apiserver = Apiserver::default();
    let mut world = World::new(&apiserver);
    let services = &world.context.stores.services;
    ensure(&world.context, &owner("u-1"), services, &service()).await.expect("created");
    let created = apiserver.get(SERVICE).expect("created");
    report(&mut world.stores.services, &created);
    let services = &world.context.stores.services;
    sweep(&world.context, &owner("u-0"), services, None).await.expect("another stream's");
    sweep(&world.context, &owner("u-1"), services, Some("desk-viewers")).await.expect("wanted");
    assert!(apiserver.get(SERVICE).is_some());
    // Its owner was taken away meanwhile.
    apiserver.change(SERVICE, &json!({"metadata": {"ownerReferences": null}}));
    sweep(&world.context, &owner("u-1"), services, None).await.expect("not as reported");
    assert!(apiserver.get(SERVICE).is_some());
    apiserver
        .change(SERVICE, &json!({"metadata": {"ownerReferences": created["metadata"]["ownerReferences"]}}));
    report(&mut world.stores.services, &apiserver.get(SERVICE).expect("it exists"));
    sweep(&world.context, &owner("u-1"), &world.context.stores.services, None).await.expect("deleted");
    assert!(apiserver.get(SERVICE).is_none());
}
