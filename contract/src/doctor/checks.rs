//! Names of checks. Checks of one encoder, key or listener append its name: `encoder x264enc`.

/// A check, as documentation describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// Check name.
    pub name: &'static str,
    /// Condition under which the check passes.
    pub passes_if: &'static str,
    /// Commands that run the check.
    pub run_by: &'static str,
    /// First remedy to try. The check's own remedy is more specific.
    pub remedy: &'static str,
}

macro_rules! checks {
    ($(#[doc = $doc:literal] $constant:ident = $name:literal, $run_by:literal, $remedy:literal;)*) => {
        $(#[doc = $doc] pub const $constant: &str = $name;)*

        /// All checks, in the order in which a frame passes them.
        pub const ALL: &[Description] =
            &[$(Description { name: $name, passes_if: $doc, run_by: $run_by, remedy: $remedy }),*];
    };
}

checks! {
    /// The render node exists and opens.
    RENDER_NODE = "render node", "sidecar doctor",
        "give the container /dev/dri/renderD128 and the group that owns it: spec.gpu on Kubernetes, --device and --group-add on Docker";
    /// The tap answers mailbox requests.
    TAP = "tap", "sidecar doctor", "start the VMM with the tap: host-agent run, or host-agent tap install on a Mac";
    /// The host-agent accepts a session.
    HOST_AGENT = "host-agent", "sidecar doctor",
        "start host-agent serve, and check that its address is reachable from the container and that it has the operator's public key";
    /// The session is bound to this container's virgl context.
    BIND = "bind", "sidecar doctor",
        "use the host-agent of the machine that runs this VM, and check that the VM's tap is connected: host-agent status";
    /// The compositor delivers frames.
    CAPTURE = "capture", "sidecar doctor",
        "share the desktop's XDG_RUNTIME_DIR with the sidecar, and check that the desktop can open the render node";
    /// The captured DMA-BUF resolves to a resource ID.
    IMPORT = "import", "sidecar doctor", "let desktop and sidecar use the same virtio-gpu render node";
    /// The tap reads a captured frame.
    READ = "read", "sidecar doctor", "see the VMM's log; a larger picture than allowed needs host-agent serve --max-pixels";
    /// The host-agent returns an access unit.
    ENCODE = "encode", "sidecar doctor", "run host-agent doctor on the host: it tries every encoder";
    /// The access unit decodes.
    DECODE = "decode", "sidecar doctor", "choose another encoder: host-agent serve --encoder";
    /// The desktop accepts keyboard and pointer. Video does not need it.
    INPUT = "input", "sidecar doctor",
        "use a wlroots compositor or GNOME Shell, and share its XDG_RUNTIME_DIR with the sidecar, on GNOME with the session bus in it";
    /// The host-agent daemon runs.
    DAEMON = "daemon", "host-agent doctor", "start it: host-agent serve, or install it as a service: host-agent install";
    /// Public keys are readable.
    KEYS = "keys", "host-agent doctor", "pass the operator's public key: host-agent serve --public-key FILE";
    /// The key of TLS listeners is private and readable.
    TLS_KEY = "tls key", "host-agent doctor", "restore the key, correct its permissions, or choose another with --tls-key";
    /// Sidecars can connect.
    LISTEN = "listen", "host-agent doctor", "stop the program that uses the address, or choose another one with --listen";
    /// Taps can connect.
    LINK = "link", "host-agent doctor", "make the socket's folder writable, and give the tap the same path";
    /// Taps are connected and healthy.
    TAPS = "taps", "host-agent doctor", "start a VM with the tap: host-agent run; restart a VM whose tap disabled itself";
    /// An encoder works.
    ENCODERS = "encoders", "host-agent doctor, host-agent selftest",
        "install an encoder: GStreamer's x264enc, vah264enc or nvh264enc on Linux";
    /// Operating system and processor.
    HOST = "host", "host-agent selftest", "this check only reports";
    /// The Docker Engine answers and is supported.
    ENGINE = "engine", "operator docker doctor", "start the Engine, and name its socket with --engine or DOCKER_HOST";
    /// The sidecar's image is present.
    IMAGE = "image", "operator docker doctor", "build or pull it; the first stream pulls it too";
    /// An operator runs for the project.
    OPERATOR = "operator", "operator docker doctor", "start it: operator docker --dir FOLDER";
    /// The machine has a GPU with a known driver.
    GPU = "gpu", "operator docker doctor", "give the VM a virtio-gpu with virgl, or set spec.gpu.count to 0";
    /// The doctor itself failed.
    DOCTOR = "doctor", "all", "report this as a bug";
}

/// Default remedy of a check; empty for a name that is not in [`ALL`].
pub fn remedy(name: &str) -> &'static str {
    ALL.iter().find(|check| check.name == name).map_or("", |check| check.remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_checks_are_distinct() {
        let mut names: Vec<_> = ALL.iter().map(|check| check.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn descriptions_are_complete() {
        for check in ALL {
            assert!(!check.passes_if.trim().is_empty() && !check.run_by.is_empty(), "{check:?}");
            assert!(!check.remedy.is_empty(), "{check:?}");
            assert_eq!(remedy(check.name), check.remedy);
        }
    }
}
