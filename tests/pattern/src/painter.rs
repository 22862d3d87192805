//! Draws frames of the pattern with GL: into DMA-BUFs of others, or into a buffer of its own to be read.
//!
//! A frame is one draw call without any vertex buffers: 144 cells of two triangles each. The colours come
//! from [`layout::colour`] as one array of uniforms, and the vertex shader finds cell and corner in the
//! vertex's number, with the same integer arithmetic as [`layout::cell`]. So the picture has one
//! definition, and pixels are exact: edges lie on pixel borders, and `c / 255` survives the way through
//! floats into 8 bits. `--draw clears` does the same with 144 scissored clears, to compare.
//!
//! Row 0 of a buffer is the top of the picture: GL's bottom. It knows no Wayland.

use std::rc::Rc;

use khronos_egl::Image;
use memmap2::MmapRaw;
use pattern::layout::{self, CELLS, COLUMNS, ROWS};

use crate::egl::{Dmabuf, Egl, GpuError};
use crate::gl::{self, Gl, Kind};

const VERTEX: &str = "#version 300 es
precision highp float;
precision highp int;
uniform uvec4 cells[36];
uniform ivec2 size;
flat out vec4 colour;
void main() {
    int cell = gl_VertexID / 6;
    int corner = gl_VertexID - 6 * cell;
    int right = corner == 1 || corner >= 4 ? 1 : 0;
    int low = corner == 2 || corner == 3 || corner == 5 ? 1 : 0;
    ivec2 at = ivec2(cell - 16 * (cell / 16) + right, cell / 16 + low);
    vec2 edge = vec2(size * at / ivec2(16, 9));
    gl_Position = vec4(2.0 * edge / vec2(size) - 1.0, 0.0, 1.0);
    uint rgb = cells[cell / 4][cell & 3];
    colour = vec4(uvec4(rgb, rgb >> 8, rgb >> 16, 255u) & 255u) / 255.0;
}";
const FRAGMENT: &str = "#version 300 es
precision highp float;
flat in vec4 colour;
out vec4 pixel;
void main() { pixel = colour; }";

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Draw {
    /// One draw call.
    Shader,
    /// A scissored clear per cell.
    Clears,
}

/// What part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    TopHalf,
}

/// EGL and GL of this process.
struct Gpu {
    gl: Gl,
    egl: Egl,
}

/// What can be drawn into.
pub struct Target {
    gpu: Rc<Gpu>,
    framebuffer: u32,
    backing: Backing,
    width: u32,
    height: u32,
}

enum Backing {
    Image { texture: u32, image: Image },
    Own { renderbuffer: u32 },
}

/// Draws frames.
pub struct Painter {
    gpu: Rc<Gpu>,
    draw: Draw,
    cells: i32,
    size: i32,
}

impl Painter {
    /// Compiles the shaders. The context of `egl` must be the current one.
    pub fn new(egl: Egl, draw: Draw) -> Result<Self, GpuError> {
        let gl = Gl::load(|name| egl.function(name))?;
        let program = gl.program(VERTEX, FRAGMENT)?;
        (gl.use_program)(program);
        let (cells, size) = (gl.uniform(program, c"cells"), gl.uniform(program, c"size"));
        Ok(Self { gpu: Rc::new(Gpu { gl, egl }), draw, cells, size })
    }

    /// What GL calls itself.
    pub fn renderer(&self) -> String {
        self.gpu.gl.renderer()
    }

    /// Where buffers are allocated; none in software.
    pub fn gbm(&self) -> Option<&gbm::Device<std::fs::File>> {
        self.gpu.egl.gbm()
    }

    /// A target that is somebody's DMA-BUF.
    pub fn import(&self, buffer: &Dmabuf) -> Result<Target, GpuError> {
        let gl = &self.gpu.gl;
        let image = self.gpu.egl.import(buffer)?;
        let texture = gl.generate(Kind::Texture);
        (gl.bind_texture)(gl::TEXTURE_2D, texture);
        gl.show_image(image);
        self.target(Backing::Image { texture, image }, buffer.width, buffer.height)
    }

    /// A target of our own.
    pub fn offscreen(&self, width: u32, height: u32) -> Result<Target, GpuError> {
        let gl = &self.gpu.gl;
        let renderbuffer = gl.generate(Kind::Renderbuffer);
        (gl.bind_renderbuffer)(gl::RENDERBUFFER, renderbuffer);
        (gl.renderbuffer_storage)(gl::RENDERBUFFER, gl::RGBA8, width as i32, height as i32);
        self.target(Backing::Own { renderbuffer }, width, height)
    }

