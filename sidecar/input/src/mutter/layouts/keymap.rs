//! The keymap in force, as GNOME Shell sends it to every client of its seat.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::fs::{FileType, fstat};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wayland_client::protocol::wl_keyboard::{self, WlKeyboard};
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_seat::{self, Capability, WlSeat};
use wayland_client::{Connection, Dispatch, EventQueue, Proxy as _, QueueHandle, WEnum};

use super::symbols::TEXT_GROUP;
use crate::InputOptions;
use crate::wayland::{dispatch, open};

/// Maximum size of a keymap, bytes. Those of xkeyboard-config have some 60 KiB.
const MAX_KEYMAP: usize = 1 << 20;

/// A keymap that the compositor sent.
#[derive(Debug, Default)]
struct Keymap {
    /// Number of keymaps so far.
    number: u64,
    /// Name of its first group.
    group: String,
}

/// Keymap in force.
#[derive(Debug)]
pub struct CurrentKeymap {
    keymap: watch::Receiver<Keymap>,
    /// Receives keymaps; ends with this value.
    _receiving: JoinSet<()>,
}

impl CurrentKeymap {
    /// Connects to the first compositor of the desktop; `None` if there is none.
    pub fn connect(options: &InputOptions) -> Option<Self> {
        let sockets =
            desktop_session::wayland_sockets(&options.runtime_dir, options.wayland_display.as_deref());
        let (connection, socket) = sockets.iter().find_map(|path| open(path).ok())?;
        let mut queue: EventQueue<Client> = connection.new_event_queue();
        connection.display().get_registry(&queue.handle(), ());
        let (sender, keymap) = watch::channel(Keymap::default());
        let mut receiving = JoinSet::new();
        receiving.spawn(async move {
            let mut client = Client { keymap: sender, has_keyboard: false };
            while dispatch(&mut queue, &mut client, &socket).await.is_ok() {}
        });
        Some(Self { keymap, _receiving: receiving })
    }

    /// Number of keymaps so far.
    pub fn number(&self) -> u64 {
        self.keymap.borrow().number
    }

    /// Waits until the first group has a name, or until a keymap without a text of ours follows number `after`. False if
    /// neither happens in time.
    pub async fn becomes(&mut self, group: &str, after: Option<u64>, time: Duration) -> bool {
        let found = self.keymap.wait_for(|keymap| {
            let follows = |after| keymap.number > after && !keymap.group.starts_with(TEXT_GROUP);
            keymap.group == group || after.is_some_and(follows)
        });
        matches!(tokio::time::timeout(time, found).await, Ok(Ok(_)))
    }
}

/// Name of the first group in a keymap of text format 1: the description of its layout.
fn group_name(keymap: &str) -> Option<&str> {
    let (_, symbols) = keymap.split_once("xkb_symbols")?;
    let (_, name) = symbols.split_once("name[")?;
    let (_, name) = name.split_once('"')?;
    Some(name.split_once('"')?.0)
}

/// Reads a keymap from the compositor's memory file.
fn read(fd: OwnedFd, size: u32) -> Option<String> {
    let is_file = FileType::from_raw_mode(fstat(&fd).ok()?.st_mode) == FileType::RegularFile;
    let size = usize::try_from(size).ok().filter(|size| is_file && *size <= MAX_KEYMAP)?;
    let mut bytes = vec![0; size];
    std::fs::File::from(fd).read_exact_at(&mut bytes, 0).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

struct Client {
    keymap: watch::Sender<Keymap>,
    /// True once the seat had a keyboard.
    has_keyboard: bool,
}

impl Dispatch<WlRegistry, ()> for Client {
    fn event(
        _: &mut Self,
        registry: &WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        queue: &QueueHandle<Self>,
    ) {
        if let wl_registry::Event::Global { name, interface, .. } = event
            && interface == WlSeat::interface().name
        {
            registry.bind::<WlSeat, _, _>(name, 1, queue, ());
        }
    }
}

impl Dispatch<WlSeat, ()> for Client {
    fn event(
        client: &mut Self,
        seat: &WlSeat,
        event: wl_seat::Event,
        (): &(),
        _: &Connection,
        queue: &QueueHandle<Self>,
    ) {
        // GNOME Shell 48 crashes if a client takes the keyboard of a seat without one.
        if let wl_seat::Event::Capabilities { capabilities: WEnum::Value(capabilities) } = event
            && capabilities.contains(Capability::Keyboard)
            && !client.has_keyboard
        {
            seat.get_keyboard(queue, ());
            client.has_keyboard = true;
        }
    }
}

impl Dispatch<WlKeyboard, ()> for Client {
    fn event(
        client: &mut Self,
        _: &WlKeyboard,
        event: wl_keyboard::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_keyboard::Event::Keymap { fd, size, .. } = event {
            let keymap = read(fd, size).unwrap_or_default();
            let group = group_name(&keymap).unwrap_or_default().to_owned();
            tracing::debug!(group, "keymap");
            client.keymap.send_modify(|keymap| *keymap = Keymap { number: keymap.number + 1, group });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_named_after_its_layout() {
        let keymap = "xkb_keymap {\nxkb_types \"(unnamed)\" {};\nxkb_symbols \"(unnamed)\" {\n\tname[1]=\"German (no dead keys)\";\n\
                      \tname[2]=\"English (US)\";\n};\n};";
        assert_eq!(group_name(keymap), Some("German (no dead keys)"));
        assert_eq!(group_name("xkb_symbols \"(unnamed)\" { name[1]=\"unterminated"), None);
    }

    #[tokio::test]
    async fn layout_is_in_force_by_its_name_or_after_another_keymap() {
        let (sender, keymap) = watch::channel(Keymap { number: 1, group: "English (US)".to_owned() });
        let mut current = CurrentKeymap { keymap, _receiving: JoinSet::new() };
        let time = Duration::ZERO;
        assert!(current.becomes("English (US)", Some(1), time).await, "already in force");
        assert!(!current.becomes("German", Some(1), time).await);
        sender.send_replace(Keymap { number: 2, group: format!("{TEXT_GROUP} 1") });
        assert!(!current.becomes("German", Some(1), time).await, "a layout for text");
        assert!(current.becomes(&format!("{TEXT_GROUP} 1"), None, time).await);
        sender.send_replace(Keymap { number: 3, group: "Deutsch".to_owned() });
        assert!(current.becomes("German", Some(2), time).await, "another name than expected");
        assert!(!current.becomes(&format!("{TEXT_GROUP} 2"), None, time).await);
    }

    #[test]
    fn keymap_is_read_from_a_regular_file_of_its_size_only() {
        let (file, size) = crate::keymap::file("xkb_keymap {};").expect("a file");
        assert!(
            read(file.try_clone().expect("a descriptor"), size)
                .is_some_and(|text| text.starts_with("xkb_keymap"))
        );
        assert_eq!(read(file.try_clone().expect("a descriptor"), size + 1), None, "shorter than announced");
        assert_eq!(read(file, u32::MAX), None, "too large");
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        assert_eq!(read(reader.into(), 4), None, "a pipe");
    }
}
