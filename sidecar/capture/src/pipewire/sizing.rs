//! Size of a virtual monitor of Mutter: that of the stream's format.

use contract::display::{DisplaySize, SizePolicy};

use super::stream::Stream;
use crate::CaptureOptions;
use crate::error::CaptureError;
use crate::mutter::Cast;
use crate::resizer::Resizer;
use crate::source_context::SourceContext;

/// Applies the requested sizes to the stream of a virtual monitor.
pub struct Sizing<'a> {
    resizer: &'a Resizer,
    /// Cast of the virtual monitor; `None` if the stream's size is fixed.
    cast: Option<&'a Cast>,
    /// Size of a virtual monitor before one is asked for.
    initial: (u32, u32),
    /// Size that was offered last.
    offered: Option<DisplaySize>,
}

impl<'a> Sizing<'a> {
    /// Sizing of the stream of `cast`.
    pub fn new(options: &CaptureOptions, context: &'a SourceContext, cast: Option<&'a Cast>) -> Self {
        let resizer = context.resizer();
        let cast = cast.filter(|cast| cast.is_virtual());
        if cast.is_none() && options.size == SizePolicy::FollowViewer {
            resizer.failed(
                "the size of a PipeWire node cannot be changed: capture GNOME Shell or a wlroots compositor",
            );
        }
        if cast.is_some_and(Cast::has_other_monitors) {
            resizer.failed("the shell has a monitor of its own: start it without --virtual-monitor");
        }
        let initial = options.initial_size;
        let mut sizing = Self { resizer, cast, initial, offered: None };
        sizing.offered = sizing.wanted();
        sizing
    }

    /// Size to offer first; all sizes if `None`.
    pub fn initial(&self) -> Option<(u32, u32)> {
        let cast = self.cast?;
        let Some(size) = self.offered else { return Some(self.initial) };
        cast.set_scale(size.scale());
        Some((size.width(), size.height()))
    }

    /// Offers another size if one is wanted.
    pub fn update(&mut self, stream: &Stream) -> Result<(), CaptureError> {
        let Some((size, cast)) = self.wanted().zip(self.cast) else { return Ok(()) };
        if self.offered != Some(size) {
            self.offered = Some(size);
            stream.resize((size.width(), size.height()))?;
            cast.set_scale(size.scale());
        }
        Ok(())
    }

    fn wanted(&self) -> Option<DisplaySize> {
        self.cast.and_then(|_| self.resizer.wanted()).map(|wanted| wanted.size)
    }
}
