//! The few functions of OpenGL ES 3.0 that the pattern is drawn with.
//!
//! Functions that take no pointers are safe to call: whatever their arguments, GL answers mistakes with
//! an error code, and without a current context it does nothing. Those that take pointers are wrapped
//! here in methods that check lengths. Nothing here knows what is drawn, or into what.

#![expect(unsafe_code, reason = "GL is a C library found at run time")]

use std::ffi::{CStr, c_char, c_void};

use khronos_egl::Image;
use memmap2::MmapRaw;

use crate::egl::GpuError;

pub const COLOR_ATTACHMENT0: u32 = 0x8ce0;
pub const COLOR_BUFFER_BIT: u32 = 0x4000;
pub const FRAMEBUFFER: u32 = 0x8d40;
pub const FRAMEBUFFER_COMPLETE: u32 = 0x8cd5;
pub const NO_ERROR: u32 = 0;
pub const RENDERBUFFER: u32 = 0x8d41;
pub const RGBA8: u32 = 0x8058;
pub const SCISSOR_TEST: u32 = 0x0c11;
pub const TEXTURE_2D: u32 = 0x0de1;
pub const TRIANGLES: u32 = 0x0004;
const FRAGMENT_SHADER: u32 = 0x8b30;
const LINK_STATUS: u32 = 0x8b82;
const RENDERER: u32 = 0x1f01;
const RGBA: u32 = 0x1908;
const UNSIGNED_BYTE: u32 = 0x1401;
const VERTEX_SHADER: u32 = 0x8b31;

/// Kinds of GL objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Framebuffer,
    Renderbuffer,
    Texture,
}

/// Makes the struct of function pointers and its loader from signatures of the GLES 3.0 specification.
macro_rules! functions {
    ($($field:ident = $symbol:literal: ($($function:tt)*);)*) => {
        /// The functions, for the context that was current when they were loaded.
        pub struct Gl { $(pub $field: $($function)*,)* }

        impl Gl {
            /// Looks the functions up by `find`.
            pub fn load(find: impl Fn(&str) -> Option<extern "system" fn()>) -> Result<Self, GpuError> {
                Ok(Self { $($field: {
                    let found = find($symbol).ok_or(GpuError::NoFunction($symbol))?;
                    // SAFETY: both are function pointers of this machine's C ABI, and the type is the
                    // one that the specification gives to this name. Those declared safe take no
                    // pointers: they can't be called so that they touch memory of ours.
                    unsafe { std::mem::transmute::<extern "system" fn(), $($function)*>(found) }
                },)* })
            }
        }
    };
}

functions! {
    bind_framebuffer = "glBindFramebuffer": (extern "C" fn(u32, u32));
    bind_renderbuffer = "glBindRenderbuffer": (extern "C" fn(u32, u32));
    bind_texture = "glBindTexture": (extern "C" fn(u32, u32));
    check_framebuffer = "glCheckFramebufferStatus": (extern "C" fn(u32) -> u32);
    clear = "glClear": (extern "C" fn(u32));
    clear_color = "glClearColor": (extern "C" fn(f32, f32, f32, f32));
    disable = "glDisable": (extern "C" fn(u32));
    draw_arrays = "glDrawArrays": (extern "C" fn(u32, i32, i32));
    enable = "glEnable": (extern "C" fn(u32));
    flush = "glFlush": (extern "C" fn());
    framebuffer_renderbuffer = "glFramebufferRenderbuffer": (extern "C" fn(u32, u32, u32, u32));
    framebuffer_texture = "glFramebufferTexture2D": (extern "C" fn(u32, u32, u32, u32, i32));
    get_error = "glGetError": (extern "C" fn() -> u32);
    renderbuffer_storage = "glRenderbufferStorage": (extern "C" fn(u32, u32, i32, i32));
    scissor = "glScissor": (extern "C" fn(i32, i32, i32, i32));
    uniform_2i = "glUniform2i": (extern "C" fn(i32, i32, i32));
    use_program = "glUseProgram": (extern "C" fn(u32));
    viewport = "glViewport": (extern "C" fn(i32, i32, i32, i32));
    attach_shader = "glAttachShader": (extern "C" fn(u32, u32));
    compile_shader = "glCompileShader": (extern "C" fn(u32));
    create_program = "glCreateProgram": (extern "C" fn() -> u32);
    create_shader = "glCreateShader": (extern "C" fn(u32) -> u32);
    delete_shader = "glDeleteShader": (extern "C" fn(u32));
    link_program = "glLinkProgram": (extern "C" fn(u32));
    delete_framebuffers = "glDeleteFramebuffers": (unsafe extern "C" fn(i32, *const u32));
    delete_renderbuffers = "glDeleteRenderbuffers": (unsafe extern "C" fn(i32, *const u32));
    delete_textures = "glDeleteTextures": (unsafe extern "C" fn(i32, *const u32));
    gen_framebuffers = "glGenFramebuffers": (unsafe extern "C" fn(i32, *mut u32));
    gen_renderbuffers = "glGenRenderbuffers": (unsafe extern "C" fn(i32, *mut u32));
    gen_textures = "glGenTextures": (unsafe extern "C" fn(i32, *mut u32));
    get_program = "glGetProgramiv": (unsafe extern "C" fn(u32, u32, *mut i32));
    get_program_log = "glGetProgramInfoLog": (unsafe extern "C" fn(u32, i32, *mut i32, *mut c_char));
    get_string = "glGetString": (unsafe extern "C" fn(u32) -> *const c_char);
    image_target = "glEGLImageTargetTexture2DOES": (unsafe extern "C" fn(u32, *mut c_void));
    read_pixels = "glReadPixels": (unsafe extern "C" fn(i32, i32, i32, i32, u32, u32, *mut c_void));
    shader_source = "glShaderSource": (unsafe extern "C" fn(u32, i32, *const *const c_char, *const i32));
    uniform_location = "glGetUniformLocation": (unsafe extern "C" fn(u32, *const c_char) -> i32);
    uniform_4uiv = "glUniform4uiv": (unsafe extern "C" fn(i32, i32, *const u32));
}

