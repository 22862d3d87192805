//! The signature that Apple silicon wants of everything it runs: a code directory with a hash of every page.
//! Ad-hoc ones name no signer. Hashed again here, as the kernel does page by page.

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

/// What a signature says, and whether it is true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// It names no signer.
    pub adhoc: bool,
    /// Pages that it has hashes of.
    pub pages: usize,
    /// Pages whose hash is another.
    pub wrong: usize,
}

const SUPER_BLOB: u32 = 0xFADE_0CC0;
const CODE_DIRECTORY: u32 = 0xFADE_0C02;
const ADHOC: u32 = 2;
const SHA256: u8 = 2;

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let chunk = bytes.get(at..).and_then(<[u8]>::first_chunk).context("a signature that ends early")?;
    Ok(u32::from_be_bytes(*chunk))
}

/// Reads the signature `blob` of `file`.
pub fn read(blob: &[u8], file: &[u8]) -> Result<Signature> {
    ensure!(word(blob, 0)? == SUPER_BLOB, "the signature has another magic");
    let count = word(blob, 8)? as usize;
    ensure!(count <= 16, "a signature of {count} parts");
    let mut directory = None;
    for part in 0..count {
        let at = word(blob, 16 + 8 * part)? as usize;
        if word(blob, at)? == CODE_DIRECTORY {
            directory = blob.get(at..);
        }
    }
    let directory = directory.context("the signature has no code directory")?;
    let (hashes, pages, limit) =
        (word(directory, 16)? as usize, word(directory, 28)? as usize, word(directory, 32)? as usize);
    let [size, kind, _, page] = *directory.get(36..).and_then(<[u8]>::first_chunk).context("no hash type")?;
    ensure!(kind == SHA256 && size == 32, "hashes of type {kind}, not SHA-256");
    let code = file.get(..limit).context("the signature covers more than there is")?;
    let mut wrong = 0;
    let mut counted = 0;
    for (number, page) in code.chunks(1 << page).enumerate() {
        let want =
            directory.get(hashes + 32 * number..hashes + 32 * (number + 1)).context("a missing hash")?;
        wrong += usize::from(Sha256::digest(page).as_slice() != want);
        counted += 1;
    }
    ensure!(counted == pages, "{pages} hashes for {counted} pages");
    Ok(Signature { adhoc: word(directory, 12)? & ADHOC != 0, pages, wrong })
}
