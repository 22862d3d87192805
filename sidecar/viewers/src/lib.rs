//! Serves viewers: what an encoder made, wherever it runs, to everyone who watches.
//!
//! | module        | does                                                                        |
//! |---------------|-----------------------------------------------------------------------------|
//! | [`hub`]       | keeps the current GOP and fans access units out to bounded queues           |
//! | [`server`]    | HTTP and WebSocket: page, live streams, snapshot, status, health            |
//! | [`recording`] | writes a subscription to a fragmented MP4 file                              |
//! | [`mp4`]       | fragments of access units, as bytes                                         |
//! | [`snapshot`]  | decodes the current GOP's last picture to PNG                               |
//!
//! Nothing here knows which rung of the ladder made an access unit. Changing rung, size or encoder is a
//! *discontinuity*: viewers stay connected and go on at the next IDR.

pub mod hub;
pub mod mp4;
pub mod recording;
pub mod server;
pub mod snapshot;

pub use hub::{Hub, HubOptions, Protocol, StreamInfo};
pub use server::{Server, ServerOptions};
