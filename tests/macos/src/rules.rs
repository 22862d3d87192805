//! Requirements on the Mach-O files that ship.

use crate::MINIMUM;
use crate::inspect::{Facts, Kind, Need};

/// Requirements on one file.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Program or library.
    pub kind: Kind,
    /// Install name of a library (`LC_ID_DYLIB`).
    pub id: Option<&'static str>,
    /// Minimum compatibility version.
    pub compatibility: u32,
    /// Exact set of libraries that it loads.
    pub needs: &'static [(&'static str, Need)],
    /// Symbols that it exports at least.
    pub exports: &'static [&'static str],
    /// Exact set of symbols that its interpose table replaces.
    pub interposed: &'static [&'static str],
    /// Symbols that it imports at least, with the library of each.
    pub imports: &'static [(&'static str, &'static str)],
}

/// Version of the drop-in library: above every version that a VMM was linked against.
pub const COMPATIBILITY: &str = "1000.0.0";
/// [`COMPATIBILITY`] in Mach-O encoding (X.Y.Z as 16.8.8 bits).
const COMPATIBLE: u32 = 1000 << 16;
/// Install name of the tap.
pub const TAP_ID: &str = "@rpath/libtap.dylib";
/// Library that the tap imports virglrenderer from, and install name of the drop-in.
pub const VIRGLRENDERER: &str = "@rpath/libvirglrenderer.1.dylib";
const SYSTEM: &str = "/usr/lib/libSystem.B.dylib";
const CORE_FOUNDATION: &str = "/System/Library/Frameworks/CoreFoundation.framework/Versions/A/CoreFoundation";
const CORE_MEDIA: &str = "/System/Library/Frameworks/CoreMedia.framework/Versions/A/CoreMedia";
const CORE_VIDEO: &str = "/System/Library/Frameworks/CoreVideo.framework/Versions/A/CoreVideo";
const VIDEO_TOOLBOX: &str = "/System/Library/Frameworks/VideoToolbox.framework/Versions/A/VideoToolbox";

/// Requirements on the daemon.
pub const HOST_AGENT: Rules = Rules {
    kind: Kind::Executable,
    id: None,
    compatibility: 0,
    needs: &[
        (SYSTEM, Need::Required),
        (CORE_FOUNDATION, Need::Required),
        (CORE_MEDIA, Need::Required),
        (CORE_VIDEO, Need::Required),
        (VIDEO_TOOLBOX, Need::Required),
    ],
    exports: &[],
    interposed: &[],
    imports: &[
        ("_VTCompressionSessionCreate", VIDEO_TOOLBOX),
        ("_VTCompressionSessionEncodeFrame", VIDEO_TOOLBOX),
        ("_VTCompressionSessionInvalidate", VIDEO_TOOLBOX),
        ("_CVPixelBufferCreateWithPlanarBytes", CORE_VIDEO),
        ("_CMVideoFormatDescriptionGetH264ParameterSetAtIndex", CORE_MEDIA),
        ("_CFRelease", CORE_FOUNDATION),
    ],
};

/// virglrenderer functions that the tap replaces.
pub const ENTRIES: [&str; 14] = [
    "_virgl_renderer_init",
    "_virgl_renderer_cleanup",
    "_virgl_renderer_reset",
    "_virgl_renderer_resource_create",
    "_virgl_renderer_resource_create_blob",
    "_virgl_renderer_resource_unref",
    "_virgl_renderer_resource_attach_iov",
    "_virgl_renderer_resource_detach_iov",
    "_virgl_renderer_context_create",
    "_virgl_renderer_context_create_with_flags",
    "_virgl_renderer_context_destroy",
    "_virgl_renderer_ctx_attach_resource",
    "_virgl_renderer_ctx_detach_resource",
    "_virgl_renderer_transfer_write_iov",
];

/// Requirements on the tap as an inserted library.
pub const TAP: Rules = Rules {
    kind: Kind::Library,
    id: Some(TAP_ID),
    compatibility: 0,
    needs: &[(SYSTEM, Need::Required), (VIRGLRENDERER, Need::Weak)],
    exports: &[],
    interposed: &ENTRIES,
    imports: &[
        ("_virgl_renderer_force_ctx_0", VIRGLRENDERER),
        ("_virgl_renderer_transfer_read_iov", VIRGLRENDERER),
    ],
};

/// Requirements on the tap as a replacement of libvirglrenderer.
pub const DROP_IN: Rules = Rules {
    kind: Kind::Library,
    id: Some(VIRGLRENDERER),
    compatibility: COMPATIBLE,
    needs: &[(SYSTEM, Need::Required), ("@loader_path/libvirglrenderer.original.dylib", Need::Reexported)],
    exports: &ENTRIES,
    interposed: &[],
    imports: &[],
};

impl Rules {
    /// Violations of the requirements by a file; empty if it meets all.
    pub fn violations(&self, facts: &Facts) -> Vec<String> {
        let mut violations = Vec::new();
        let mut must = |holds: bool, violation: String| {
            if !holds {
                violations.push(violation);
            }
        };
        must(facts.arm64, "not an arm64 file".to_owned());
        must(facts.kind == self.kind, format!("file type is {:?}, not {:?}", facts.kind, self.kind));
        must(
            facts.minimum == Some(MINIMUM),
            format!("minimum macOS version is {:?}, not {MINIMUM:?}", facts.minimum),
        );
        must(facts.id.as_deref() == self.id, format!("install name is {:?}, not {:?}", facts.id, self.id));
        must(
            facts.compatibility >= self.compatibility,
            format!("compatibility version is {:#x}: dyld would reject it", facts.compatibility),
        );
        match &facts.signature {
            None => must(false, "no signature: macOS kills the process at exec".to_owned()),
            Some(signature) => {
                must(signature.adhoc, "the signature is not ad hoc".to_owned());
                must(
                    signature.wrong == 0,
                    format!("{} pages differ from their signed hashes", signature.wrong),
                );
            }
        }
        for need in self.needs {
            let found = facts.needs.iter().any(|(path, kind)| (path.as_str(), *kind) == *need);
            must(found, format!("does not load {} as {:?}", need.0, need.1));
        }
        for (path, kind) in &facts.needs {
            let allowed = self.needs.contains(&(path.as_str(), *kind));
            must(allowed, format!("loads {path} as {kind:?}"));
        }
        for export in self.exports {
            must(facts.exports.contains(*export), format!("does not export {export}"));
        }
        for original in self.interposed {
            match facts.interposed.iter().find(|pair| pair.original == *original) {
                None => must(false, format!("does not interpose {original}")),
                Some(pair) => {
                    must(pair.from == VIRGLRENDERER, format!("interposes {original} of {}", pair.from));
                    let text = pair.replacement_in.as_deref() == Some("__text");
                    must(text, format!("the replacement of {original} is not in __text"));
                }
            }
        }
        for pair in &facts.interposed {
            must(self.interposed.contains(&pair.original.as_str()), format!("interposes {}", pair.original));
        }
        for (name, library) in self.imports {
            let found =
                facts.imports.iter().any(|import| (import.0.as_str(), import.1.as_str()) == (name, library));
            must(found, format!("does not import {name} from {library}"));
        }
        violations
    }
}

/// Requirements on a product.
pub fn of(product: crate::build::Product) -> Rules {
    match product {
        crate::build::Product::HostAgent => HOST_AGENT,
        crate::build::Product::Tap => TAP,
        crate::build::Product::DropIn => DROP_IN,
    }
}
