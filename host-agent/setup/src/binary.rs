//! Headers of ELF and Mach-O files of any operating system. This module only parses;
//! [`launch`](crate::launch), [`application`](crate::application) and [`renderer`](crate::renderer) judge
//! the result.

mod signature;
#[cfg(test)]
pub mod testing;

use std::collections::BTreeSet;

use goblin::elf::Elf;
use goblin::elf::header::{EM_AARCH64, EM_X86_64};
use goblin::elf::section_header::SHN_UNDEF;
use goblin::mach::header::{MH_DYLDLINK, MH_EXECUTE};
use goblin::mach::load_command::CommandVariant;
use goblin::mach::{Mach, MachO, MultiArch, cputype};

pub use signature::{PreloadBarrier, Signature};

/// A program or library for one processor: an ELF file, or one architecture of a Mach-O file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Binary {
    /// Operating system and processor: `macOS on arm64`, `Linux on x86_64`.
    pub target: String,
    /// Whether it is an executable rather than a library.
    pub executable: bool,
    /// Whether the dynamic linker loads it.
    pub dynamic: bool,
    /// A library's soname or install name.
    pub name: Option<String>,
    /// A Mach-O library's compatibility version, `0xMMMMmmpp`; 0 for others.
    pub compatibility: u32,
    /// Names of the libraries it links to.
    pub needs: Vec<String>,
    /// Exported symbols by their C names, without Mach-O's leading underscore.
    pub exports: BTreeSet<String>,
    /// Whether it has a `__RESTRICT` segment, which makes dyld ignore its environment variables.
    pub restricted: bool,
    /// The code signature of a Mach-O file.
    pub signature: Option<Signature>,
}

/// Reason why a file is neither an ELF nor a Mach-O file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BinaryError {
    /// Begins with `#!`.
    #[error("it is a script")]
    Script,
    /// Has ELF's magic and cannot be parsed.
    #[error("it is a damaged ELF file")]
    DamagedElf,
    /// Has Mach-O's magic and cannot be parsed.
    #[error("it is a damaged Mach-O file")]
    DamagedMachO,
    /// Is a universal file, one of whose architectures cannot be parsed.
    #[error("it is a damaged universal Mach-O file")]
    DamagedUniversal,
    /// Has another magic.
    #[error("it is neither an ELF nor a Mach-O file")]
    Unknown,
}

impl Binary {
    /// Whether the file is for macOS.
    pub fn is_for_macos(&self) -> bool {
        self.target.starts_with("macOS")
    }

    /// Parses a file: one binary, or one for each architecture of a universal file.
    ///
    /// # Errors
    /// The file is not a program or library, or is damaged.
    pub fn parse(bytes: &[u8]) -> Result<Vec<Self>, BinaryError> {
        match bytes {
            [b'#', b'!', ..] => Err(BinaryError::Script),
            [0x7F, b'E', b'L', b'F', ..] => Ok(vec![elf(bytes).ok_or(BinaryError::DamagedElf)?]),
            _ => match Mach::parse(bytes).map_err(|_| BinaryError::Unknown)? {
                Mach::Binary(file) => Ok(vec![mach_o(&file, bytes).ok_or(BinaryError::DamagedMachO)?]),
                Mach::Fat(fat) => universal(&fat, bytes).ok_or(BinaryError::DamagedUniversal),
            },
        }
    }
}

fn elf(bytes: &[u8]) -> Option<Binary> {
    let file = Elf::parse(bytes).ok()?;
    let processor = match file.header.e_machine {
        EM_X86_64 => "x86_64".to_owned(),
        EM_AARCH64 => "aarch64".to_owned(),
        other => format!("ELF machine {other}"),
    };
    let defined = file.dynsyms.iter().filter(|symbol| symbol.st_shndx != SHN_UNDEF as usize);
    Some(Binary {
        target: format!("Linux on {processor}"),
        executable: file.interpreter.is_some(),
        dynamic: file.dynamic.is_some(),
        name: file.soname.map(str::to_owned),
        compatibility: 0,
        needs: file.libraries.iter().map(|&name| name.to_owned()).collect(),
        exports: defined
            .filter_map(|symbol| file.dynstrtab.get_at(symbol.st_name))
            .map(str::to_owned)
            .collect(),
        restricted: false,
        signature: None,
    })
}

fn universal(fat: &MultiArch<'_>, bytes: &[u8]) -> Option<Vec<Binary>> {
    let mut all = Vec::new();
    for arch in fat.iter_arches() {
        let arch = arch.ok()?;
        let (from, to) = (arch.offset as usize, arch.offset as usize + arch.size as usize);
        let part = bytes.get(from..to)?;
        all.push(mach_o(&MachO::parse(part, 0).ok()?, part)?);
    }
    Some(all)
}

fn mach_o(file: &MachO<'_>, bytes: &[u8]) -> Option<Binary> {
    let processor = match file.header.cputype() {
        cputype::CPU_TYPE_ARM64 => "arm64".to_owned(),
        cputype::CPU_TYPE_X86_64 => "x86_64".to_owned(),
        other => format!("CPU type {other:#x}"),
    };
    let exports = file.exports().ok()?;
    let compatibility = file.load_commands.iter().find_map(|command| match &command.command {
        CommandVariant::IdDylib(id) => Some(id.dylib.compatibility_version),
        _ => None,
    });
    let mut restricted = false;
    for segment in &file.segments {
        restricted |= segment.name().ok()? == "__RESTRICT";
    }
    Some(Binary {
        target: format!("macOS on {processor}"),
        executable: file.header.filetype == MH_EXECUTE,
        dynamic: file.header.flags & MH_DYLDLINK != 0,
        name: file.name.map(str::to_owned),
        compatibility: compatibility.unwrap_or_default(),
        // goblin lists the file itself first.
        needs: file.libs.iter().skip(1).map(|&name| name.to_owned()).collect(),
        exports: exports
            .iter()
            .map(|export| export.name.strip_prefix('_').unwrap_or(&export.name).to_owned())
            .collect(),
        restricted,
        signature: signature::find(file, bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_executable_is_described_correctly() {
        let own = std::fs::read(std::env::current_exe().expect("path known")).expect("file read");
        let [binary] = &Binary::parse(&own).expect("parsed")[..] else { panic!("one architecture") };
        assert!(
            binary.target.ends_with(std::env::consts::ARCH) || binary.is_for_macos(),
            "{}",
            binary.target
        );
        assert!(binary.executable && binary.dynamic && !binary.restricted);
        assert!(!binary.needs.is_empty());
    }

    #[test]
    fn other_files_are_refused_by_kind() {
        assert_eq!(Binary::parse(b"#!/bin/sh\n"), Err(BinaryError::Script));
        assert_eq!(Binary::parse(b"\x7FELF\x02\x01\x01"), Err(BinaryError::DamagedElf));
        assert_eq!(Binary::parse(b"PK\x03\x04 and more than a header"), Err(BinaryError::Unknown));
        assert!(Binary::parse(&[]).is_err());
    }

    #[test]
    fn universal_file_with_an_architecture_past_its_end_is_refused() {
        let mut fat = vec![0xCA, 0xFE, 0xBA, 0xBE, 0, 0, 0, 1, 1, 0, 0, 0x0C, 0, 0, 0, 0];
        fat.extend([0, 0, 0x40, 0, 0, 0, 0x40, 0, 0, 0, 0, 14]);
        assert_eq!(Binary::parse(&fat), Err(BinaryError::DamagedUniversal));
    }
}
