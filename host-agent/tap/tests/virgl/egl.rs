//! GL contexts for virglrenderer: EGL on Mesa's surfaceless platform, as C callbacks.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use khronos_egl as egl;

type Instance = egl::DynamicInstance<egl::EGL1_5>;

struct Display {
    egl: Instance,
    handle: egl::Display,
    config: egl::Config,
    /// Never current; all other contexts share its objects.
    shared: egl::Context,
}

// SAFETY: the fields are handles of the process, which any thread may pass to EGL (EGL 1.5, section 2.2).
unsafe impl Send for Display {}
// SAFETY: as for Send; EGL calls that take the handles are thread-safe.
unsafe impl Sync for Display {}

/// `EGL_PLATFORM_SURFACELESS_MESA` (EGL_MESA_platform_surfaceless).
const SURFACELESS: egl::Enum = 0x31DD;

fn display() -> &'static Display {
    static DISPLAY: OnceLock<Display> = OnceLock::new();
    DISPLAY.get_or_init(|| {
        // SAFETY: the loaded library is the system's libEGL, whose constructors may run at any time.
        let egl = unsafe { Instance::load_required() }.expect("libEGL.so.1: install libegl1");
        // SAFETY: the surfaceless platform has no native display; the attribute list ends with NONE.
        let display =
            unsafe { egl.get_platform_display(SURFACELESS, egl::DEFAULT_DISPLAY, &[egl::ATTRIB_NONE]) };
        let display = display.expect("Mesa's surfaceless platform");
        egl.initialize(display).expect("eglInitialize");
        egl.bind_api(egl::OPENGL_API).expect("desktop GL");
        let wanted = [egl::SURFACE_TYPE, egl::PBUFFER_BIT, egl::RENDERABLE_TYPE, egl::OPENGL_BIT, egl::NONE];
        let config = egl.choose_first_config(display, &wanted).expect("configs").expect("a config");
        let version = [egl::CONTEXT_MAJOR_VERSION, 4, egl::CONTEXT_MINOR_VERSION, 5, egl::NONE];
        let shared = egl.create_context(display, config, None, &version).expect("GL 4.5");
        Display { egl, handle: display, config, shared }
    })
}

/// `struct virgl_renderer_gl_ctx_param`.
#[repr(C)]
pub struct ContextParameters {
    version: c_int,
    shared: bool,
    major: c_int,
    minor: c_int,
}

pub extern "C" fn create(_: *mut c_void, _: c_int, parameters: *const ContextParameters) -> *mut c_void {
    let Display { egl, handle, config, shared } = display();
    // SAFETY: virglrenderer passes a valid structure that outlives the call.
    let parameters = unsafe { &*parameters };
    let attributes = [
        egl::CONTEXT_MAJOR_VERSION,
        parameters.major,
        egl::CONTEXT_MINOR_VERSION,
        parameters.minor,
        egl::CONTEXT_OPENGL_PROFILE_MASK,
        egl::CONTEXT_OPENGL_CORE_PROFILE_BIT,
        egl::NONE,
    ];
    let context = egl.create_context(*handle, *config, Some(*shared), &attributes);
    context.map_or(std::ptr::null_mut(), |context| context.as_ptr())
}

pub extern "C" fn destroy(_: *mut c_void, context: *mut c_void) {
    let Display { egl, handle, .. } = display();
    // SAFETY: the pointer is a context that `create` returned and that was not destroyed before.
    let context = unsafe { egl::Context::from_ptr(context) };
    let _gone = egl.destroy_context(*handle, context);
}

pub extern "C" fn make_current(_: *mut c_void, _: c_int, context: *mut c_void) -> c_int {
    let Display { egl, handle, .. } = display();
    // SAFETY: not null (checked), so it is a context that `create` returned.
    let context = (!context.is_null()).then(|| unsafe { egl::Context::from_ptr(context) });
    egl.make_current(*handle, None, None, context).map_or(-1, |()| 0)
}
