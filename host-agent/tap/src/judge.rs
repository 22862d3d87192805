//! Whether a request may have its picture: pure, and the only place that decides it.
//!
//! It knows what the host saw (tables) and what the guest claims (request), and believes the former.

use protocol::link::Context;
use protocol::mailbox::{FrameRequest, Status};

use crate::abi::{TARGET_2D, format_matches};
use crate::bucket::Limit;
use crate::reader::Job;
use crate::tables::Resource;

/// Frames per context: eight times the fastest screen.
pub const FRAMES: Limit = Limit::new(1000, 100);
/// Binds per context: a sidecar binds once per connection.
pub const BINDS: Limit = Limit::new(10, 10);
/// Binds per VM: each wakes the host-agent.
pub const VM_BINDS: Limit = Limit::new(50, 50);
/// Echoes per context: they cost nothing but their own time.
pub const ECHOES: Limit = Limit::new(10_000, 1000);

/// What to read for a frame request of `asker`, into a slot of `room` bytes.
pub fn frame(
    request: &FrameRequest,
    resource: Option<&Resource>,
    asker: Context,
    room: usize,
) -> Result<Job, Status> {
    let resource = resource.ok_or(Status::UnknownResource)?;
    let made = &resource.made;
    if resource.blob
        || made.target != TARGET_2D
        || made.nr_samples > 1
        || made.depth > 1
        || made.array_size > 1
    {
        return Err(Status::UnknownResource);
    }
    // Before anything else is told about it: whose is it?
    if !resource.is_attached(asker) {
        return Err(Status::NotAttached);
    }
    if !format_matches(made.format, request.format) {
        return Err(Status::BadFormat);
    }
    let (width, height) = (u32::from(request.width), u32::from(request.height));
    if (width, height) != (made.width, made.height) || !request.damage.fits(width, height) {
        return Err(Status::BadBox);
    }
    let job = Job { resource: made.handle, width, height, stride: 4 * width };
    if job.bytes() > room { Err(Status::TooLarge) } else { Ok(job) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::CreateArgs;
    use crate::tables::Resources;
    use protocol::{PixelFormat, Rect};

    const ASKER: Context = Context { id: 3, generation: 7 };
    const MADE: CreateArgs = CreateArgs {
        handle: 9,
        target: 2,
        format: 2,
        bind: 10,
        width: 640,
        height: 360,
        depth: 1,
        array_size: 1,
        last_level: 0,
        nr_samples: 0,
        flags: 0,
    };
    const ASKED: FrameRequest = FrameRequest {
        resource: 9,
        format: PixelFormat::Bgrx,
        width: 640,
        height: 360,
        stride: 2560,
        damage: Rect::full(640, 360),
        capture_ns: 1,
    };
    const ROOM: usize = 640 * 360 * 4;

    fn judge_blob(
        made: CreateArgs,
        request: FrameRequest,
        asker: Context,
        room: usize,
        blob: bool,
    ) -> Result<Job, Status> {
        let mut resources = Resources::default();
        resources.create(made, blob);
        resources.attach(9, ASKER, |_| true);
        frame(&request, resources.get(request.resource), asker, room)
    }

    fn judge(made: CreateArgs, asked: FrameRequest) -> Result<Job, Status> {
        judge_blob(made, asked, ASKER, ROOM, false)
    }

    #[test]
    fn the_owner_gets_the_whole_picture() {
        let job = Job { resource: 9, width: 640, height: 360, stride: 2560 };
        assert_eq!(judge(MADE, ASKED), Ok(job));
        assert_eq!(judge(CreateArgs { flags: 1, ..MADE }, ASKED), Ok(job));
        assert_eq!(judge(CreateArgs { nr_samples: 1, depth: 0, array_size: 0, ..MADE }, ASKED), Ok(job));
        // The guest's own idea of the stride is its own business.
        assert_eq!(judge(MADE, FrameRequest { stride: 1, ..ASKED }), Ok(job));
    }

    #[test]
    fn nobody_else_does() {
        for asker in [
            Context { id: 4, ..ASKER },
            Context { generation: 6, ..ASKER },
            Context { generation: 8, ..ASKER },
        ] {
            assert_eq!(judge_blob(MADE, ASKED, asker, ROOM, false), Err(Status::NotAttached));
        }
        // And learns nothing but that.
        let asked = FrameRequest { width: 1, format: PixelFormat::Rgba, ..ASKED };
        assert_eq!(judge_blob(MADE, asked, Context { id: 4, ..ASKER }, 0, false), Err(Status::NotAttached));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert_eq!(judge(MADE, FrameRequest { resource: 8, ..ASKED }), Err(Status::UnknownResource));
        assert_eq!(judge_blob(MADE, ASKED, ASKER, ROOM, true), Err(Status::UnknownResource));
        for made in [
            CreateArgs { target: 0, ..MADE },
            CreateArgs { target: 3, ..MADE },
            CreateArgs { nr_samples: 4, ..MADE },
            CreateArgs { depth: 2, ..MADE },
            CreateArgs { array_size: 6, ..MADE },
        ] {
            assert_eq!(judge(made, ASKED), Err(Status::UnknownResource), "{made:?}");
        }
        assert_eq!(judge_blob(MADE, ASKED, ASKER, ROOM - 1, false), Err(Status::TooLarge));
    }

    #[test]
    fn formats_match_by_their_bytes() {
        use PixelFormat::{Bgra, Bgrx, Nv12, Rgba, Rgbx};
        for (virgl, good) in [(1, [Bgra, Bgrx]), (2, [Bgra, Bgrx]), (67, [Rgba, Rgbx]), (134, [Rgba, Rgbx])] {
            for format in PixelFormat::ALL {
                let verdict = judge(CreateArgs { format: virgl, ..MADE }, FrameRequest { format, ..ASKED });
                let expected = if good.contains(&format) { None } else { Some(Status::BadFormat) };
                assert_eq!(verdict.err(), expected, "{virgl} {format:?}");
            }
        }
        assert_eq!(
            judge(CreateArgs { format: 64, ..MADE }, FrameRequest { format: Nv12, ..ASKED }),
            Err(Status::BadFormat)
        );
    }

    #[test]
    fn sizes_must_be_the_resources() {
        for asked in [
            FrameRequest { width: 641, ..ASKED },
            FrameRequest { width: 639, damage: Rect::full(1, 1), ..ASKED },
            FrameRequest { height: 361, ..ASKED },
            FrameRequest { damage: Rect { x: 1, ..ASKED.damage }, ..ASKED },
            FrameRequest { damage: Rect::full(0, 1), ..ASKED },
        ] {
            assert_eq!(judge(MADE, asked), Err(Status::BadBox), "{asked:?}");
        }
    }
}
