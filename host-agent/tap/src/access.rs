//! Access control for frame requests. Pure, and the only place that decides whether a context may read a
//! resource.
//!
//! The decision is made on what the host recorded ([`tables`](crate::tables)); the guest's request only
//! selects, and every field of it is compared with the recorded value.

use protocol::link::Context;
use protocol::mailbox::{FrameRequest, Status};
use protocol::pixel::MAX_SIDE;
use protocol::rate::RateLimit;

use crate::abi::{CreateArgs, PIPE_TEXTURE_2D, format_matches, has_pixel_format};
use crate::reader::Job;
use crate::tables::Resource;

/// Frames per context: a multiple of the highest frame rate (240 Hz).
pub const FRAMES: RateLimit = RateLimit::new(1000, 100);
/// Binds with the nonce of a session, per context and per session: a sidecar binds once per connection to
/// the host-agent.
pub const BINDS: RateLimit = RateLimit::new(10, 10);
/// Binds with another nonce, per context. A sidecar sends one if its bind overtakes the host-agent's message
/// about its session.
pub const GUESSES: RateLimit = RateLimit::new(1, 3);
/// Binds with another nonce, per VM: each one wakes the host-agent. Contexts that guess take them from each
/// other and not from those that know a nonce.
pub const VM_GUESSES: RateLimit = RateLimit::new(20, 20);
/// Echoes per context: an echo costs only its own time.
pub const ECHOES: RateLimit = RateLimit::new(10_000, 1000);

/// True if a resource can be read as a frame: a plain 2D texture in a pixel format of the protocol.
pub fn is_readable(args: &CreateArgs) -> bool {
    let sides = 1..=MAX_SIDE;
    args.target == PIPE_TEXTURE_2D
        && has_pixel_format(args.format)
        && sides.contains(&args.width)
        && sides.contains(&args.height)
        && args.nr_samples <= 1
        && args.depth <= 1
        && args.array_size <= 1
}

