//! Verification of code signatures, which Apple silicon requires of every program: a code directory with a hash of every
//! page (`cs_blobs.h`). Ad hoc signatures name no signer.

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

/// Contents of a signature and result of its verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Ad hoc: names no signer.
    pub adhoc: bool,
    /// Number of hashed pages.
    pub pages: usize,
    /// Number of pages whose hash differs.
    pub wrong: usize,
}

const SUPER_BLOB: u32 = 0xFADE_0CC0;
const CODE_DIRECTORY: u32 = 0xFADE_0C02;
const ADHOC: u32 = 2;
const SHA256: u8 = 2;

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let chunk = bytes.get(at..).and_then(<[u8]>::first_chunk).context("truncated signature")?;
    Ok(u32::from_be_bytes(*chunk))
}

/// Reads the signature `blob` of `file` and verifies its hashes.
///
/// # Errors
/// Fails on malformed signatures and on hashes other than SHA-256.
pub fn read(blob: &[u8], file: &[u8]) -> Result<Signature> {
    ensure!(word(blob, 0)? == SUPER_BLOB, "unexpected magic of the signature");
    let count = word(blob, 8)? as usize;
    ensure!(count <= 16, "the signature has {count} parts; expected at most 16");
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
    ensure!(kind == SHA256 && size == 32, "unexpected hash type {kind}; expected SHA-256");
    let code = file.get(..limit).context("the signature covers more than the file")?;
    let mut wrong = 0;
    let mut counted = 0;
    for (number, page) in code.chunks(1 << page).enumerate() {
        let want = directory.get(hashes + 32 * number..hashes + 32 * (number + 1)).context("missing hash")?;
        wrong += usize::from(Sha256::digest(page).as_slice() != want);
        counted += 1;
    }
    ensure!(counted == pages, "{pages} hashes for {counted} pages");
    Ok(Signature { adhoc: word(directory, 12)? & ADHOC != 0, pages, wrong })
}
