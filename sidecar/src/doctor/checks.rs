//! The checks, in the order in which a frame passes them.

mod capture;
mod encode;
mod gpu;
mod host_agent;
mod input;

use contract::doctor::{Check, checks};

use crate::cli::{Desktop, HostAgent};

/// Runs all checks. A check whose precondition failed is skipped.
pub async fn run(desktop: &Desktop, host_agent: &HostAgent) -> Vec<Check> {
    let mut report = Vec::new();
    let device = gpu::render_node(desktop, &mut report);
    let mailbox = gpu::tap(device.as_ref(), &mut report);
    let session = host_agent::connect(host_agent, &mut report).await;
    let input = input::protocol(desktop).await;
    let desktop = desktop.clone();
    // The remaining checks block.
    let rest = tokio::task::spawn_blocking(move || {
        let mut mailbox = mailbox;
        let mut report = Vec::new();
        let bound = host_agent::bind(mailbox.as_mut(), session.as_ref(), &mut report);
        let captured = capture::frame(&desktop, device, &mut report);
        encode::by_resource_id(
            captured.as_ref(),
            mailbox.as_mut().filter(|_| bound),
            session.as_ref(),
            &mut report,
        );
        report
    })
    .await;
    match rest {
        Ok(rest) => report.extend(rest),
        Err(error) => {
            report.push(Check::failed(checks::DOCTOR, error.to_string(), "report this as a bug"));
        }
    }
    report.push(input);
    report
}
