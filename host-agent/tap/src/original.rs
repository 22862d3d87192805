//! The original virglrenderer functions, found in the host process.
//!
//! The tap does not link against virglrenderer: QEMU's GPU module loads it, and a process without it must
//! not get it from the tap. The functions are looked up once, at the first intercepted call, when the
//! library is loaded.

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

use crate::abi::{Callbacks, CreateArgs, CreateBlobArgs, VirglBox, iovec};
use crate::reader::{Job, ReadError};
use crate::sys;

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// The original functions; `None` for one that this version lacks.
        #[derive(Debug)]
        pub(crate) struct Original {
            $(pub(crate) $field: Option<unsafe extern "C" fn($($arg),*) $(-> $ret)?>,)*
        }

        impl Original {
            fn look_up() -> Self {
                let library = sys::Originals::find();
                Self {
                    $($field: {
                        let symbol: *mut c_void = library.symbol($symbol);
                        // SAFETY:
                        // - layout: a data pointer and an optional function pointer have the same size
                        //   on every POSIX system (dlsym), and null is `None`.
                        // - signature: the symbol is virglrenderer's function of that name, declared
                        //   below as in virglrenderer.h 0.10.4 and 1.1.0.
                        // - lifetime: the handle that found it is never closed, so the library stays
                        //   loaded.
                        unsafe { std::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn($($arg),*) $(-> $ret)?>>(symbol) }
                    },)*
                }
            }
        }
    };
}

functions! {
    init = c"virgl_renderer_init": fn(*mut c_void, c_int, *mut Callbacks) -> c_int;
    cleanup = c"virgl_renderer_cleanup": fn(*mut c_void);
    reset = c"virgl_renderer_reset": fn();
    force_ctx_0 = c"virgl_renderer_force_ctx_0": fn();
    resource_create = c"virgl_renderer_resource_create": fn(*mut CreateArgs, *mut iovec, u32) -> c_int;
    resource_create_blob = c"virgl_renderer_resource_create_blob": fn(*const CreateBlobArgs) -> c_int;
    resource_unref = c"virgl_renderer_resource_unref": fn(u32);
    resource_attach_iov = c"virgl_renderer_resource_attach_iov": fn(c_int, *mut iovec, c_int) -> c_int;
    resource_detach_iov = c"virgl_renderer_resource_detach_iov": fn(c_int, *mut *mut iovec, *mut c_int);
    context_create = c"virgl_renderer_context_create": fn(u32, u32, *const c_char) -> c_int;
    context_create_with_flags = c"virgl_renderer_context_create_with_flags": fn(u32, u32, u32, *const c_char) -> c_int;
    context_destroy = c"virgl_renderer_context_destroy": fn(u32);
    ctx_attach_resource = c"virgl_renderer_ctx_attach_resource": fn(c_int, c_int);
    ctx_detach_resource = c"virgl_renderer_ctx_detach_resource": fn(c_int, c_int);
    transfer_read_iov = c"virgl_renderer_transfer_read_iov": fn(u32, u32, u32, u32, u32, *mut VirglBox, u64, *mut iovec, c_int) -> c_int;
    transfer_write_iov = c"virgl_renderer_transfer_write_iov": fn(u32, u32, c_int, u32, u32, *mut VirglBox, u64, *mut iovec, u32) -> c_int;
}

/// The original functions.
pub(crate) fn get() -> &'static Original {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    ORIGINAL.get_or_init(Original::look_up)
}

impl Original {
    /// Reads a whole resource into `out`. Must be called on virglrenderer's thread.
    ///
    /// # Errors
    /// If this virglrenderer lacks the function, `out` is too short, or virglrenderer refuses.
    pub(crate) fn read_resource(&self, job: &Job, out: &mut [u8]) -> Result<(), ReadError> {
        let (Some(force_ctx_0), Some(read)) = (self.force_ctx_0, self.transfer_read_iov) else {
            return Err(ReadError::Missing);
        };
        if out.len() < job.bytes() {
            return Err(ReadError::Refused(libc::ENOSPC));
        }
        let mut part = iovec { iov_base: out.as_mut_ptr().cast(), iov_len: out.len() };
        let mut whole = VirglBox { x: 0, y: 0, z: 0, w: job.width, h: job.height, d: 1 };
        // SAFETY: no arguments. The function must be called on virglrenderer's thread, which is the owner
        // of the recorded state, the only thread that reads (hook.rs).
        unsafe { force_ctx_0() };
        // With stride 0 virglrenderer would use the resource's own, which may be wider.
        // SAFETY:
        // - `whole` and the one entry `part` are locals that outlive the call.
        // - `part` describes `out`, which has room for `height` rows of `stride` bytes (checked); the
        //   function writes no more than the box at that stride, and checks the box against the resource.
        // - thread: as for force_ctx_0.
        let status = unsafe { read(job.resource, 0, 0, job.stride, 0, &raw mut whole, 0, &raw mut part, 1) };
        if status == 0 { Ok(()) } else { Err(ReadError::Refused(status)) }
    }
}
