//! Connects the capture of sound to the viewers that listen.

use std::path::Path;

use anyhow::Context as _;
use audio::{Audio, AudioOptions, Packet, Sink, State};
use contract::sidecar_status::AudioStatus;
use tokio::sync::watch;
use viewers::{SoundHub, SoundPacket, SoundState};

/// Publishes packets and states to viewers.
#[derive(Debug)]
struct ViewerSink(SoundHub);

impl Sink for ViewerSink {
    fn packet(&self, packet: Packet) {
        let Packet { seq, capture_ns, discontinuity, data } = packet;
        self.0.publish(&SoundPacket { seq, capture_ns, discontinuity, data });
    }

    fn state(&self, state: State) {
        let running = state == State::Running;
        let former = self.0.state().borrow().error.clone();
        let error = match state {
            State::Unavailable { reason } => {
                // Attempts repeat while a viewer listens; the log has each reason once.
                if reason != former {
                    tracing::info!(reason, "audio unavailable");
                }
                reason
            }
            // The reason of the last attempt stays until this one has a result.
            State::Connecting => former,
            State::Idle | State::Running => String::new(),
        };
        self.0.set_state(SoundState { running, error });
    }
}

/// Starts a hub whose sound is captured while a viewer listens. Must be called within a tokio runtime.
///
/// # Errors
/// The capture thread cannot be started.
pub fn start(runtime_dir: &Path) -> anyhow::Result<SoundHub> {
    let hub = SoundHub::default();
    let audio = Audio::start(AudioOptions::new(runtime_dir.to_owned()), ViewerSink(hub.clone()))
        .context("cannot start the audio thread")?;
    let mut wanted = hub.wanted();
    tokio::spawn(async move {
        // The sender lives as long as the hub, which the capture thread holds.
        while wanted.changed().await.is_ok() {
            audio.set_wanted(*wanted.borrow_and_update());
        }
    });
    Ok(hub)
}

/// Part of the sidecar's status; `None` if viewers may not listen.
pub fn status(state: Option<&watch::Receiver<SoundState>>) -> AudioStatus {
    state.map_or_else(AudioStatus::default, |state| {
        let SoundState { running, error } = state.borrow().clone();
        AudioStatus { output: true, running, error }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn desktop_without_pipewire_is_reported_while_a_viewer_listens() {
        let folder = tempfile::tempdir().expect("a folder");
        let hub = start(folder.path()).expect("started");
        let mut state = hub.state();
        assert_eq!(status(Some(&state)), AudioStatus { output: true, ..AudioStatus::default() });
        let listener = hub.listen();
        let reported = tokio::time::timeout(TIMEOUT, state.wait_for(|state| !state.error.is_empty())).await;
        let error = reported.expect("in time").expect("the hub lives").error.clone();
        assert!(error.contains("pipewire-0") && error.contains("run pipewire"), "{error}");
        drop(listener);
        let idle = tokio::time::timeout(TIMEOUT, state.wait_for(|state| state.error.is_empty())).await;
        assert!(idle.is_ok_and(|state| state.is_ok()));
        assert_eq!(status(None), AudioStatus::default());
    }
}
