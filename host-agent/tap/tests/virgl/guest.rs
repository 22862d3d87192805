//! A minimal guest: contexts, screens and a mailbox.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::mailbox::{self, Answer, FrameRequest, Operation, Request, Status};
use protocol::{PixelFormat, Rect};
use tap::abi::{CreateArgs, PIPE_TEXTURE_2D, VirglBox};

use crate::agent::TIMEOUT;
use crate::virgl;

/// Starts the renderer.
pub fn start() {
    assert_eq!(virgl::init(), 0, "virgl_renderer_init");
}

/// Pixels that differ by row, column and seed.
pub fn pattern(width: u32, height: u32, seed: u8) -> Vec<u8> {
    let pixel = |x: u32, y: u32| [x as u8 ^ seed, y as u8, (x >> 3) as u8 ^ (y >> 2) as u8, seed];
    (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect()
}

/// A scan-out resource with guest memory.
#[derive(Clone, Copy)]
pub struct Screen {
    pub id: u32,
    pub width: u32,
    pub height: u32,
    memory: usize,
}

impl Screen {
    /// Creates it with virgl format `format`.
    pub fn new(id: u32, format: u32, width: u32, height: u32, flags: u32) -> Self {
        // VIRGL_BIND_RENDER_TARGET and VIRGL_BIND_SAMPLER_VIEW, as compositors set.
        let bind = 1 << 1 | 1 << 3;
        let args = CreateArgs {
            handle: id,
            target: PIPE_TEXTURE_2D,
            format,
            bind,
            width,
            height,
            depth: 1,
            array_size: 1,
            flags,
            ..CreateArgs::default()
        };
        assert_eq!(virgl::resource_create(args), 0, "screen {id}");
        let memory = Box::leak(vec![0_u8; (4 * width * height) as usize].into_boxed_slice());
        let base = memory.as_mut_ptr();
        assert_eq!(virgl::resource_attach(id, base.cast(), memory.len()), 0);
        Self { id, width, height, memory: base as usize }
    }

    /// Writes pixels to guest memory and transfers them to the host as `context`.
    pub fn draw(&self, context: u32, picture: &[u8]) {
        assert_eq!(picture.len(), (4 * self.width * self.height) as usize);
        // SAFETY: the source has `picture.len()` bytes; the destination is leaked memory of that size (checked), and
        // virglrenderer accesses it only during calls, which this thread makes.
        unsafe { std::ptr::copy_nonoverlapping(picture.as_ptr(), self.memory as *mut u8, picture.len()) };
        let whole = VirglBox { x: 0, y: 0, z: 0, w: self.width, h: self.height, d: 1 };
        assert_eq!(virgl::transfer(self.id, context, whole, 4 * self.width, 0), 0, "draw");
    }

    pub fn request(&self, format: PixelFormat) -> FrameRequest {
        FrameRequest {
            resource: self.id,
            format,
            width: self.width as u16,
            height: self.height as u16,
            stride: 4 * self.width,
            damage: Rect::full(self.width, self.height),
            capture_ns: 1234,
        }
    }
}

/// A sidecar: a context with a mailbox.
pub struct Sidecar {
    pub context: u32,
    pub mailbox: u32,
    words: &'static [AtomicU64; 512],
    seq: u64,
}

impl Sidecar {
    pub fn new(context: u32, mailbox: u32) -> Self {
        assert_eq!(virgl::context_create(context, "sidecar"), 0);
        let sidecar = Self::with_mailbox(context, mailbox);
        virgl::ctx_attach(context, mailbox);
        sidecar
    }

    /// A mailbox for an existing context, not attached to it.
    pub fn with_mailbox(context: u32, mailbox: u32) -> Self {
        let args = CreateArgs {
            handle: mailbox,
            target: PIPE_TEXTURE_2D,
            format: mailbox::VIRGL_FORMAT,
            bind: 1 << 3,
            width: mailbox::WIDTH,
            height: 1,
            depth: 1,
            array_size: 1,
            ..CreateArgs::default()
        };
        assert_eq!(virgl::resource_create(args), 0, "mailbox");
        let words: &'static [AtomicU64; 512] = Box::leak(Box::new([const { AtomicU64::new(0) }; 512]));
        assert_eq!(virgl::resource_attach(mailbox, words.as_ptr().cast_mut().cast(), 4096), 0);
        Self { context, mailbox, words, seq: 0 }
    }

    pub fn put(&self, slot: usize, bytes: &[u8; 64]) {
        for (at, bytes) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let word = &self.words[mailbox::request_offset(slot) / 8 + at];
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }

    /// Transfers a slot to the host, stamped with `context`.
    pub fn transfer_as(&self, context: u32, slot: usize) {
        let offset = mailbox::request_offset(slot);
        let part = VirglBox { x: (offset / 4) as u32, y: 0, z: 0, w: 16, h: 1, d: 1 };
        virgl::transfer(self.mailbox, context, part, 4096, offset as u64);
    }

    pub fn answer(&self, slot: usize) -> Answer {
        let mut bytes = [0; 64];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(&self.words[mailbox::answer_offset(slot) / 8..]) {
            bytes.copy_from_slice(&word.load(Ordering::Acquire).to_ne_bytes());
        }
        Answer::decode(&bytes).expect("answer")
    }

    /// Sends a request, stamped with `context`; `None` if it was not answered.
    pub fn request_as(&mut self, context: u32, operation: Operation) -> Option<Answer> {
        self.seq += 1;
        let slot = self.seq as usize % mailbox::SLOTS;
        self.put(slot, &Request { seq: self.seq, operation }.encode());
        self.transfer_as(context, slot);
        Some(self.answer(slot)).filter(|answer| answer.seq == self.seq)
    }

    pub fn request(&mut self, operation: Operation) -> Answer {
        self.request_as(self.context, operation).expect("answered")
    }

    /// Sends a request; repeats it while it is over the budget of the thread's time. The pauses are longer than what
    /// a refusal costs.
    pub fn request_within_limit(&mut self, operation: Operation) -> Answer {
        let end = Instant::now() + TIMEOUT;
        loop {
            let answer = self.request(operation);
            if answer.status != Status::RateLimited {
                return answer;
            }
            assert!(Instant::now() < end, "rate-limited for {TIMEOUT:?}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    pub fn frame(&mut self, request: FrameRequest) -> Status {
        self.request(Operation::Frame(request)).status
    }

    /// Binds; waits for a host-agent if none is connected.
    pub fn bind(&mut self, nonce: [u8; 16]) {
        let status = self.until(Operation::Bind(nonce), |status| status != Status::NoHostAgent);
        assert_eq!(status, Status::Ok);
    }

    /// Repeats a request until its status satisfies `wanted`, with pauses, because requests are limited.
    pub fn until(&mut self, operation: Operation, wanted: impl Fn(Status) -> bool) -> Status {
        let end = Instant::now() + TIMEOUT;
        loop {
            let status = self.request(operation).status;
            if wanted(status) {
                return status;
            }
            assert!(Instant::now() < end, "still {status:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}
