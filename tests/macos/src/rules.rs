//! What our files must be.

use crate::MINIMUM;
use crate::inspect::{Facts, Kind, Need};

/// What a file must be.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Program or library.
    pub kind: Kind,
    /// A library's own name.
    pub id: Option<&'static str>,
    /// The oldest version that it must stand in for.
    pub compatibility: u32,
    /// What it may ask for: these, and nothing else.
    pub needs: &'static [(&'static str, Need)],
    /// What it must give.
    pub exports: &'static [&'static str],
    /// What its interpose table must take over: these, and nothing else.
    pub interposed: &'static [&'static str],
    /// What it must want of which library.
    pub imports: &'static [(&'static str, &'static str)],
}

/// The drop-in's version: beyond any that a VMM was linked with.
pub const COMPATIBILITY: &str = "1000.0.0";
/// The same as the file has it.
const COMPATIBLE: u32 = 1000 << 16;
/// What the tap calls itself.
pub const TAP_ID: &str = "@rpath/libtap.dylib";
/// Where the tap expects virglrenderer, and what the drop-in calls itself.
pub const VIRGLRENDERER: &str = "@rpath/libvirglrenderer.1.dylib";
const SYSTEM: &str = "/usr/lib/libSystem.B.dylib";
const CORE_FOUNDATION: &str = "/System/Library/Frameworks/CoreFoundation.framework/Versions/A/CoreFoundation";
const CORE_MEDIA: &str = "/System/Library/Frameworks/CoreMedia.framework/Versions/A/CoreMedia";
const CORE_VIDEO: &str = "/System/Library/Frameworks/CoreVideo.framework/Versions/A/CoreVideo";
const VIDEO_TOOLBOX: &str = "/System/Library/Frameworks/VideoToolbox.framework/Versions/A/VideoToolbox";

/// The daemon.
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

/// What the tap stands in front of.
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

/// The tap, to be inserted.
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

/// The tap as a libvirglrenderer.
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
    /// What is wrong with a file; nothing if nothing is.
    pub fn broken(&self, facts: &Facts) -> Vec<String> {
        let mut broken = Vec::new();
        let mut must = |holds: bool, what: String| {
            if !holds {
                broken.push(what);
            }
        };
        must(facts.arm64, "it is not for Apple silicon".to_owned());
        must(facts.kind == self.kind, format!("it is {:?}, not {:?}", facts.kind, self.kind));
        must(
            facts.minimum == Some(MINIMUM),
            format!("its oldest macOS is {:?}, not {MINIMUM:?}", facts.minimum),
        );
        must(facts.id.as_deref() == self.id, format!("it is called {:?}, not {:?}", facts.id, self.id));
        must(
            facts.compatibility >= self.compatibility,
            format!("its compatibility version is {:#x}: dyld would refuse it", facts.compatibility),
        );
        match &facts.signature {
            None => must(false, "it has no signature: a Mac kills it at once".to_owned()),
            Some(signature) => {
                must(signature.adhoc, "its signature is not ad-hoc".to_owned());
                must(
                    signature.wrong == 0,
                    format!("{} pages are not those that were signed", signature.wrong),
                );
            }
        }
        for need in self.needs {
            let found = facts.needs.iter().any(|(path, kind)| (path.as_str(), *kind) == *need);
            must(found, format!("it does not ask for {} as {:?}", need.0, need.1));
        }
        for (path, kind) in &facts.needs {
            let allowed = self.needs.contains(&(path.as_str(), *kind));
            must(allowed, format!("it asks for {path} as {kind:?}"));
        }
        for export in self.exports {
            must(facts.exports.contains(*export), format!("it does not export {export}"));
        }
        for original in self.interposed {
            match facts.interposed.iter().find(|pair| pair.original == *original) {
                None => must(false, format!("it does not take over {original}")),
                Some(pair) => {
                    must(pair.from == VIRGLRENDERER, format!("it takes {original} of {}", pair.from));
                    let text = pair.replacement_in.as_deref() == Some("__text");
                    must(text, format!("what replaces {original} is no code"));
                }
            }
        }
        for pair in &facts.interposed {
            must(
                self.interposed.contains(&pair.original.as_str()),
                format!("it takes over {}", pair.original),
            );
        }
        for (name, library) in self.imports {
            let found =
                facts.imports.iter().any(|import| (import.0.as_str(), import.1.as_str()) == (name, library));
            must(found, format!("it does not import {name} from {library}"));
        }
        broken
    }
}

/// The rules for a product.
pub fn of(product: crate::build::Product) -> Rules {
    match product {
        crate::build::Product::HostAgent => HOST_AGENT,
        crate::build::Product::Tap => TAP,
        crate::build::Product::DropIn => DROP_IN,
    }
}
