//! Reads load commands, symbols and signature of a Mach-O file. [`rules`](crate::rules) evaluates them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use goblin::mach::constants::cputype::CPU_TYPE_ARM64;
use goblin::mach::header::{MH_DYLIB, MH_EXECUTE};
use goblin::mach::load_command::{CommandVariant, LC_LOAD_DYLIB, LC_LOAD_WEAK_DYLIB, LC_REEXPORT_DYLIB};
use goblin::mach::{Mach, MachO};

use crate::signature::{self, Signature};

/// Mach-O file type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Main executable (`MH_EXECUTE`).
    Executable,
    /// Dynamic library (`MH_DYLIB`).
    Library,
    /// Any other type.
    Other(u32),
}

/// Kind of a library load command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// `LC_LOAD_DYLIB`: the process does not start without it.
    Required,
    /// `LC_LOAD_WEAK_DYLIB`: may be missing.
    Weak,
    /// `LC_REEXPORT_DYLIB`: its exports are exports of this file too.
    Reexported,
}

/// Entry of the interpose table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Replaced symbol.
    pub original: String,
    /// Library of the replaced symbol.
    pub from: String,
    /// Section that contains the replacement.
    pub replacement_in: Option<String>,
}

/// Properties of a Mach-O file.
#[derive(Debug, Clone)]
pub struct Facts {
    /// CPU type is arm64.
    pub arm64: bool,
    /// File type.
    pub kind: Kind,
    /// Minimum macOS version.
    pub minimum: Option<(u32, u32)>,
    /// Install name of a library.
    pub id: Option<String>,
    /// Compatibility version of a library.
    pub compatibility: u32,
    /// Libraries that it loads.
    pub needs: BTreeSet<(String, Need)>,
    /// Exported symbols.
    pub exports: BTreeSet<String>,
    /// Imported symbols with the library of each.
    pub imports: BTreeSet<(String, String)>,
    /// Entries of the interpose table.
    pub interposed: BTreeSet<Pair>,
    /// Code signature.
    pub signature: Option<Signature>,
}

const INTERPOSE: &str = "__interpose";

/// Reads a Mach-O file.
///
/// # Errors
/// Fails on malformed files and on universal binaries.
pub fn facts(bytes: &[u8]) -> Result<Facts> {
    let Mach::Binary(file) = Mach::parse(bytes).context("not a Mach-O file")? else {
        bail!("a universal binary; expected a single architecture");
    };
    let mut facts = Facts {
        arm64: file.header.cputype() == CPU_TYPE_ARM64,
        kind: match file.header.filetype {
            MH_EXECUTE => Kind::Executable,
            MH_DYLIB => Kind::Library,
            other => Kind::Other(other),
        },
        minimum: None,
        id: file.name.map(str::to_owned),
        compatibility: 0,
        needs: BTreeSet::new(),
        exports: file.exports()?.into_iter().map(|export| export.name).collect(),
        imports: BTreeSet::new(),
        interposed: interposed(&file, bytes)?,
        signature: None,
    };
    // `libs` contains the file itself first, then one entry per load command in order.
    let mut libraries = file.libs.iter().skip(1);
    for command in &file.load_commands {
        match &command.command {
            CommandVariant::BuildVersion(version) => {
                facts.minimum = Some((version.minos >> 16, version.minos >> 8 & 0xFF));
            }
            CommandVariant::IdDylib(own) => facts.compatibility = own.dylib.compatibility_version,
            CommandVariant::CodeSignature(place) => {
                let from = place.dataoff as usize;
                let blob = bytes
                    .get(from..from + place.datasize as usize)
                    .context("the signature lies beyond the end of the file")?;
                facts.signature = Some(signature::read(blob, bytes)?);
            }
            CommandVariant::LoadDylib(_)
            | CommandVariant::LoadWeakDylib(_)
            | CommandVariant::ReexportDylib(_) => {
                let need = match command.command.cmd() {
                    LC_LOAD_DYLIB => Need::Required,
                    LC_LOAD_WEAK_DYLIB => Need::Weak,
                    LC_REEXPORT_DYLIB => Need::Reexported,
                    other => bail!("unexpected load command {other:#x}"),
                };
                let path = libraries.next().context("fewer libraries than commands that load them")?;
                facts.needs.insert(((*path).to_owned(), need));
            }
            _ => {}
        }
    }
    for import in file.imports()? {
        facts.imports.insert((import.name.to_owned(), import.dylib.to_owned()));
    }
    Ok(facts)
}

/// Entries of `__interpose`: pairs of pointers to the replacement and to the original, which dyld binds.
fn interposed(file: &MachO<'_>, bytes: &[u8]) -> Result<BTreeSet<Pair>> {
    let mut pairs = BTreeSet::new();
    let mut sections = Vec::new();
    for segment in &file.segments {
        for (section, _) in segment.sections()? {
            sections.push((section.name()?.to_owned(), section.addr, section.size, section.offset as usize));
        }
    }
    let Some((_, start, size, offset)) = sections.iter().find(|section| section.0 == INTERPOSE).cloned()
    else {
        return Ok(pairs);
    };
    if size % 16 != 0 {
        bail!("the interpose table has {size} bytes, which is not a multiple of 16");
    }
    let imports = file.imports()?;
    for at in (0..size).step_by(16) {
        let word = bytes
            .get(offset + at as usize..)
            .and_then(<[u8]>::first_chunk)
            .context("the interpose table lies beyond the end of the file")?;
        let replacement = u64::from_le_bytes(*word);
        let inside =
            |section: &&(String, u64, u64, usize)| (section.1..section.1 + section.2).contains(&replacement);
        let original = imports.iter().find(|import| import.address == start + at + 8);
        pairs.insert(Pair {
            original: original.map_or_else(|| "nothing".to_owned(), |import| import.name.to_owned()),
            from: original.map_or_else(|| "nowhere".to_owned(), |import| import.dylib.to_owned()),
            replacement_in: sections.iter().find(inside).map(|section| section.0.clone()),
        });
    }
    Ok(pairs)
}
