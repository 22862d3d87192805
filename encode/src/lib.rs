//! Video encoders behind one trait, and what both programs need of the H.264 byte stream.
//!
//! host-agent encodes what the tap read; the sidecar encodes on rung `Local`. An encoder takes pictures
//! and gives access units, one for one, in order. It knows nothing of sessions, sockets or VMs.

pub mod encoder;

pub use encoder::{EncodeError, Encoder, Output, Picture, Settings, Sink};
