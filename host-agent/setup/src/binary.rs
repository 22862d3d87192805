//! What a program or library says of itself: ELF and Mach-O headers, read, not judged. What to think of it is
//! [`run`](crate::run)'s and [`renderer`](crate::renderer)'s. Any system's files can be read on any other.

mod signature;
#[cfg(test)]
pub mod testing;

use std::collections::BTreeSet;

use goblin::elf::Elf;
use goblin::mach::load_command::CommandVariant;
use goblin::mach::{Mach, MachO, MultiArch, cputype};

pub use signature::Signing;

/// A file for one processor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Binary {
    /// What it is for: `macOS on arm64`.
    pub target: String,
    /// It is a program and not a library.
    pub program: bool,
    /// The dynamic linker sees it.
    pub dynamic: bool,
    /// A library's own name: soname, or install name.
    pub name: Option<String>,
    /// The oldest version that it says to stand in for; Macs compare it.
    pub compatibility: u32,
    /// Libraries that it asks for, by their names.
    pub needs: Vec<String>,
    /// Symbols that it gives, as C names them.
    pub exports: BTreeSet<String>,
    /// A segment by which dyld knows to insert nothing.
    pub restricted: bool,
    /// Its signature, if it has one.
    pub signing: Option<Signing>,
}

impl Binary {
    /// Whether it is for a Mac.
    pub fn is_macs(&self) -> bool {
        self.target.starts_with("macOS")
    }

    /// All that a file has: one, or one for each processor.
    pub fn read(bytes: &[u8]) -> Result<Vec<Self>, &'static str> {
        match bytes {
            [b'#', b'!', ..] => Err("a script"),
            [0x7F, b'E', b'L', b'F', ..] => Ok(vec![elf(bytes).ok_or("a damaged ELF file")?]),
            _ => match Mach::parse(bytes).map_err(|_| "neither ELF nor Mach-O")? {
                Mach::Binary(file) => Ok(vec![mach(&file, bytes).ok_or("a damaged Mach-O file")?]),
                Mach::Fat(fat) => universal(&fat, bytes).ok_or("a damaged universal file"),
            },
        }
    }
}

fn elf(bytes: &[u8]) -> Option<Binary> {
    let file = Elf::parse(bytes).ok()?;
    let processor = match file.header.e_machine {
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        other => format!("ELF machine {other}"),
    };
    let given = file.dynsyms.iter().filter(|symbol| symbol.st_shndx != 0);
    Some(Binary {
        target: format!("Linux on {processor}"),
        program: file.interpreter.is_some(),
        dynamic: file.dynamic.is_some(),
        name: file.soname.map(str::to_owned),
        compatibility: 0,
        needs: file.libraries.iter().map(|&name| name.to_owned()).collect(),
        exports: given
            .filter_map(|symbol| file.dynstrtab.get_at(symbol.st_name))
            .map(str::to_owned)
            .collect(),
        restricted: false,
        signing: None,
    })
}

fn universal(fat: &MultiArch<'_>, bytes: &[u8]) -> Option<Vec<Binary>> {
    let mut all = Vec::new();
    for arch in fat.iter_arches() {
        let arch = arch.ok()?;
        let (from, to) = (arch.offset as usize, arch.offset as usize + arch.size as usize);
        let part = bytes.get(from..to)?;
        all.push(mach(&MachO::parse(part, 0).ok()?, part)?);
    }
    Some(all)
}

fn mach(file: &MachO<'_>, bytes: &[u8]) -> Option<Binary> {
    let processor = match file.header.cputype() {
        cputype::CPU_TYPE_ARM64 => "arm64".to_owned(),
        cputype::CPU_TYPE_X86_64 => "x86_64".to_owned(),
        other => format!("CPU type {other:#x}"),
    };
    let exports = file.exports().ok()?;
    let compatibility = file.load_commands.iter().find_map(|command| match &command.command {
        CommandVariant::IdDylib(own) => Some(own.dylib.compatibility_version),
        _ => None,
    });
    let mut restricted = false;
    for segment in &file.segments {
        restricted |= segment.name().ok()? == "__RESTRICT";
    }
    Some(Binary {
        target: format!("macOS on {processor}"),
        program: file.header.filetype == goblin::mach::header::MH_EXECUTE,
        dynamic: file.header.flags & goblin::mach::header::MH_DYLDLINK != 0,
        name: file.name.map(str::to_owned),
        compatibility: compatibility.unwrap_or_default(),
        // The first is the file itself.
        needs: file.libs.iter().skip(1).map(|&name| name.to_owned()).collect(),
        exports: exports
            .iter()
            .map(|export| export.name.strip_prefix('_').unwrap_or(&export.name).to_owned())
            .collect(),
        restricted,
        signing: signature::find(file, bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_what_it_is() {
        let own = std::fs::read(std::env::current_exe().expect("known")).expect("read");
        let [binary] = &Binary::read(&own).expect("a program")[..] else { panic!("one processor") };
        assert!(binary.target.ends_with(std::env::consts::ARCH) || binary.is_macs(), "{}", binary.target);
        assert!(binary.program && binary.dynamic && !binary.restricted);
        assert!(!binary.needs.is_empty());
    }

    #[test]
    fn what_is_no_binary_is_said() {
        assert_eq!(Binary::read(b"#!/bin/sh\n"), Err("a script"));
        assert_eq!(Binary::read(b"\x7FELF\x02\x01\x01"), Err("a damaged ELF file"));
        assert_eq!(Binary::read(b"PK\x03\x04 and so on, and so on"), Err("neither ELF nor Mach-O"));
        assert!(Binary::read(&[]).is_err());
        // A universal file whose only part lies past its end.
        let mut fat = vec![0xCA, 0xFE, 0xBA, 0xBE, 0, 0, 0, 1, 1, 0, 0, 0x0C, 0, 0, 0, 0];
        fat.extend([0, 0, 0x40, 0, 0, 0, 0x40, 0, 0, 0, 0, 14]);
        assert_eq!(Binary::read(&fat), Err("a damaged universal file"));
    }
}
