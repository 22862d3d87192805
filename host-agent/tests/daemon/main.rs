//! The daemon as its peers see it: real sockets, real rings, real x264. Sidecars are played by
//! [`client`], taps by [`tap`]; everything waits for conditions, with a bound.

#![expect(clippy::panic, reason = "a peer that gets something else than it waits for fails its test")]

mod admission;
mod asleep;
mod client;
mod hxfr;
mod limits;
mod overhead;
mod pairing;
mod program;
mod rig;
mod streaming;
mod tap;