    fn target(&self, backing: Backing, width: u32, height: u32) -> Result<Target, GpuError> {
        let gl = &self.gpu.gl;
        let framebuffer = gl.generate(Kind::Framebuffer);
        (gl.bind_framebuffer)(gl::FRAMEBUFFER, framebuffer);
        match &backing {
            Backing::Image { texture, .. } => {
                (gl.framebuffer_texture)(gl::FRAMEBUFFER, gl::COLOR_ATTACHMENT0, gl::TEXTURE_2D, *texture, 0);
            }
            Backing::Own { renderbuffer } => {
                let attach = gl.framebuffer_renderbuffer;
                attach(gl::FRAMEBUFFER, gl::COLOR_ATTACHMENT0, gl::RENDERBUFFER, *renderbuffer);
            }
        }
        // From here on, dropping it gives everything back.
        let target = Target { gpu: Rc::clone(&self.gpu), framebuffer, backing, width, height };
        let (status, error) = ((gl.check_framebuffer)(gl::FRAMEBUFFER), (gl.get_error)());
        if status == gl::FRAMEBUFFER_COMPLETE && error == gl::NO_ERROR {
            Ok(target)
        } else {
            Err(GpuError::Framebuffer { status, error })
        }
    }

    /// Draws and flushes: whoever reads the buffer by the same GPU's queue from now on reads this frame.
    pub fn paint(&self, target: &Target, frame: u32, part: Part) {
        let gl = &self.gpu.gl;
        let (width, height) = (target.width, target.height);
        (gl.bind_framebuffer)(gl::FRAMEBUFFER, target.framebuffer);
        (gl.viewport)(0, 0, width as i32, height as i32);
        let limit = if part == Part::Whole { height } else { height / 2 };
        match self.draw {
            Draw::Shader => self.triangles(frame, width, height, limit),
            Draw::Clears => self.clears(frame, width, height, limit),
        }
        (gl.flush)();
    }

    fn triangles(&self, frame: u32, width: u32, height: u32, limit: u32) {
        let gl = &self.gpu.gl;
        let mut packed = [[0; 4]; CELLS / 4];
        for (at, word) in packed.as_flattened_mut().iter_mut().enumerate() {
            let [r, g, b] = layout::colour(at as u32 % COLUMNS, at as u32 / COLUMNS, frame);
            *word = u32::from_le_bytes([r, g, b, 0]);
        }
        gl.set_uvec4(self.cells, &packed);
        (gl.uniform_2i)(self.size, width as i32, height as i32);
        if limit < height {
            (gl.enable)(gl::SCISSOR_TEST);
            (gl.scissor)(0, 0, width as i32, limit as i32);
        }
        (gl.draw_arrays)(gl::TRIANGLES, 0, 6 * CELLS as i32);
        (gl.disable)(gl::SCISSOR_TEST);
    }

    fn clears(&self, frame: u32, width: u32, height: u32, limit: u32) {
        let gl = &self.gpu.gl;
        (gl.enable)(gl::SCISSOR_TEST);
        for (rect, rgb) in layout::cells(frame, width, height).filter(|(rect, _)| rect.y < limit) {
            let [r, g, b] = rgb.map(|channel| f32::from(channel) / 255.0);
            let height = rect.height.min(limit - rect.y);
            (gl.scissor)(rect.x as i32, rect.y as i32, rect.width as i32, height as i32);
            (gl.clear_color)(r, g, b, 1.0);
            (gl.clear)(gl::COLOR_BUFFER_BIT);
        }
        (gl.disable)(gl::SCISSOR_TEST);
    }

    /// Reads what was drawn as R, G, B, A; waits for the GPU. False if there is too little room.
    pub fn read(&self, target: &Target, into: &mut [u8]) -> bool {
        (self.gpu.gl.bind_framebuffer)(gl::FRAMEBUFFER, target.framebuffer);
        self.gpu.gl.read_into(target.width, target.height, into)
    }

    /// Like [`Painter::read`], into memory shared with another process.
    pub fn read_shared(&self, target: &Target, into: &MmapRaw) -> bool {
        (self.gpu.gl.bind_framebuffer)(gl::FRAMEBUFFER, target.framebuffer);
        self.gpu.gl.read_into_shared(target.width, target.height, into)
    }
}

const _: () =
    assert!(COLUMNS == 16 && ROWS == 9 && CELLS == 144, "the vertex shader has these numbers in it");

impl Drop for Target {
    fn drop(&mut self) {
        let gl = &self.gpu.gl;
        gl.delete(Kind::Framebuffer, self.framebuffer);
        match self.backing {
            Backing::Image { texture, image } => {
                gl.delete(Kind::Texture, texture);
                self.gpu.egl.destroy(image);
            }
            Backing::Own { renderbuffer } => gl.delete(Kind::Renderbuffer, renderbuffer),
        }
    }
}
