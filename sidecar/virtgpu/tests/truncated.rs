//! Shared memory whose owner truncates it while it is read. A mapping of it would end this process by `SIGBUS`.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};

const LEN: u64 = 8 << 20;

fn unsealed() -> std::os::fd::OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("desktop", flags).expect("a memfd");
    rustix::fs::ftruncate(&fd, LEN).expect("sized");
    assert!(!rustix::fs::fcntl_get_seals(&fd).expect("seals").contains(SealFlags::SHRINK));
    fd
}

#[test]
fn memory_truncated_between_frames_is_an_error() {
    let fd = unsealed();
    let mut frame = vec![0xff; LEN as usize];
    virtgpu::read_shared(fd.as_fd(), 0, &mut frame).expect("a frame");
    assert!(frame.iter().all(|byte| *byte == 0));
    rustix::fs::ftruncate(&fd, 1).expect("truncated");
    let error = virtgpu::read_shared(fd.as_fd(), 0, &mut frame).expect_err("too short");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn memory_truncated_during_frames_is_survived() {
    let fd = unsealed();
    let (stop, truncations) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::ftruncate(&fd, 4096).expect("truncated");
                rustix::fs::ftruncate(&fd, LEN).expect("grown");
                truncations.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut frame = vec![0; LEN as usize];
        let mut frames = 0;
        // Both threads have made progress beside each other, however slow the machine is.
        while frames < 50 || truncations.load(Ordering::Relaxed) < 1000 {
            // Some reads fail, some return zeros.
            let _either = virtgpu::read_shared(fd.as_fd(), 0, &mut frame);
            frames += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn memory_that_was_never_written_is_not_allocated_by_reading_it() {
    let fd = unsealed();
    virtgpu::read_shared(fd.as_fd(), 0, &mut vec![0xff; LEN as usize]).expect("a frame");
    assert_eq!(rustix::fs::fstat(&fd).expect("a size").st_blocks, 0);
}
