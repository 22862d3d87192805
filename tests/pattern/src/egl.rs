//! A GL context without a window: on a GPU's render node by GBM, or in software.
//!
//! One [`Egl`] per process, its context stays current on the thread that opened it (it is not `Send`).
//! It turns DMA-BUFs into images; what is drawn into them is not known here.

#![expect(unsafe_code, reason = "EGL is a C library found at run time")]

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::{io, ptr};

use gbm::AsRaw;
use khronos_egl as egl;
use protocol::PixelFormat;

/// `EGL_PLATFORM_GBM_KHR` (EGL_KHR_platform_gbm).
const PLATFORM_GBM: egl::Enum = 0x31d7;
/// `EGL_PLATFORM_SURFACELESS_MESA` (EGL_MESA_platform_surfaceless).
const PLATFORM_SURFACELESS: egl::Enum = 0x31dd;
/// EGL_EXT_image_dma_buf_import.
const LINUX_DMA_BUF: egl::Enum = 0x3270;
const LINUX_DRM_FOURCC: egl::Attrib = 0x3271;
const PLANE0_FD: egl::Attrib = 0x3272;
const PLANE0_OFFSET: egl::Attrib = 0x3273;
const PLANE0_PITCH: egl::Attrib = 0x3274;

/// Why there is no GL, or why it refused a buffer.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The node is missing or not ours to open.
    #[error("can't open {0}: {1}; join the node's group, name another with --node, or use --software")]
    Node(PathBuf, io::Error),
    /// No libEGL.
    #[error("can't load libEGL.so.1: {0}; install libegl1 and libgl1-mesa-dri")]
    Library(String),
    /// EGL said no.
    #[error("{0} failed: {1}")]
    Egl(&'static str, egl::Error),
    /// libGLESv2 is too old or missing.
    #[error("GL has no {0}; OpenGL ES 3.0 is needed: install libgles2 and libgl1-mesa-dri")]
    NoFunction(&'static str),
    /// Our shaders don't compile.
    #[error("shader: {0}")]
    Shader(String),
    /// GL can't draw into the buffer.
    #[error("GL can't draw into this buffer: framebuffer status {status:#06x}, error {error:#06x}")]
    Framebuffer {
        /// `glCheckFramebufferStatus`.
        status: u32,
        /// `glGetError`.
        error: u32,
    },
}

/// A buffer of one plane on the GPU, implicit modifier.
#[derive(Debug, Clone, Copy)]
pub struct Dmabuf<'a> {
    pub fd: BorrowedFd<'a>,
    pub width: u32,
    pub height: u32,
    /// Bytes from row to row.
    pub stride: u32,
    /// Where the first row begins.
    pub offset: u32,
    pub format: PixelFormat,
}

/// EGL with a surfaceless context of OpenGL ES 3 current.
pub struct Egl {
    instance: egl::DynamicInstance<egl::EGL1_5>,
    display: egl::Display,
    context: egl::Context,
    /// Dropped after the display that lives on it.
    gbm: Option<gbm::Device<File>>,
}

impl Egl {
    /// Opens `node`, or the software renderer if there is none.
    pub fn open(node: Option<&Path>) -> Result<Self, GpuError> {
        let gbm = node
            .map(|path| {
                let open = File::options().read(true).write(true).open(path).and_then(gbm::Device::new);
                open.map_err(|error| GpuError::Node(path.to_path_buf(), error))
            })
            .transpose()?;
        // SAFETY: libEGL.so.1 is the system's EGL; loading it runs its initialisers, which have no demands.
        let instance = unsafe { egl::DynamicInstance::<egl::EGL1_5>::load_required() }
            .map_err(|error| GpuError::Library(format!("{error:?}")))?;
        let (platform, native) = match &gbm {
            Some(device) => (PLATFORM_GBM, device.as_raw_mut().cast()),
            None => (PLATFORM_SURFACELESS, ptr::null_mut()),
        };
        // SAFETY: GBM's native display is a gbm_device, and ours outlives the display; surfaceless has none.
        let display = unsafe { instance.get_platform_display(platform, native, &[egl::ATTRIB_NONE]) }
            .map_err(|error| GpuError::Egl("eglGetPlatformDisplay", error))?;
        instance.initialize(display).map_err(|error| GpuError::Egl("eglInitialize", error))?;
        instance.bind_api(egl::OPENGL_ES_API).map_err(|error| GpuError::Egl("eglBindAPI", error))?;
        // SAFETY: a null config is EGL_NO_CONFIG_KHR, which a context without surfaces may have.
        let config = unsafe { egl::Config::from_ptr(ptr::null_mut()) };
        let context = instance
            .create_context(display, config, None, &[egl::CONTEXT_CLIENT_VERSION, 3, egl::NONE])
            .map_err(|error| GpuError::Egl("eglCreateContext", error))?;
        instance
            .make_current(display, None, None, Some(context))
            .map_err(|error| GpuError::Egl("eglMakeCurrent", error))?;
        Ok(Self { instance, display, context, gbm })
    }

    /// The address of a GL function.
    pub fn function(&self, name: &str) -> Option<extern "system" fn()> {
        self.instance.get_proc_address(name)
    }

    /// Where buffers are allocated; none in software.
    pub fn gbm(&self) -> Option<&gbm::Device<File>> {
        self.gbm.as_ref()
    }

    /// An image of a DMA-BUF. EGL takes its own reference to the buffer: the descriptor may be closed.
    pub fn import(&self, buffer: &Dmabuf) -> Result<egl::Image, GpuError> {
        let pairs = [
            (egl::WIDTH as egl::Attrib, buffer.width),
            (egl::HEIGHT as egl::Attrib, buffer.height),
            (LINUX_DRM_FOURCC, buffer.format.fourcc()),
            (PLANE0_FD, buffer.fd.as_raw_fd() as u32),
            (PLANE0_OFFSET, buffer.offset),
            (PLANE0_PITCH, buffer.stride),
        ];
        let mut attributes: Vec<_> =
            pairs.iter().flat_map(|(name, value)| [*name, *value as egl::Attrib]).collect();
        attributes.push(egl::ATTRIB_NONE);
        // SAFETY: null is EGL_NO_CONTEXT, as the extension asks.
        let context = unsafe { egl::Context::from_ptr(egl::NO_CONTEXT) };
        // SAFETY: null, as the extension asks: the buffer is named by the attributes.
        let none = unsafe { egl::ClientBuffer::from_ptr(ptr::null_mut()) };
        self.instance
            .create_image(self.display, context, LINUX_DMA_BUF, none, &attributes)
            .map_err(|error| GpuError::Egl("eglCreateImage", error))
    }

    /// Gives an image back.
    pub fn destroy(&self, image: egl::Image) {
        // It fails only for what is no image.
        let _ = self.instance.destroy_image(self.display, image);
    }
}

impl Drop for Egl {
    fn drop(&mut self) {
        // Nothing can be done about a failure at the end of the process.
        let _ = self.instance.make_current(self.display, None, None, None);
        let _ = self.instance.destroy_context(self.display, self.context);
        let _ = self.instance.terminate(self.display);
    }
}