impl Gl {
    /// A new name of that kind.
    pub fn generate(&self, kind: Kind) -> u32 {
        let generate = match kind {
            Kind::Framebuffer => self.gen_framebuffers,
            Kind::Renderbuffer => self.gen_renderbuffers,
            Kind::Texture => self.gen_textures,
        };
        let mut name = 0;
        // SAFETY: all three write as many names as asked: one, and there is room for it.
        unsafe { generate(1, &raw mut name) };
        name
    }

    /// Gives a name of that kind back.
    pub fn delete(&self, kind: Kind, name: u32) {
        let delete = match kind {
            Kind::Framebuffer => self.delete_framebuffers,
            Kind::Renderbuffer => self.delete_renderbuffers,
            Kind::Texture => self.delete_textures,
        };
        // SAFETY: all three read as many names as told: one.
        unsafe { delete(1, &raw const name) };
    }

    /// What GL calls itself, e.g. `virgl (LLVMPIPE …)`.
    pub fn renderer(&self) -> String {
        // SAFETY: takes no pointer of ours.
        let text = unsafe { (self.get_string)(RENDERER) };
        if text.is_null() {
            return String::from("unknown");
        }
        // SAFETY: not null, hence a static, terminated string (GLES 3.0, section 6.1.5).
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// Compiles and links a program.
    pub fn program(&self, vertex: &str, fragment: &str) -> Result<u32, GpuError> {
        let program = (self.create_program)();
        for (kind, source) in [(VERTEX_SHADER, vertex), (FRAGMENT_SHADER, fragment)] {
            let shader = (self.create_shader)(kind);
            let (text, len) = (source.as_ptr().cast(), source.len() as i32);
            // SAFETY: one text of the given length; GL copies it before it returns.
            unsafe { (self.shader_source)(shader, 1, &raw const text, &raw const len) };
            (self.compile_shader)(shader);
            (self.attach_shader)(program, shader);
            (self.delete_shader)(shader);
        }
        (self.link_program)(program);
        let mut linked = 0;
        // SAFETY: this parameter is one integer.
        unsafe { (self.get_program)(program, LINK_STATUS, &raw mut linked) };
        if linked != 0 {
            return Ok(program);
        }
        let mut log = vec![0u8; 2048];
        let mut len = 0;
        // SAFETY: writes at most as many bytes as told, and how many to `len`.
        unsafe { (self.get_program_log)(program, log.len() as i32, &raw mut len, log.as_mut_ptr().cast()) };
        log.truncate(len as usize);
        Err(GpuError::Shader(String::from_utf8_lossy(&log).into_owned()))
    }

    /// Where a uniform of `program` is.
    pub fn uniform(&self, program: u32, name: &CStr) -> i32 {
        // SAFETY: a terminated string.
        unsafe { (self.uniform_location)(program, name.as_ptr()) }
    }

    /// Sets an array of `uvec4`.
    pub fn set_uvec4(&self, location: i32, values: &[[u32; 4]]) {
        // SAFETY: reads that many times four integers.
        unsafe { (self.uniform_4uiv)(location, values.len() as i32, values.as_ptr().cast()) };
    }

    /// Makes the bound 2D texture show an image.
    pub fn show_image(&self, image: Image) {
        // SAFETY: an `Image` was made by EGL; a destroyed one is answered with an error.
        unsafe { (self.image_target)(TEXTURE_2D, image.as_ptr()) };
    }

    /// Reads the bound framebuffer as tightly packed R, G, B, A. False when `into` is too small.
    pub fn read_into(&self, width: u32, height: u32, into: &mut [u8]) -> bool {
        let fits = into.len() >= bytes(width, height);
        if fits {
            // SAFETY: GL writes `bytes(width, height)` bytes, rows packed (PACK_ALIGNMENT 4 divides them).
            unsafe { self.read_raw(width, height, into.as_mut_ptr().cast()) };
        }
        fits
    }

    /// Like [`Gl::read_into`], into memory that is shared with another process.
    pub fn read_into_shared(&self, width: u32, height: u32, into: &MmapRaw) -> bool {
        let fits = into.len() >= bytes(width, height);
        if fits {
            // SAFETY: the mapping has room. It is never seen through a reference, so the other process
            // may write to it meanwhile. That its file doesn't shrink is up to who mapped it.
            unsafe { self.read_raw(width, height, into.as_mut_ptr().cast()) };
        }
        fits
    }

    /// # Safety
    /// There must be room for `bytes(width, height)` bytes at `into`.
    unsafe fn read_raw(&self, width: u32, height: u32, into: *mut c_void) {
        // SAFETY: the caller's promise.
        unsafe { (self.read_pixels)(0, 0, width as i32, height as i32, RGBA, UNSIGNED_BYTE, into) };
    }
}

const fn bytes(width: u32, height: u32) -> usize {
    4 * width as usize * height as usize
}
