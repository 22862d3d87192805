use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use contract::clipboard::ClipboardPolicy;
use contract::input::ControlPolicy;

use super::*;

const DISPLAY: u32 = 1;
const SEAT: &str = "wl_seat";
const KEYBOARDS: &str = "zwp_virtual_keyboard_manager_v1";
const POINTERS: &str = "zwlr_virtual_pointer_manager_v1";

/// A message of the Wayland wire format: object, opcode and arguments.
fn message(object: u32, opcode: u32, arguments: &[u8]) -> Vec<u8> {
    let size = 8 + u32::try_from(arguments.len()).expect("short");
    [&object.to_ne_bytes(), &(size << 16 | opcode).to_ne_bytes(), arguments].concat()
}

/// Event `global` of `wl_registry`, which announces an interface.
fn global(registry: u32, name: u32, interface: &str) -> Vec<u8> {
    let mut text = interface.as_bytes().to_vec();
    text.push(0);
    let length = u32::try_from(text.len()).expect("short");
    text.resize(text.len().next_multiple_of(4), 0);
    let arguments = [&name.to_ne_bytes()[..], &length.to_ne_bytes(), &text, &1_u32.to_ne_bytes()];
    message(registry, 0, &arguments.concat())
}

/// Object, opcode and first argument of the next request; `None` at the end of the connection.
fn request(stream: &mut UnixStream) -> Option<(u32, u32, u32)> {
    let mut header = [0; 8];
    stream.read_exact(&mut header).ok()?;
    let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("4 bytes"));
    let mut arguments = vec![0; (word(4) >> 16) as usize - 8];
    stream.read_exact(&mut arguments).ok()?;
    let first = arguments.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    Some((word(0), word(4) & 0xffff, first))
}

/// A compositor for one client: announces `globals` and returns the requests that were sent to other objects than display
/// and registry.
fn compositor(folder: &Path, globals: &'static [&'static str]) -> JoinHandle<Vec<(u32, u32)>> {
    let listener = UnixListener::bind(folder.join("wayland-0")).expect("bound");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let (mut registry, mut others) = (0, Vec::new());
        while let Some((object, opcode, first)) = request(&mut stream) {
            match (object, opcode) {
                // wl_display.get_registry
                (DISPLAY, 1) => {
                    registry = first;
                    for (name, interface) in (1..).zip(globals) {
                        stream.write_all(&global(registry, name, interface)).expect("written");
                    }
                }
                // wl_display.sync is answered by wl_callback.done.
                (DISPLAY, _) => stream.write_all(&message(first, 0, &[0; 4])).expect("written"),
                _ if object == registry => {}
                _ => others.push((object, opcode)),
            }
        }
        others
    })
}

async fn probed(folder: &Path) -> Result<BackendKind, String> {
    // No bus answers here; without the file, that of the environment would be used.
    std::fs::write(folder.join("bus"), "").expect("written");
    let options = InputOptions {
        runtime_dir: folder.to_owned(),
        wayland_display: Some("wayland-0".to_owned()),
        control: ControlPolicy::default(),
        clipboard: ClipboardPolicy::Off,
    };
    probe(&options).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn probe_finds_the_protocols_and_creates_no_devices() {
    let folder = tempfile::tempdir().expect("a folder");
    let compositor = compositor(folder.path(), &[SEAT, POINTERS, KEYBOARDS]);
    assert_eq!(probed(folder.path()).await, Ok(BackendKind::Wayland));
    assert_eq!(compositor.join().expect("ended"), []);
}

#[tokio::test]
async fn probe_names_the_protocol_that_the_compositor_lacks() {
    for (globals, lacking) in
        [(&[][..], SEAT), (&[SEAT, POINTERS][..], KEYBOARDS), (&[SEAT, KEYBOARDS][..], POINTERS)]
    {
        let folder = tempfile::tempdir().expect("a folder");
        let compositor = compositor(folder.path(), globals);
        let error = probed(folder.path()).await.expect_err("lacking");
        assert!(error.contains(lacking) && error.contains("use a wlroots compositor"), "{error}");
        compositor.join().expect("ended");
    }
}
