//! The daemon as its peers see it: real sockets, real rings, real x264. Sidecars are played by
//! [`client`], taps by [`tap`]; everything waits for conditions, with a bound.

mod admission;
mod client;
mod limits;
mod overhead;
mod pairing;
mod program;
mod rig;
mod streaming;
mod tap;
