//! A viewer's reception of the desktop's sound.

use axum::extract::ws::Message;
use encode::clock::clock_ns;
use tokio::sync::watch;

use super::session::text;
use super::wire::{self, ToViewer};
use crate::sound::{Listener, SoundHub, SoundState};

/// Messages about sound for one viewer.
#[derive(Debug)]
pub struct ViewerSound {
    hub: Option<SoundHub>,
    /// Whether the viewer listens.
    listens: watch::Receiver<bool>,
    state: Option<watch::Receiver<SoundState>>,
    listener: Option<Listener>,
}

impl ViewerSound {
    /// Sound of `hub`, and the sender of the viewer's wish to listen.
    pub fn new(hub: Option<SoundHub>) -> (watch::Sender<bool>, Self) {
        let (wish, listens) = watch::channel(false);
        let state = hub.as_ref().map(|hub| {
            let mut state = hub.state();
            state.mark_changed();
            state
        });
        (wish, Self { hub, listens, state, listener: None })
    }

    /// The next message: the state at first and after changes, and packets while the viewer listens. Never without sound.
    /// Cancel safe.
    pub async fn next(&mut self) -> Message {
        let Self { hub: Some(hub), listens, state: Some(state), listener } = self else {
            return std::future::pending().await;
        };
        loop {
            // The senders live as long as the connection and the hub.
            tokio::select! {
                biased;
                Ok(()) = listens.changed() => {
                    let listens = *listens.borrow_and_update();
                    if listens != listener.is_some() {
                        *listener = listens.then(|| hub.listen());
                    }
                }
                Ok(()) = state.changed() => {
                    let SoundState { running, error } = state.borrow_and_update().clone();
                    return text(&ToViewer::Sound { running, reason: &error });
                }
                packet = next_packet(listener.as_ref()) => {
                    return Message::Binary(wire::encode_sound(&packet, clock_ns()));
                }
            }
        }
    }
}

async fn next_packet(listener: Option<&Listener>) -> crate::sound::SoundPacket {
    match listener {
        Some(listener) => listener.next().await,
        None => std::future::pending().await,
    }
}
