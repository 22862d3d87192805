//! Which source to run, and what to do when it ends: start over, at first at once, then ever more slowly.
//!
//! The sidecar is up before its desktop and outlives it, so "not there" is the normal case, and a desktop
//! that died comes back in the same folder. It does not know how any source works.

use std::time::{Duration, Instant};

use super::error::CaptureError;
use super::outlet::Outlet;
use super::{CaptureOptions, Source, mutter, pipewire, testpattern, wayland};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Runs until told to stop.
pub fn run(options: &CaptureOptions, outlet: &Outlet) {
    let mut pause = FIRST_PAUSE;
    while !outlet.stopped() {
        let before = outlet.delivered();
        let Err(error) = attempt(options, outlet) else { break };
        if outlet.delivered() > before {
            pause = FIRST_PAUSE;
        }
        tracing::debug!(%error, ?pause, "capture");
        outlet.lost(error);
        rest(outlet, pause);
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Waits, but not longer than until it is told to stop.
fn rest(outlet: &Outlet, pause: Duration) {
    let end = Instant::now() + pause;
    while !outlet.stopped() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || outlet.bell().wait(None, left).is_err() {
            return;
        }
    }
}

/// Runs one source until it fails, or is told to stop (`Ok`).
fn attempt(options: &CaptureOptions, outlet: &Outlet) -> Result<(), CaptureError> {
    match (options.source, options.pipewire_node) {
        (Source::TestPattern, _) => testpattern::run(options, outlet),
        (Source::Wayland, _) => wayland::find(options, outlet)?.run(options, outlet),
        (Source::PipeWire, Some(node)) => pipewire::run(options, outlet, node, None),
        (Source::PipeWire, None) => with_mutter(options, outlet),
        (Source::Auto, node) => {
            let no_wayland = match wayland::find(options, outlet) {
                Ok(compositor) => return compositor.run(options, outlet),
                Err(error) => error,
            };
            if outlet.stopped() {
                return Ok(());
            }
            if let Some(node) = node {
                return pipewire::run(options, outlet, node, None);
            }
            match mutter::Cast::start(options, outlet) {
                Ok(cast) => pipewire::run(options, outlet, cast.node(), Some(&cast)),
                Err(no_mutter) => {
                    Err(CaptureError::NoDesktop { tried: format!("{no_wayland}; {no_mutter}") })
                }
            }
        }
    }
}

fn with_mutter(options: &CaptureOptions, outlet: &Outlet) -> Result<(), CaptureError> {
    let cast = mutter::Cast::start(options, outlet)?;
    pipewire::run(options, outlet, cast.node(), Some(&cast))
}
