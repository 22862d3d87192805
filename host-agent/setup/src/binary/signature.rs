//! Mach-O code signatures: the protections they request. Validity is for the kernel to check.
//!
//! Layout: Apple's `cs_blobs.h`. Big-endian; a super blob with an index of parts, among them the code
//! directory and the entitlements as an XML property list.

use goblin::mach::MachO;
use goblin::mach::load_command::CommandVariant;

/// The protections that a code signature requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signature {
    /// `CS_RUNTIME`: the hardened runtime.
    pub hardened: bool,
    /// `CS_REQUIRE_LV` or `CS_FORCED_LV`: only libraries of the same signer, or of Apple.
    pub library_validation: bool,
    /// Entitlements whose value is `true`.
    entitlements: Vec<String>,
}

/// A protection because of which dyld does not preload the tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PreloadBarrier {
    /// The hardened runtime ignores dyld's environment variables.
    #[error("it has the hardened runtime without the entitlement {DYLD_VARIABLES}")]
    HardenedRuntime,
    /// Library validation refuses libraries of another signer.
    #[error("it accepts only libraries of its own signer and lacks the entitlement {ANY_LIBRARY}")]
    LibraryValidation,
}

const SUPER_BLOB: u32 = 0xFADE_0CC0;
const CODE_DIRECTORY: u32 = 0xFADE_0C02;
const ENTITLEMENTS: u32 = 0xFADE_7171;
const CS_FORCED_LV: u32 = 0x10;
const CS_REQUIRE_LV: u32 = 0x2000;
const CS_RUNTIME: u32 = 0x1_0000;
/// Most parts of a super blob that are parsed. Signatures have four or five.
const MAX_PARTS: u32 = 32;

/// Entitlement: dyld obeys variables like `DYLD_INSERT_LIBRARIES` despite the hardened runtime.
const DYLD_VARIABLES: &str = "com.apple.security.cs.allow-dyld-environment-variables";
/// Entitlement: libraries of any signer may be loaded.
const ANY_LIBRARY: &str = "com.apple.security.cs.disable-library-validation";

impl Signature {
    /// Whether the entitlements grant `name`.
    pub fn grants(&self, name: &str) -> bool {
        self.entitlements.iter().any(|granted| granted == name)
    }

    /// The protection that keeps dyld from preloading the tap, if any.
    pub fn preload_barrier(&self) -> Option<PreloadBarrier> {
        if self.hardened && !self.grants(DYLD_VARIABLES) {
            return Some(PreloadBarrier::HardenedRuntime);
        }
        let validated = (self.hardened || self.library_validation) && !self.grants(ANY_LIBRARY);
        validated.then_some(PreloadBarrier::LibraryValidation)
    }
}

/// The signature of a file; `None` if it has none or a malformed one, which the kernel would not execute.
pub(super) fn find(file: &MachO<'_>, bytes: &[u8]) -> Option<Signature> {
    let command = file.load_commands.iter().find_map(|command| match &command.command {
        CommandVariant::CodeSignature(command) => Some(command),
        _ => None,
    })?;
    let from = command.dataoff as usize;
    parse(bytes.get(from..from.checked_add(command.datasize as usize)?)?)
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

fn parse(blob: &[u8]) -> Option<Signature> {
    let count = be_u32(blob, 8)?;
    if be_u32(blob, 0)? != SUPER_BLOB || count > MAX_PARTS {
        return None;
    }
    let mut signature = None;
    let mut entitlements = Vec::new();
    for part in 0..count as usize {
        let part = blob.get(be_u32(blob, 16 + 8 * part)? as usize..)?;
        let length = be_u32(part, 4)? as usize;
        match be_u32(part, 0)? {
            CODE_DIRECTORY => {
                let flags = be_u32(part, 12)?;
                signature = Some(Signature {
                    hardened: flags & CS_RUNTIME != 0,
                    library_validation: flags & (CS_REQUIRE_LV | CS_FORCED_LV) != 0,
                    entitlements: Vec::new(),
                });
            }
            ENTITLEMENTS => entitlements = granted(part.get(8..length)?),
            _ => {}
        }
    }
    signature.map(|signature| Signature { entitlements, ..signature })
}

/// The keys of a property list whose value is `true`; none if it cannot be parsed.
fn granted(xml: &[u8]) -> Vec<String> {
    let list = plist::Value::from_reader_xml(xml).ok().and_then(plist::Value::into_dictionary);
    let entries = list.into_iter().flatten();
    entries.filter(|(_, value)| value.as_boolean() == Some(true)).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ad hoc signature: the linker's default on arm64.
    const CS_ADHOC: u32 = 0x2;

    fn blob(flags: u32, entitlements: &str) -> Vec<u8> {
        let mut directory = Vec::new();
        for field in [CODE_DIRECTORY, 16, 0x2_0400, flags] {
            directory.extend(field.to_be_bytes());
        }
        let mut blob = Vec::new();
        for field in [SUPER_BLOB, 0, 2, 0, 28, 5, 28 + 16] {
            blob.extend(field.to_be_bytes());
        }
        blob.extend(directory);
        blob.extend(ENTITLEMENTS.to_be_bytes());
        blob.extend((8 + entitlements.len() as u32).to_be_bytes());
        blob.extend(entitlements.as_bytes());
        blob
    }

    fn property_list(entries: &str) -> String {
        format!("<?xml version=\"1.0\"?>\n<plist version=\"1.0\"><dict>{entries}</dict></plist>")
    }

    fn barrier(flags: u32, granted: &[&str]) -> Option<PreloadBarrier> {
        let entries: Vec<_> = granted.iter().map(|name| format!("<key>{name}</key>\n\t<true/>")).collect();
        let signature = parse(&blob(flags, &property_list(&entries.join("\n")))).expect("parsed");
        signature.preload_barrier()
    }

    #[test]
    fn protection_without_its_entitlement_is_a_barrier() {
        use PreloadBarrier::{HardenedRuntime, LibraryValidation};
        assert_eq!(barrier(CS_ADHOC, &[]), None);
        assert_eq!(barrier(CS_RUNTIME, &[]), Some(HardenedRuntime));
        assert_eq!(barrier(CS_RUNTIME, &[DYLD_VARIABLES]), Some(LibraryValidation));
        assert_eq!(barrier(CS_REQUIRE_LV, &[]), Some(LibraryValidation));
        assert_eq!(barrier(CS_FORCED_LV, &[]), Some(LibraryValidation));
        assert_eq!(barrier(CS_RUNTIME, &[DYLD_VARIABLES, ANY_LIBRARY]), None);
    }

    #[test]
    fn false_entitlement_grants_nothing() {
        let entries = format!(
            "<key>{DYLD_VARIABLES}</key><false/><key>{ANY_LIBRARY}</key><true/><key>x</key><string/>"
        );
        let signature = parse(&blob(CS_RUNTIME, &property_list(&entries))).expect("parsed");
        assert!(!signature.grants(DYLD_VARIABLES) && signature.grants(ANY_LIBRARY));
        assert_eq!(signature.preload_barrier(), Some(PreloadBarrier::HardenedRuntime));
    }

    #[test]
    fn truncated_or_oversized_signature_is_ignored() {
        let whole = blob(CS_ADHOC, "<plist/>");
        assert!(parse(&whole).is_some_and(|signature| !signature.hardened));
        assert!((0..whole.len()).all(|length| parse(&whole[..length]).is_none()));
        let mut many = whole;
        many[8..12].fill(0xFF);
        assert_eq!(parse(&many), None, "more parts than MAX_PARTS");
    }
}
