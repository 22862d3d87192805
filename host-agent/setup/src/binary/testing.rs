//! Minimal Mach-O libraries for tests: load commands and an export trie, no code.

/// `CPU_TYPE_ARM64` of `<mach/machine.h>`.
pub const ARM64: u32 = 0x0100_000C;
/// `CPU_TYPE_X86_64` of `<mach/machine.h>`.
pub const X86_64: u32 = 0x0100_0007;

/// A library to generate.
#[derive(Debug, Clone, Copy)]
pub struct Library<'a> {
    /// CPU type.
    pub processor: u32,
    /// Install name.
    pub name: &'a str,
    /// Compatibility version.
    pub compatibility: u32,
    /// Install name of a library to re-export.
    pub reexports: Option<&'a str>,
    /// Exported symbols by their C names; at most 255.
    pub exports: &'a [&'a str],
}

fn put_u32(bytes: &mut Vec<u8>, values: &[u32]) {
    for value in values {
        bytes.extend(value.to_le_bytes());
    }
}

/// A `dylib_command`: name offset, timestamp, current and compatibility version, name.
fn dylib_command(kind: u32, name: &str, version: u32) -> Vec<u8> {
    let size = (24 + name.len() + 1).next_multiple_of(8);
    let mut command = Vec::new();
    put_u32(&mut command, &[kind, size as u32, 24, 0, version, version]);
    command.extend(name.as_bytes());
    command.resize(size, 0);
    command
}

/// An export trie of two levels: the root has an edge for each whole name. Offsets are two-byte ULEB128.
fn export_trie(exports: &[&str]) -> Vec<u8> {
    let edges: usize = exports.iter().map(|name| 1 + name.len() + 1 + 2).sum();
    let mut trie = vec![0, exports.len() as u8];
    let mut leaf = 2 + edges;
    for name in exports {
        trie.push(b'_');
        trie.extend(name.as_bytes());
        trie.extend([0, (leaf & 0x7F) as u8 | 0x80, (leaf >> 7) as u8]);
        leaf += 4;
    }
    // A leaf: two bytes of terminal data (regular symbol at address 0), no children.
    trie.extend([2, 0, 0, 0].repeat(exports.len()));
    trie
}

impl Library<'_> {
    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        const LC_ID_DYLIB: u32 = 0xD;
        const LC_REEXPORT_DYLIB: u32 = 0x8000_001F;
        const LC_DYLD_EXPORTS_TRIE: u32 = 0x8000_0033;
        const MH_MAGIC_64: u32 = 0xFEED_FACF;
        const MH_DYLIB: u32 = 6;
        const MH_DYLDLINK: u32 = 0x4;
        let mut commands = dylib_command(LC_ID_DYLIB, self.name, self.compatibility);
        let mut count = 2;
        if let Some(name) = self.reexports {
            commands.extend(dylib_command(LC_REEXPORT_DYLIB, name, 1 << 16));
            count += 1;
        }
        let trie = export_trie(self.exports);
        let trie_offset = 32 + commands.len() as u32 + 16;
        put_u32(&mut commands, &[LC_DYLD_EXPORTS_TRIE, 16, trie_offset, trie.len() as u32]);
        let mut file = Vec::new();
        put_u32(
            &mut file,
            &[MH_MAGIC_64, self.processor, 0, MH_DYLIB, count, commands.len() as u32, MH_DYLDLINK, 0],
        );
        file.extend(commands);
        file.extend(trie);
        file
    }
}
