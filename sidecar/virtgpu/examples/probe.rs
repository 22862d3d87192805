//! Exercises allocation, import, readback and mailbox on a render node and prints the results.
//!
//! Usage: `probe [/dev/dri/renderD128]`; without argument the first usable node of `/dev/dri`.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use protocol::mailbox::Operation;
use protocol::{PixelFormat, Rect};
use virtgpu::{CallError, Device, Mailbox};

/// Exit status if everything works, but no tap answers in the mailbox.
const NO_TAP: u8 = 3;

fn main() -> ExitCode {
    match probe() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            match error.downcast_ref() {
                Some(CallError::NoTap { .. }) => ExitCode::from(NO_TAP),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn probe() -> Result<(), Box<dyn Error>> {
    let device = match std::env::args().nth(1) {
        Some(path) => Device::open(path)?,
        None => Device::discover()?,
    };
    println!("{}: {:?}", device.path().display(), device.params());

    for format in [PixelFormat::Bgrx, PixelFormat::Bgra, PixelFormat::Rgbx, PixelFormat::Rgba] {
        let start = Instant::now();
        let buffer = device.allocate(1280, 720, format)?;
        let imported = buffer.imported();
        println!(
            "{format:?} 1280x720: stride {}, gem handle {}, resource {}, {} bytes, blob_mem {}, {:?}",
            buffer.stride(),
            imported.gem_handle(),
            imported.resource_id(),
            imported.size(),
            imported.blob_mem(),
            start.elapsed(),
        );
        let again = device.import(buffer.fd())?;
        assert_eq!(again.gem_handle(), imported.gem_handle(), "importing a buffer twice gives one handle");
        drop(again);
        let start = Instant::now();
        let sum = imported.with_pixels(Rect::full(1280, 720), buffer.stride(), |bytes| {
            bytes.chunks(4096).map(|page| u64::from(page[0])).sum::<u64>()
        })?;
        println!(
            "  read back: sum of one byte per page {sum}, {:?}; {} handles open",
            start.elapsed(),
            device.open_handles()
        );
    }

    let mut mailbox = Mailbox::new(&device)?;
    println!("mailbox: resource {}", mailbox.resource_id());
    for _ in 0..20 {
        let start = Instant::now();
        match mailbox.call(Operation::Echo, Duration::from_secs(2)) {
            Ok(answer) => println!("  echo {answer:?} after {:?}", start.elapsed()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
