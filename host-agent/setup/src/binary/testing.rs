//! Mach-O libraries as small as they can be, for tests: load commands and an export trie, no code.

/// CPU type of Apple silicon.
pub const ARM64: u32 = 0x0100_000C;
/// CPU type of the Macs before.
pub const X86_64: u32 = 0x0100_0007;

/// What the library says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Library<'a> {
    /// CPU type.
    pub processor: u32,
    /// Install name.
    pub name: &'a str,
    /// Compatibility version.
    pub compatibility: u32,
    /// What it gives of another.
    pub reexports: Option<&'a str>,
    /// Its own symbols, as C names them.
    pub exports: &'a [&'a str],
}

fn words(bytes: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        bytes.extend(word.to_le_bytes());
    }
}

/// `struct dylib_command`: name's offset, timestamp, current and compatibility version, name.
fn dylib(kind: u32, name: &str, version: u32) -> Vec<u8> {
    let size = (24 + name.len() + 1).next_multiple_of(8);
    let mut command = Vec::new();
    words(&mut command, &[kind, size as u32, 24, 0, version, version]);
    command.extend(name.as_bytes());
    command.resize(size, 0);
    command
}

/// Two levels: the root has an edge for each whole name. Offsets are ULEB128 of two bytes.
fn trie(exports: &[&str]) -> Vec<u8> {
    let edges: usize = exports.iter().map(|name| 1 + name.len() + 1 + 2).sum();
    let mut trie = vec![0, exports.len() as u8];
    let mut leaf = 2 + edges;
    for name in exports {
        trie.push(b'_');
        trie.extend(name.as_bytes());
        trie.extend([0, (leaf & 0x7F) as u8 | 0x80, (leaf >> 7) as u8]);
        leaf += 4;
    }
    // Two bytes of information: regular, at address 0; no children.
    trie.extend([2, 0, 0, 0].repeat(exports.len()));
    trie
}

impl Library<'_> {
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut commands = dylib(0xD, self.name, self.compatibility);
        let mut count = 2;
        if let Some(other) = self.reexports {
            commands.extend(dylib(0x8000_001F, other, 1 << 16));
            count += 1;
        }
        let trie = trie(self.exports);
        let at = 32 + commands.len() as u32 + 16;
        // LC_DYLD_EXPORTS_TRIE.
        words(&mut commands, &[0x8000_0033, 16, at, trie.len() as u32]);
        let mut file = Vec::new();
        // MH_DYLIB, linked by dyld.
        words(&mut file, &[0xFEED_FACF, self.processor, 0, 6, count, commands.len() as u32, 0x4, 0]);
        file.extend(commands);
        file.extend(trie);
        file
    }
}
