//! A Mach-O file's signature: which protections it asks for. Whether it is valid is the kernel's business.
//!
//! Apple's `cs_blobs.h` has the layout: big-endian, a super blob with an index, of which one part is the code directory
//! and another the entitlements as a property list.

use goblin::mach::MachO;
use goblin::mach::load_command::CommandVariant;

/// What a signature asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signing {
    /// The hardened runtime.
    pub hardened: bool,
    /// Only libraries of the same signer, or Apple's.
    pub own_libraries_only: bool,
    /// No signer is named.
    pub adhoc: bool,
    entitlements: String,
}

const SUPER_BLOB: u32 = 0xFADE_0CC0;
const CODE_DIRECTORY: u32 = 0xFADE_0C02;
const ENTITLEMENTS: u32 = 0xFADE_7171;
/// Bits of the code directory's flags.
const ADHOC: u32 = 0x2;
const FORCED_LIBRARY_VALIDATION: u32 = 0x10;
const LIBRARY_VALIDATION: u32 = 0x2000;
const RUNTIME: u32 = 0x1_0000;
/// Signatures have four or five parts.
const MOST_PARTS: u32 = 32;

/// That it obeys variables like DYLD_INSERT_LIBRARIES in spite of the hardened runtime.
pub const DYLD_VARIABLES: &str = "com.apple.security.cs.allow-dyld-environment-variables";
/// That it takes libraries of any signer in spite of it.
pub const ANY_LIBRARY: &str = "com.apple.security.cs.disable-library-validation";

impl Signing {
    /// Whether its entitlements grant this.
    pub fn grants(&self, name: &str) -> bool {
        let key = format!("<key>{name}</key>");
        let after = self.entitlements.split_once(&key).map(|(_, after)| after.trim_start());
        after.is_some_and(|value| value.starts_with("<true/>"))
    }

    /// Why dyld would insert no library of ours, if it would not.
    pub fn refuses(&self) -> Option<&'static str> {
        if self.hardened && !self.grants(DYLD_VARIABLES) {
            return Some(
                "it has the hardened runtime without the entitlement \
                 com.apple.security.cs.allow-dyld-environment-variables",
            );
        }
        ((self.hardened || self.own_libraries_only) && !self.grants(ANY_LIBRARY)).then_some(
            "it takes libraries of its own signer only, without the entitlement \
             com.apple.security.cs.disable-library-validation",
        )
    }
}

/// The signature that a file names; none if there is none or it makes no sense, which the kernel would not run.
pub(super) fn find(file: &MachO<'_>, bytes: &[u8]) -> Option<Signing> {
    let place = file.load_commands.iter().find_map(|command| match &command.command {
        CommandVariant::CodeSignature(place) => Some(place),
        _ => None,
    })?;
    let from = place.dataoff as usize;
    read(bytes.get(from..from.checked_add(place.datasize as usize)?)?)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

fn read(blob: &[u8]) -> Option<Signing> {
    let count = word(blob, 8)?;
    if word(blob, 0)? != SUPER_BLOB || count > MOST_PARTS {
        return None;
    }
    let mut signing = None;
    let mut entitlements = String::new();
    for part in 0..count as usize {
        let part = blob.get(word(blob, 16 + 8 * part)? as usize..)?;
        let length = word(part, 4)? as usize;
        match word(part, 0)? {
            CODE_DIRECTORY => {
                let flags = word(part, 12)?;
                signing = Some(Signing {
                    hardened: flags & RUNTIME != 0,
                    own_libraries_only: flags & (LIBRARY_VALIDATION | FORCED_LIBRARY_VALIDATION) != 0,
                    adhoc: flags & ADHOC != 0,
                    entitlements: String::new(),
                });
            }
            ENTITLEMENTS => entitlements = String::from_utf8_lossy(part.get(8..length)?).into_owned(),
            _ => {}
        }
    }
    signing.map(|signing| Signing { entitlements, ..signing })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(flags: u32, entitlements: &str) -> Vec<u8> {
        let mut directory = Vec::new();
        for word in [CODE_DIRECTORY, 16, 0x2_0400, flags] {
            directory.extend(word.to_be_bytes());
        }
        let mut blob = Vec::new();
        for word in [SUPER_BLOB, 0, 2, 0, 28, 5, 28 + 16] {
            blob.extend(word.to_be_bytes());
        }
        blob.extend(directory);
        blob.extend(ENTITLEMENTS.to_be_bytes());
        blob.extend((8 + entitlements.len() as u32).to_be_bytes());
        blob.extend(entitlements.as_bytes());
        blob
    }

    fn refuses(flags: u32, granted: &[&str]) -> Option<&'static str> {
        let list: Vec<_> = granted.iter().map(|name| format!("<key>{name}</key>\n\t<true/>")).collect();
        let list = list.join("\n");
        read(&blob(flags, &format!("<plist><dict>{list}</dict></plist>"))).expect("a signature").refuses()
    }

    #[test]
    fn protections_are_told_apart() {
        assert_eq!(refuses(ADHOC, &[]), None);
        assert!(refuses(RUNTIME, &[]).is_some_and(|why| why.contains("allow-dyld-environment-variables")));
        assert!(refuses(RUNTIME, &[DYLD_VARIABLES]).is_some_and(|why| why.contains("its own signer")));
        assert!(refuses(LIBRARY_VALIDATION, &[]).is_some_and(|why| why.contains("its own signer")));
        assert_eq!(refuses(RUNTIME, &[DYLD_VARIABLES, ANY_LIBRARY]), None);
    }

    #[test]
    fn an_entitlement_that_is_false_grants_nothing() {
        let list = format!("<key>{DYLD_VARIABLES}</key><false/><key>{ANY_LIBRARY}</key><true/>");
        assert!(read(&blob(RUNTIME, &list)).expect("a signature").refuses().is_some());
    }

    #[test]
    fn what_is_cut_off_is_no_signature() {
        let whole = blob(ADHOC, "<plist/>");
        assert!(read(&whole).is_some_and(|signing| signing.adhoc && !signing.hardened));
        assert!((0..whole.len()).all(|length| read(&whole[..length]).is_none()));
        let mut many = whole;
        many[8..12].fill(0xFF);
        assert_eq!(read(&many), None, "a count of parts that nobody has");
    }
}
