//! The tap's settings, read from the VMM's environment and command line.

use std::ffi::OsString;
use std::path::PathBuf;

use protocol::link::MAX_TEXT;

/// Environment variable with the path of the host-agent's link socket.
pub const LINK: &str = "DESKTOPSTREAM_LINK";
/// Environment variable in which sudo(8) passes the ID of the user who ran it.
const SUDO_UID: &str = "SUDO_UID";
/// Environment variable with the VM's name.
pub const VM: &str = "DESKTOPSTREAM_VM";

const ROOT: u32 = 0;

/// Settings of the tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Path of the host-agent's link socket.
    pub link: PathBuf,
    /// IDs of the users whose host-agent is accepted: this user, root and, if sudo started the VMM, the user who
    /// ran sudo.
    pub trusted_users: Vec<u32>,
    /// VM name, at most [`MAX_TEXT`] bytes.
    pub vm: String,
}

impl Settings {
    /// Reads the settings. Without variables the socket is `desktopstream/link.sock` in the runtime directory,
    /// and the VM's name is QEMU's `-name` or `vm-PID`.
    pub fn from_environment() -> Self {
        let arguments = crate::sys::arguments();
        let uid = rustix::process::getuid().as_raw();
        Self::from(|name| std::env::var_os(name), &arguments, std::process::id(), uid)
    }

    fn from(variable: impl Fn(&str) -> Option<OsString>, arguments: &[u8], pid: u32, uid: u32) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let runtime =
            || set("XDG_RUNTIME_DIR").map_or_else(|| crate::sys::default_folder(uid), PathBuf::from);
        let standard = || runtime().join("desktopstream/link.sock");
        let link = set(LINK).map_or_else(standard, PathBuf::from);
        let named = set(VM).map(|name| name.to_string_lossy().into_owned());
        let vm = named.or_else(|| qemu_name(arguments)).unwrap_or_else(|| format!("vm-{pid}"));
        let mut end = vm.len().min(MAX_TEXT);
        while !vm.is_char_boundary(end) {
            end -= 1;
        }
        let by_sudo = set(SUDO_UID).filter(|_| uid == ROOT);
        let by_sudo = by_sudo.and_then(|user| user.to_str()?.parse().ok());
        let trusted_users = [uid, ROOT].into_iter().chain(by_sudo).collect();
        Self { link, trusted_users, vm: vm[..end].to_owned() }
    }
}

/// The VM's name in a QEMU command line: `-name NAME`, `-name guest=NAME,debug-threads=on`.
fn qemu_name(arguments: &[u8]) -> Option<String> {
    let mut arguments = arguments.split(|byte| *byte == 0);
    arguments.find(|argument| matches!(*argument, b"-name" | b"--name"))?;
    let value = String::from_utf8_lossy(arguments.next()?).into_owned();
    let mut options = value.split(',');
    let first = options.next().filter(|first| !first.contains('='));
    let name = first.or_else(|| value.split(',').find_map(|option| option.strip_prefix("guest=")))?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], arguments: &[u8]) -> Settings {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        Settings::from(variable, arguments, 42, 1000)
    }

    #[test]
    fn vm_name_is_taken_from_variable_then_command_line_then_pid() {
        let qemu = b"qemu-system-x86_64\0-S\0-name\0guest=dev,debug-threads=on\0";
        assert_eq!(settings(&[], qemu).vm, "dev");
        assert_eq!(settings(&[], b"qemu\0-name\0dev,process=x\0").vm, "dev");
        assert_eq!(settings(&[], b"qemu\0-name\0process=x\0").vm, "vm-42");
        assert_eq!(settings(&[], b"qemu\0-name").vm, "vm-42");
        assert_eq!(settings(&[], b"").vm, "vm-42");
        assert_eq!(settings(&[(VM, "mine")], qemu).vm, "mine");
        assert_eq!(settings(&[(VM, "")], qemu).vm, "dev");
        assert_eq!(settings(&[(VM, &"ä".repeat(100))], qemu).vm, "ä".repeat(64));
    }

    #[test]
    fn host_agent_of_the_user_who_ran_sudo_is_trusted_by_root_only() {
        let variable = |key: &str| (key == SUDO_UID).then(|| "501".into());
        assert_eq!(Settings::from(variable, b"", 42, ROOT).trusted_users, [ROOT, ROOT, 501]);
        assert_eq!(Settings::from(variable, b"", 42, 1000).trusted_users, [1000, ROOT]);
        assert_eq!(settings(&[(SUDO_UID, "x")], b"").trusted_users, [1000, ROOT]);
    }

    #[test]
    fn link_defaults_to_the_runtime_directory() {
        assert_eq!(settings(&[(LINK, "/a/b")], b"").link, PathBuf::from("/a/b"));
        let runtime = settings(&[("XDG_RUNTIME_DIR", "/r")], b"");
        assert_eq!(runtime.link, PathBuf::from("/r/desktopstream/link.sock"));
        assert_eq!(settings(&[], b"").link, PathBuf::from("/run/user/1000/desktopstream/link.sock"));
    }
}
