//! Serves a live H.264 stream to viewers.
//!
//! | module       | purpose                                                                   |
//! |--------------|---------------------------------------------------------------------------|
//! | [`hub`]      | caches the current GOP and distributes access units to bounded queues     |
//! | [`server`]   | HTTP and WebSocket: page, live streams, snapshot, status, metrics, probes |
//! | [`mp4`]      | muxes access units into fragmented MP4                                    |
//! | [`snapshot`] | decodes the newest picture to PNG                                         |
//! | [`cursor`]   | the desktop's cursor, drawn by the page                                   |
//! | [`sound`]    | distributes the desktop's sound                                           |
//!
//! A change of the frame path, the size or the encoder is a *discontinuity*: viewers stay connected and continue at the
//! next IDR.

pub mod cursor;
pub mod hub;
pub mod mp4;
pub mod server;
pub mod snapshot;
pub mod sound;

pub use cursor::{Cursor, CursorImage, CursorShape};
pub use hub::{Hub, HubOptions, Protocol, StreamInfo};
pub use server::auth::token::ViewerToken;
pub use server::{Server, ServerOptions};
pub use sound::{SoundHub, SoundPacket, SoundState};
