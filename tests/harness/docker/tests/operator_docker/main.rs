//! `operator docker` on a real Docker Engine. Each test has its own project, so that most tests run side by side on one engine.
//!
//! `DESKTOPSTREAM_DOCKER_DEBIAN=1` runs the tests of `current::` and `full_disk::` on Debian's engine, too.

mod attach;
mod failures;
mod files;
mod hostile;
mod lifecycle;
mod many;
mod operator;
mod pulls;
mod testbed;

use std::process::ExitCode;

use cluster::suite::Suite;
use cluster::tests;
use engine::Version;
use testbed::Testbed;

/// Tests that run side by side; they mostly wait.
const THREADS: usize = 6;
/// Size of a disk, in MiB, that holds the small images but not the registry's image in addition.
const SMALL_DISK: u32 = 96;

fn main() -> ExitCode {
    let debian = std::env::var_os("DESKTOPSTREAM_DOCKER_DEBIAN").is_some();
    let version = if debian { Version::Debian } else { Version::Current };
    Suite::new()
        .threads(THREADS)
        .named_fixture(
            "current::",
            move || Testbed::up("docker", version),
            tests![
                lifecycle::stream_file_starts_a_streaming_desktop,
                lifecycle::desktop_has_no_capabilities_and_writes_its_home,
                lifecycle::changed_bitrate_replaces_the_sidecar_only,
                lifecycle::changed_desktop_is_replaced_and_keeps_its_home,
                lifecycle::containers_changed_by_hand_are_repaired,
                lifecycle::suspended_stream_keeps_only_its_home,
                lifecycle::desktop_opens_its_own_gpu_only,
                lifecycle::streams_of_two_projects_are_independent,
                files::unreadable_file_keeps_streams_as_they_are,
                files::removed_file_removes_the_stream,
                files::file_removed_between_runs_leaves_an_orphan_until_it_is_pruned,
                operator::restarted_operator_adopts_running_desktops,
                operator::operator_killed_at_any_point_is_replaced_by_the_next,
                operator::second_operator_of_a_project_is_refused,
                operator::commands_print_url_status_logs_and_checks,
                hostile::names_that_are_paths_are_refused_and_nothing_is_removed,
                hostile::image_that_claims_to_be_a_desktop_is_ignored,
                hostile::operator_with_another_state_folder_is_refused_until_the_first_ends,
                failures::image_that_cannot_be_pulled_is_reported,
                failures::unsupported_field_is_reported,
                failures::crashing_desktop_is_reported,
                failures::missing_command_is_reported,
                failures::missing_gpu_is_reported,
                failures::published_port_in_use_is_reported,
                failures::foreign_container_of_the_same_name_is_reported_until_it_is_removed,
                pulls::refused_pull_quotes_the_registry_until_it_succeeds,
                pulls::samples_reach_their_conditions,
                // These run alone: an operator attaches to every container that asks for a sidecar without naming a project,
                // and the last ones stop the Engine or load it.
                attach::labelled_container_gets_a_sidecar_without_a_restart,
                attach::container_without_a_device_is_reported_until_it_has_it,
                attach::container_with_permission_is_recreated_with_the_device,
                attach::failed_recreation_restores_the_container,
                hostile::image_that_asks_for_a_sidecar_gets_none,
                hostile::container_that_the_engine_removes_on_exit_is_not_recreated,
                hostile::recreation_of_a_killed_operator_is_finished_by_the_next,
                hostile::container_that_took_the_name_meanwhile_is_not_touched,
                operator::operators_wait_for_the_engine,
                many::calls_grow_with_the_number_of_streams_only,
            ],
        )
        .named_fixture(
            "oldest::",
            || Testbed::up("oldest", Version::Debian),
            tests![
                lifecycle::stream_file_starts_a_streaming_desktop,
                lifecycle::desktop_has_no_capabilities_and_writes_its_home,
                lifecycle::changed_bitrate_replaces_the_sidecar_only,
                lifecycle::changed_desktop_is_replaced_and_keeps_its_home,
                lifecycle::containers_changed_by_hand_are_repaired,
                lifecycle::suspended_stream_keeps_only_its_home,
                files::unreadable_file_keeps_streams_as_they_are,
                files::removed_file_removes_the_stream,
                files::file_removed_between_runs_leaves_an_orphan_until_it_is_pruned,
                operator::restarted_operator_adopts_running_desktops,
                operator::commands_print_url_status_logs_and_checks,
                attach::labelled_container_gets_a_sidecar_without_a_restart,
                attach::container_without_a_device_is_reported_until_it_has_it,
                attach::container_with_permission_is_recreated_with_the_device,
                attach::failed_recreation_restores_the_container,
                hostile::names_that_are_paths_are_refused_and_nothing_is_removed,
                hostile::image_that_claims_to_be_a_desktop_is_ignored,
                hostile::operator_with_another_state_folder_is_refused_until_the_first_ends,
                hostile::image_that_asks_for_a_sidecar_gets_none,
                hostile::container_that_the_engine_removes_on_exit_is_not_recreated,
                hostile::recreation_of_a_killed_operator_is_finished_by_the_next,
                hostile::container_that_took_the_name_meanwhile_is_not_touched,
            ],
        )
        .named_fixture(
            "full_disk::",
            move || Testbed::with_disk("full", version, SMALL_DISK),
            tests![
                pulls::full_disk_during_a_pull_is_reported,
                pulls::full_disk_without_a_pull_is_reported_until_freed
            ],
        )
        .main()
}
