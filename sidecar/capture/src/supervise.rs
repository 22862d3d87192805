//! Source selection and restarts.
//!
//! The sidecar starts before its desktop and outlives it, so a missing desktop is the normal case. The first
//! retry follows after 0.2 s, later ones more slowly.

use std::time::{Duration, Instant};

use crate::error::CaptureError;
use crate::source_context::SourceContext;
use crate::{CaptureOptions, Source, mutter, pipewire, testpattern, wayland};

const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Runs sources until the capture is stopped.
pub fn run(options: &CaptureOptions, context: &SourceContext) {
    let mut backoff = INITIAL_BACKOFF;
    while !context.is_stopped() {
        let before = context.delivered();
        let Err(error) = run_source(options, context) else { break };
        if context.delivered() > before {
            backoff = INITIAL_BACKOFF;
        }
        tracing::debug!(%error, ?backoff, "capture source failed");
        context.report_lost(error);
        sleep(context, backoff);
        backoff = (backoff * 3 / 2).min(MAX_BACKOFF);
    }
}

/// Sleeps for `duration`, or until the capture is stopped.
fn sleep(context: &SourceContext, duration: Duration) {
    let end = Instant::now() + duration;
    while !context.is_stopped() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || context.waker().wait(None, left).is_err() {
            return;
        }
    }
}

/// Runs the configured source until it fails, or until the capture is stopped (`Ok`).
fn run_source(options: &CaptureOptions, context: &SourceContext) -> Result<(), CaptureError> {
    match (options.source, options.pipewire_node) {
        (Source::TestPattern, _) => testpattern::run(options, context),
        (Source::Wayland, _) => wayland::find(options, context)?.run(options, context),
        (Source::PipeWire, Some(node)) => pipewire::run(options, context, node, None),
        (Source::PipeWire, None) => run_mutter(options, context),
        (Source::Auto, node) => {
            let wayland = match wayland::find(options, context) {
                Ok(compositor) => return compositor.run(options, context),
                Err(error) => error,
            };
            if context.is_stopped() {
                return Ok(());
            }
            if let Some(node) = node {
                return pipewire::run(options, context, node, None);
            }
            match mutter::Cast::start(options, context) {
                Ok(cast) => pipewire::run(options, context, cast.node(), Some(&cast)),
                Err(mutter) => {
                    Err(CaptureError::NoDesktop { wayland: Box::new(wayland), mutter: Box::new(mutter) })
                }
            }
        }
    }
}

fn run_mutter(options: &CaptureOptions, context: &SourceContext) -> Result<(), CaptureError> {
    let cast = mutter::Cast::start(options, context)?;
    pipewire::run(options, context, cast.node(), Some(&cast))
}
