//! What a Mach-O file says of itself. Reads, judges nothing: that is [`rules`](crate::rules)'s.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use goblin::mach::constants::cputype::CPU_TYPE_ARM64;
use goblin::mach::header::{MH_DYLIB, MH_EXECUTE};
use goblin::mach::load_command::{CommandVariant, LC_LOAD_DYLIB, LC_LOAD_WEAK_DYLIB, LC_REEXPORT_DYLIB};
use goblin::mach::{Mach, MachO};

use crate::signature::{self, Signature};

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A program.
    Executable,
    /// A library.
    Library,
    /// Something else.
    Other(u32),
}

/// How a library is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// dyld refuses to start without it.
    Required,
    /// May be missing.
    Weak,
    /// What it exports is exported here, too.
    Reexported,
}

/// A pair of the interpose table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Whose calls are taken over.
    pub original: String,
    /// Where that comes from.
    pub from: String,
    /// The replacement lies in this section.
    pub replacement_in: Option<String>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Facts {
    /// For Apple silicon.
    pub arm64: bool,
    /// Program or library.
    pub kind: Kind,
    /// Oldest macOS.
    pub minimum: Option<(u32, u32)>,
    /// A library's own name.
    pub id: Option<String>,
    /// The oldest version that it says to stand in for.
    pub compatibility: u32,
    /// Libraries that it asks for.
    pub needs: BTreeSet<(String, Need)>,
    /// Symbols that it gives.
    pub exports: BTreeSet<String>,
    /// Symbols that it wants, with the library each is expected in.
    pub imports: BTreeSet<(String, String)>,
    /// Its interpose table.
    pub interposed: BTreeSet<Pair>,
    /// Its signature.
    pub signature: Option<Signature>,
}

const INTERPOSE: &str = "__interpose";

/// Reads a file.
pub fn facts(bytes: &[u8]) -> Result<Facts> {
    let Mach::Binary(file) = Mach::parse(bytes).context("it is no Mach-O file")? else {
        bail!("it is for several architectures");
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
    // `libs` has the file itself first, then one for each command in order.
    let mut libraries = file.libs.iter().skip(1);
    for command in &file.load_commands {
        match &command.command {
            CommandVariant::BuildVersion(version) => {
                facts.minimum = Some((version.minos >> 16, version.minos >> 8 & 0xFF));
            }
            CommandVariant::IdDylib(own) => facts.compatibility = own.dylib.compatibility_version,
            CommandVariant::CodeSignature(place) => {
                let from = place.dataoff as usize;
                let blob =
                    bytes.get(from..from + place.datasize as usize).context("a signature past the end")?;
                facts.signature = Some(signature::read(blob, bytes)?);
            }
            CommandVariant::LoadDylib(_)
            | CommandVariant::LoadWeakDylib(_)
            | CommandVariant::ReexportDylib(_) => {
                let need = match command.command.cmd() {
                    LC_LOAD_DYLIB => Need::Required,
                    LC_LOAD_WEAK_DYLIB => Need::Weak,
                    LC_REEXPORT_DYLIB => Need::Reexported,
                    other => bail!("a load command of type {other:#x}"),
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

/// The table: pairs of pointers, the first ours, the second bound to the original by dyld.
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
        bail!("the interpose table has {size} bytes, which is no number of pairs");
    }
    let imports = file.imports()?;
    for at in (0..size).step_by(16) {
        let word = bytes
            .get(offset + at as usize..)
            .and_then(<[u8]>::first_chunk)
            .context("a table past the end")?;
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
