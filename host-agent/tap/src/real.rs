//! The real virglrenderer, found in the process that we were preloaded into.
//!
//! Nothing links against it: QEMU's GPU module brings it in when it is loaded itself, and a process
//! without it must not get it from us. Looked up once, at the first call, which can only come from
//! somebody who has it.

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

use crate::abi::{Box3, Callbacks, CreateArgs, CreateBlobArgs, IoVec};
use crate::reader::{Job, ReadError};
use crate::sys;

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// The functions; `None` for what this version lacks.
        #[derive(Debug)]
        pub(crate) struct Real {
            $(pub(crate) $field: Option<unsafe extern "C" fn($($arg),*) $(-> $ret)?>,)*
        }

        impl Real {
            fn look_up() -> Self {
                let library = sys::Originals::find();
                Self {
                    $($field: {
                        let symbol: *mut c_void = library.symbol($symbol);
                        // SAFETY: a data pointer and an optional function pointer have one size and
                        // null is None; the symbol, if there is one, is virglrenderer's function of
                        // that name, whose C signature is the one given below (virglrenderer.h 0.10.4,
                        // the same in 1.1.0); the library is never unloaded, because the handle that
                        // found it is never closed.
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
    resource_create = c"virgl_renderer_resource_create": fn(*mut CreateArgs, *mut IoVec, u32) -> c_int;
    resource_create_blob = c"virgl_renderer_resource_create_blob": fn(*const CreateBlobArgs) -> c_int;
    resource_unref = c"virgl_renderer_resource_unref": fn(u32);
    resource_attach_iov = c"virgl_renderer_resource_attach_iov": fn(c_int, *mut IoVec, c_int) -> c_int;
    resource_detach_iov = c"virgl_renderer_resource_detach_iov": fn(c_int, *mut *mut IoVec, *mut c_int);
    context_create = c"virgl_renderer_context_create": fn(u32, u32, *const c_char) -> c_int;
    context_create_with_flags = c"virgl_renderer_context_create_with_flags": fn(u32, u32, u32, *const c_char) -> c_int;
    context_destroy = c"virgl_renderer_context_destroy": fn(u32);
    ctx_attach_resource = c"virgl_renderer_ctx_attach_resource": fn(c_int, c_int);
    ctx_detach_resource = c"virgl_renderer_ctx_detach_resource": fn(c_int, c_int);
    transfer_read_iov = c"virgl_renderer_transfer_read_iov": fn(u32, u32, u32, u32, u32, *mut Box3, u64, *mut IoVec, c_int) -> c_int;
    transfer_write_iov = c"virgl_renderer_transfer_write_iov": fn(u32, u32, c_int, u32, u32, *mut Box3, u64, *mut IoVec, u32) -> c_int;
}

/// The real functions.
pub(crate) fn get() -> &'static Real {
    static REAL: OnceLock<Real> = OnceLock::new();
    REAL.get_or_init(Real::look_up)
}

impl Real {
    /// Reads a whole picture, on the thread that owns virglrenderer.
    pub(crate) fn read_picture(&self, job: &Job, out: &mut [u8]) -> Result<(), ReadError> {
        let (Some(force_ctx_0), Some(read)) = (self.force_ctx_0, self.transfer_read_iov) else {
            return Err(ReadError::Missing);
        };
        if out.len() < job.bytes() {
            return Err(ReadError::Refused(libc::ENOSPC));
        }
        let mut part = IoVec { base: out.as_mut_ptr().cast(), len: out.len() };
        let mut whole = Box3 { x: 0, y: 0, z: 0, w: job.width, h: job.height, d: 1 };
        // SAFETY: takes nothing; makes virglrenderer's own context current, on its own thread: only
        // the owner of the tables (hook.rs) reads pictures.
        unsafe { force_ctx_0() };
        // The stride must be explicit: with 0 virglrenderer takes the resource's, which may be wider.
        // SAFETY: the box and the one part live until the call returns; the part is `out`, which has
        // room for height rows of stride bytes (checked above), and virglrenderer checks the box
        // against the resource and the part's length itself.
        let refused = unsafe { read(job.resource, 0, 0, job.stride, 0, &raw mut whole, 0, &raw mut part, 1) };
        if refused == 0 { Ok(()) } else { Err(ReadError::Refused(refused)) }
    }
}
