//! The daemon as its peers see it: real sockets, real rings, real encoders. [`client`] plays sidecars,
//! [`tap`] plays taps. Tests wait for conditions, with a timeout.

#![expect(clippy::panic, reason = "an unexpected message fails the test")]

mod admission;
mod binding;
mod client;
mod exhaustion;
mod hxfr;
mod lease;
mod limits;
mod overhead;
mod pairing;
mod program;
mod rig;
mod streaming;
mod suspension;
mod tap;
mod tls;
