//! The operator in a real cluster: API rules, webhook, objects, repair, obstacles, injection, leadership and outages. Running
//! desktops are tested in desktop/; the pods here are mostly bound to no node.

mod admission;
mod injection;
mod leadership;
mod lifecycle;
mod objects;
mod obstacles;
mod outages;
mod rights;

use std::process::ExitCode;

use cluster::product::Installed;
use cluster::suite::Suite;
use cluster::tests;

/// Arguments of `operator install-manifests`.
const ARGUMENTS: &[&str] =
    &["--operator-arg=--token-life=30s", "--pod-security=baseline", "--allowed-annotation=example.com/*"];

fn main() -> ExitCode {
    let up = || Installed::up("operator", 1, ARGUMENTS);
    Suite::new()
        .fixture(
            up,
            tests![
                admission::invalid_specs_are_refused_by_the_declared_rule,
                admission::samples_are_accepted_and_reach_their_conditions,
                admission::defaults_are_stored_in_the_object,
                admission::kubectl_get_prints_the_documented_columns,
                admission::invalid_spec_stored_without_the_webhook_is_reported,
                admission::privileged_specs_are_refused_without_the_webhook_too,
                admission::author_without_the_rights_of_a_stream_is_refused,
                admission::webhook_outage_does_not_block_finalizers,
                rights::operator_check_of_a_sound_installation_passes,
                rights::operator_role_lacks_rights_that_it_does_not_need,
                rights::operator_may_write_secrets_of_streams_only,
                rights::node_agent_may_write_its_facts_on_its_own_node_only,
                objects::stream_creates_its_objects_and_deletion_deletes_them,
                objects::changed_service_is_repaired,
                objects::deleted_network_policy_is_created_again,
                objects::ingress_removed_from_the_spec_is_deleted,
                objects::optional_fields_that_are_taken_away_are_removed,
                objects::unchanged_stream_causes_no_writes,
                lifecycle::changed_desktop_replaces_the_pod_with_an_event,
                lifecycle::changed_service_port_keeps_the_pod,
                lifecycle::suspended_stream_keeps_its_home_and_resumes,
                lifecycle::home_with_on_delete_keep_outlives_its_stream,
                lifecycle::kept_home_outlives_a_later_stream_that_deletes_homes,
                lifecycle::home_that_its_user_has_grown_keeps_the_stream,
                lifecycle::stream_that_is_created_again_at_once_waits_for_its_remains,
                lifecycle::stream_is_deleted_after_its_ttl,
                obstacles::exceeded_quota_is_reported_until_it_is_raised,
                obstacles::foreign_service_of_the_same_name_is_reported_and_kept,
                obstacles::foreign_claim_and_secret_are_reported_and_never_adopted,
                obstacles::persistent_failure_is_reported_until_it_is_over,
                obstacles::pending_volume_is_reported,
                obstacles::unschedulable_pod_is_reported,
                obstacles::pod_security_violation_is_reported,
                obstacles::default_pod_fits_pod_security_restricted,
                injection::deployment_pod_gets_a_sidecar_and_streams,
                injection::stateful_set_pod_gets_a_sidecar_and_streams,
                injection::job_pod_gets_a_sidecar_and_completes,
                injection::labelled_pod_gets_a_sidecar,
                injection::labelled_pod_without_a_stream_starts_with_a_warning,
                leadership::standby_waits_while_the_leader_renews_its_lease,
                leadership::standby_leads_after_the_leader_was_killed,
                outages::operator_killed_at_any_point_completes_all_objects,
                outages::operator_resumes_after_an_apiserver_outage,
                outages::foreign_pods_start_without_the_webhook,
                outages::streams_are_refused_without_the_webhook,
            ],
        )
        .main()
}
