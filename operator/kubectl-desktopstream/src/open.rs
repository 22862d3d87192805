//! `open`: forwards a port to the stream and starts the browser.

use std::time::Duration;

use anyhow::{Context as _, Result};
use operator_sidecar_client::{open_browser, viewer_url};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Open;
use crate::kubectl::Kubectl;
use crate::port_forward::PortForward;
use crate::target;

/// Interval between attempts to reach the stream's next pod.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Forwards until SIGINT or SIGTERM. When the pod is replaced, forwards the same local port to the new one.
pub(crate) fn run(kubectl: &Kubectl, options: &Open) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let (mut forward, url) = connect(kubectl, options, options.port)?;
        let port = forward.port();
        if options.json {
            println!("{}", json!({"url": url}));
        } else {
            println!("{url}");
            if !options.no_browser && !open_browser(&url) {
                eprintln!("cannot start a browser; open the URL yourself");
            }
            eprintln!("forwarding until Ctrl-C");
        }
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                () = forward.ended() => {}
            }
            eprintln!("the connection to {} ended; waiting for its next pod", options.stream.name);
            drop(forward);
            forward = loop {
                tokio::select! {
                    _ = terminate.recv() => return Ok(()),
                    _ = interrupt.recv() => return Ok(()),
                    () = tokio::time::sleep(RETRY_INTERVAL) => {}
                }
                match connect(kubectl, options, port) {
                    Ok((forward, _)) => break forward,
                    Err(error) => eprintln!("{error:#}"),
                }
            };
        }
    })
}

/// Forwards `port` to the stream; returns the viewer URL with the token.
fn connect(kubectl: &Kubectl, options: &Open, port: u16) -> Result<(PortForward, String)> {
    let target = target::find(kubectl, &options.stream)?;
    let token = if options.view_only {
        Some(target.view_only_token(kubectl)?)
    } else {
        target.viewer_token(kubectl)?
    };
    let forward = PortForward::start(kubectl, &target, port)?;
    let url = viewer_url(&forward.url(), token.as_deref());
    Ok((forward, url))
}