/// Checks a frame request of context `requester`. `slot_bytes` is the size of the session's ring slots.
///
/// # Errors
/// The status for the answer. Ownership is checked before format and size, so a context learns nothing
/// about resources of others.
pub fn check_frame(
    request: &FrameRequest,
    resource: Option<&Resource>,
    requester: Context,
    slot_bytes: usize,
) -> Result<Job, Status> {
    let resource = resource.ok_or(Status::UnknownResource)?;
    let args = &resource.args;
    if !is_readable(args) {
        return Err(Status::UnknownResource);
    }
    if !resource.is_attached(requester) {
        return Err(Status::NotAttached);
    }
    if !format_matches(args.format, request.format) {
        return Err(Status::BadFormat);
    }
    let (width, height) = (u32::from(request.width), u32::from(request.height));
    if (width, height) != (args.width, args.height) || !request.damage.fits(width, height) {
        return Err(Status::BadBox);
    }
    let job = Job { resource: args.handle, width, height, stride: 4 * width };
    if job.bytes() > slot_bytes { Err(Status::TooLarge) } else { Ok(job) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{FORMAT_B8G8R8A8, FORMAT_B8G8R8X8, FORMAT_R8G8B8A8, FORMAT_R8G8B8X8};
    use crate::tables::Resources;
    use protocol::{PixelFormat, Rect};

    const OWNER: Context = Context { id: 3, generation: 7 };
    const ARGS: CreateArgs = CreateArgs {
        handle: 9,
        target: PIPE_TEXTURE_2D,
        format: FORMAT_B8G8R8X8,
        bind: 10,
        width: 640,
        height: 360,
        depth: 1,
        array_size: 1,
        last_level: 0,
        nr_samples: 0,
        flags: 0,
    };
    const REQUEST: FrameRequest = FrameRequest {
        resource: 9,
        format: PixelFormat::Bgrx,
        width: 640,
        height: 360,
        stride: 2560,
        damage: Rect::full(640, 360),
        capture_ns: 1,
    };
    const SLOT_BYTES: usize = 640 * 360 * 4;

    fn check_with(
        args: CreateArgs,
        request: FrameRequest,
        requester: Context,
        slot_bytes: usize,
    ) -> Result<Job, Status> {
        let mut resources = Resources::default();
        resources.create(args);
        resources.attach(9, OWNER, |_| true);
        check_frame(&request, resources.get(request.resource), requester, slot_bytes)
    }

    fn check(args: CreateArgs, request: FrameRequest) -> Result<Job, Status> {
        check_with(args, request, OWNER, SLOT_BYTES)
    }

    #[test]
    fn owner_reads_the_whole_resource() {
        let job = Job { resource: 9, width: 640, height: 360, stride: 2560 };
        assert_eq!(check(ARGS, REQUEST), Ok(job));
        assert_eq!(check(CreateArgs { flags: 1, ..ARGS }, REQUEST), Ok(job));
        assert_eq!(check(CreateArgs { nr_samples: 1, depth: 0, array_size: 0, ..ARGS }, REQUEST), Ok(job));
        // The guest's stride is informational.
        assert_eq!(check(ARGS, FrameRequest { stride: 1, ..REQUEST }), Ok(job));
    }

    #[test]
    fn context_that_does_not_hold_the_resource_is_refused() {
        for requester in [
            Context { id: 4, ..OWNER },
            Context { generation: 6, ..OWNER },
            Context { generation: 8, ..OWNER },
        ] {
            assert_eq!(check_with(ARGS, REQUEST, requester, SLOT_BYTES), Err(Status::NotAttached));
        }
        // The answer is the same whatever the resource's size and format are.
        let request = FrameRequest { width: 1, format: PixelFormat::Rgba, ..REQUEST };
        let other = Context { id: 4, ..OWNER };
        assert_eq!(check_with(ARGS, request, other, 0), Err(Status::NotAttached));
    }

    #[test]
    fn resource_that_is_not_a_plain_texture_is_refused() {
        assert_eq!(check(ARGS, FrameRequest { resource: 8, ..REQUEST }), Err(Status::UnknownResource));
        for args in [
            CreateArgs { target: 0, ..ARGS },
            CreateArgs { target: 3, ..ARGS },
            CreateArgs { nr_samples: 4, ..ARGS },
            CreateArgs { depth: 2, ..ARGS },
            CreateArgs { array_size: 6, ..ARGS },
            CreateArgs { format: 64, ..ARGS },
            CreateArgs { width: 0, ..ARGS },
            CreateArgs { height: MAX_SIDE + 1, ..ARGS },
        ] {
            assert_eq!(check(args, REQUEST), Err(Status::UnknownResource), "{args:?}");
        }
    }

    #[test]
    fn frame_larger_than_the_slot_is_refused() {
        assert_eq!(check_with(ARGS, REQUEST, OWNER, SLOT_BYTES - 1), Err(Status::TooLarge));
    }

    #[test]
    fn format_with_another_byte_order_is_refused() {
        use PixelFormat::{Bgra, Bgrx, Nv12, Rgba, Rgbx};
        for (virgl, accepted) in [
            (FORMAT_B8G8R8A8, [Bgra, Bgrx]),
            (FORMAT_B8G8R8X8, [Bgra, Bgrx]),
            (FORMAT_R8G8B8A8, [Rgba, Rgbx]),
            (FORMAT_R8G8B8X8, [Rgba, Rgbx]),
        ] {
            for format in PixelFormat::ALL {
                let result = check(CreateArgs { format: virgl, ..ARGS }, FrameRequest { format, ..REQUEST });
                let expected = if accepted.contains(&format) { None } else { Some(Status::BadFormat) };
                assert_eq!(result.err(), expected, "{virgl} {format:?}");
            }
        }
        assert_eq!(check(ARGS, FrameRequest { format: Nv12, ..REQUEST }), Err(Status::BadFormat));
    }

    #[test]
    fn size_that_differs_from_the_resource_is_refused() {
        for request in [
            FrameRequest { width: 641, ..REQUEST },
            FrameRequest { width: 639, damage: Rect::full(1, 1), ..REQUEST },
            FrameRequest { height: 361, ..REQUEST },
            FrameRequest { damage: Rect { x: 1, ..REQUEST.damage }, ..REQUEST },
            FrameRequest { damage: Rect::full(0, 1), ..REQUEST },
        ] {
            assert_eq!(check(ARGS, request), Err(Status::BadBox), "{request:?}");
        }
    }
}
