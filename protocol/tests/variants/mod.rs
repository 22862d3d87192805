//! Names of all variants of the protocol's enumerations. A new variant does not compile until it is
//! listed here, and once it is listed the golden tests fail until it has a vector.

use protocol::PixelFormat;
use protocol::hxfr;
use protocol::link::{FromTap, ToTap};
use protocol::mailbox::{Operation, Status};
use protocol::stream::{ClientMessage, Codec, ErrorCode, Path, ServerMessage};

/// An enumeration with a list of its variants.
pub trait Variants {
    const NAMES: &[&str];
    fn name(&self) -> &'static str;
}

macro_rules! variants {
    ($type:ty { $($pattern:pat => $name:literal),+ $(,)? }) => {
        impl Variants for $type {
            const NAMES: &[&str] = &[$($name),+];
            fn name(&self) -> &'static str {
                match self { $($pattern => $name),+ }
            }
        }
    };
}

variants!(ClientMessage {
    Self::Hello { .. } => "Hello",
    Self::Configure(_) => "Configure",
    Self::Pixels(_) => "Pixels",
    Self::RequestKeyframe => "RequestKeyframe",
    Self::Renew { .. } => "Renew",
    Self::Ping(_) => "Ping",
    Self::Bye => "Bye",
});
variants!(ServerMessage {
    Self::HelloAck { .. } => "HelloAck",
    Self::Bound { .. } => "Bound",
    Self::Unbound { .. } => "Unbound",
    Self::Configured { .. } => "Configured",
    Self::AccessUnit(_) => "AccessUnit",
    Self::Dropped { .. } => "Dropped",
    Self::Error { .. } => "Error",
    Self::Pong(_) => "Pong",
});
variants!(Path { Self::ResourceId => "ResourceId", Self::Pixels => "Pixels" });
variants!(Codec { Self::H264 => "H264", Self::Hevc => "Hevc" });
variants!(ErrorCode {
    Self::Protocol => "Protocol",
    Self::Version => "Version",
    Self::BadToken => "BadToken",
    Self::ExpiredToken => "ExpiredToken",
    Self::Capacity => "Capacity",
    Self::Encoder => "Encoder",
    Self::Replaced => "Replaced",
    Self::ShuttingDown => "ShuttingDown",
    Self::RateLimited => "RateLimited",
});
variants!(Operation {
    Self::Echo => "Echo",
    Self::Bind(_) => "Bind",
    Self::Frame(_) => "Frame",
});
variants!(Status {
    Self::Ok => "Ok",
    Self::BadRequest => "BadRequest",
    Self::UnknownResource => "UnknownResource",
    Self::NotAttached => "NotAttached",
    Self::NotBound => "NotBound",
    Self::BadFormat => "BadFormat",
    Self::BadBox => "BadBox",
    Self::RateLimited => "RateLimited",
    Self::ReadFailed => "ReadFailed",
    Self::Disabled => "Disabled",
    Self::NoHostAgent => "NoHostAgent",
    Self::TooLarge => "TooLarge",
});
variants!(FromTap {
    Self::Hello { .. } => "Hello",
    Self::Bind { .. } => "Bind",
    Self::ContextGone(_) => "ContextGone",
    Self::Stats(_) => "Stats",
    Self::RingReady { .. } => "RingReady",
    Self::RingRefused { .. } => "RingRefused",
});
variants!(ToTap {
    Self::HelloAck { .. } => "HelloAck",
    Self::Attach { .. } => "Attach",
    Self::Detach { .. } => "Detach",
    Self::Expect(_) => "Expect",
    Self::Forget(_) => "Forget",
});
variants!(PixelFormat {
    Self::Bgrx => "Bgrx",
    Self::Bgra => "Bgra",
    Self::Rgbx => "Rgbx",
    Self::Rgba => "Rgba",
    Self::Nv12 => "Nv12",
});
variants!(hxfr::Request {
    Self::Frame(_) => "Frame",
    Self::Keyframe => "Keyframe",
    Self::Config(_) => "Config",
    Self::Ping => "Ping",
});
variants!(hxfr::Reply {
    Self::Frame { .. } => "Frame",
    Self::Configured => "Configured",
    Self::Pong => "Pong",
    Self::Error { .. } => "Error",
});
