//! Both data-control protocols against a fake compositor.

use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use contract::clipboard::Format;
use wayland_protocols::ext::data_control::v1::server as ext;
use wayland_protocols_wlr::data_control::v1::server as wlr;
use wayland_server::protocol::wl_seat::WlSeat;
use wayland_server::{
    Client, DataInit, Dispatch, Display, DisplayHandle, GlobalDispatch, New, Resource as _,
};

use super::*;

const TIMEOUT: Duration = Duration::from_mins(1);

/// Bytes that a program of the desktop copied, in this MIME type.
const COPIED: (&str, &[u8]) = ("text/plain;charset=utf-8", "kopiert: ü".as_bytes());

/// Next act of the compositor.
enum Step {
    /// A program copies [`COPIED`], among this number of unknown MIME types.
    Copy(usize),
    /// A program announces this number of contents that never become the selection.
    Announce(usize),
    /// A program pastes in this MIME type, into the pipe.
    Paste(&'static str, OwnedFd),
    /// The program that copies replaces the viewer's content.
    Cancel,
    Stop,
}

macro_rules! fake_compositor {
    ($name:ident, $protocol:ident, $manager:ident :: $Manager:ident, $device:ident :: $Device:ident,
     $offer:ident :: $Offer:ident, $source:ident :: $Source:ident) => {
        mod $name {
            use super::*;
            use $protocol::$device::{self, $Device};
            use $protocol::$manager::{self, $Manager};
            use $protocol::$offer::{self, $Offer};
            use $protocol::$source::{self, $Source};

            /// A compositor without programs.
            #[derive(Default)]
            pub struct Fake {
                device: Option<$Device>,
                source: Option<$Source>,
                types: Vec<String>,
            }

            impl Fake {
                pub fn step(&mut self, display: &DisplayHandle, step: Step) {
                    let Some(device) = &self.device else { return };
                    let announce = |unknown: usize| {
                        let client = device.client().expect("connected");
                        let offer =
                            client.create_resource::<$Offer, _, Self>(display, 1, ()).expect("created");
                        device.data_offer(&offer);
                        for n in 0..unknown {
                            offer.offer(format!("application/x-{n}-{}", "x".repeat(50)));
                        }
                        offer.offer(COPIED.0.to_owned());
                        offer
                    };
                    match step {
                        Step::Copy(unknown) => {
                            let offer = announce(unknown);
                            device.selection(Some(&offer));
                        }
                        Step::Announce(count) => (0..count).for_each(|_| drop(announce(1))),
                        Step::Paste(mime, pipe) => {
                            let source = self.source.as_ref().expect("a content");
                            source.send(mime.to_owned(), pipe.as_fd());
                        }
                        Step::Cancel => self.source.take().expect("a content").cancelled(),
                        Step::Stop => {}
                    }
                }
            }

            impl GlobalDispatch<WlSeat, ()> for Fake {
                fn bind(
                    _: &mut Self,
                    _: &DisplayHandle,
                    _: &Client,
                    new: New<WlSeat>,
                    (): &(),
                    init: &mut DataInit<'_, Self>,
                ) {
                    init.init(new, ());
                }
            }

            impl GlobalDispatch<$Manager, ()> for Fake {
                fn bind(
                    _: &mut Self,
                    _: &DisplayHandle,
                    _: &Client,
                    new: New<$Manager>,
                    (): &(),
                    init: &mut DataInit<'_, Self>,
                ) {
                    init.init(new, ());
                }
            }

            impl Dispatch<WlSeat, ()> for Fake {
                fn request(
                    _: &mut Self,
                    _: &Client,
                    _: &WlSeat,
                    _: wayland_server::protocol::wl_seat::Request,
                    (): &(),
                    _: &DisplayHandle,
                    _: &mut DataInit<'_, Self>,
                ) {
                }
            }

            impl Dispatch<$Manager, ()> for Fake {
                fn request(
                    state: &mut Self,
                    _: &Client,
                    _: &$Manager,
                    request: $manager::Request,
                    (): &(),
                    _: &DisplayHandle,
                    init: &mut DataInit<'_, Self>,
                ) {
                    match request {
                        $manager::Request::CreateDataSource { id } => {
                            init.init(id, ());
                        }
                        $manager::Request::GetDataDevice { id, .. } => state.device = Some(init.init(id, ())),
                        _ => {}
                    }
                }
            }

            impl Dispatch<$Device, ()> for Fake {
                fn request(
                    state: &mut Self,
                    _: &Client,
                    _: &$Device,
                    request: $device::Request,
                    (): &(),
                    _: &DisplayHandle,
                    _: &mut DataInit<'_, Self>,
                ) {
                    if let $device::Request::SetSelection { source } = request {
                        state.source = source;
                    }
                }
            }

            impl Dispatch<$Source, ()> for Fake {
                fn request(
                    state: &mut Self,
                    _: &Client,
                    _: &$Source,
                    request: $source::Request,
                    (): &(),
                    _: &DisplayHandle,
                    _: &mut DataInit<'_, Self>,
                ) {
                    if let $source::Request::Offer { mime_type } = request {
                        state.types.push(mime_type);
                    }
                }
            }

            impl Dispatch<$Offer, ()> for Fake {
                fn request(
                    _: &mut Self,
                    _: &Client,
                    _: &$Offer,
                    request: $offer::Request,
                    (): &(),
                    _: &DisplayHandle,
                    _: &mut DataInit<'_, Self>,
                ) {
                    if let $offer::Request::Receive { mime_type, fd } = request {
                        assert_eq!(mime_type, COPIED.0);
                        std::io::Write::write_all(&mut std::fs::File::from(fd), COPIED.1).expect("written");
                    }
                }
            }

            /// Serves one connection until [`Step::Stop`]. Returns the MIME types that were offered to it.
            pub fn serve(listener: &UnixListener, steps: &mpsc::Receiver<Step>) -> Vec<String> {
                let mut display = Display::<Fake>::new().expect("a display");
                let mut handle = display.handle();
                handle.create_global::<Fake, WlSeat, ()>(1, ());
                handle.create_global::<Fake, $Manager, ()>(1, ());
                let (stream, _) = listener.accept().expect("a connection");
                handle.insert_client(stream, std::sync::Arc::new(())).expect("inserted");
                let mut fake = Fake::default();
                loop {
                    display.dispatch_clients(&mut fake).expect("dispatches");
                    match steps.recv_timeout(Duration::from_millis(1)) {
                        Ok(Step::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return fake.types,
                        Ok(step) => fake.step(&handle, step),
                        Err(mpsc::RecvTimeoutError::Timeout) => {}
                    }
                    // Fails once the connection ended, which the test notices.
                    let _ = display.flush_clients();
                }
            }
        }
    };
}

fake_compositor!(
    with_wlr,
    wlr,
    zwlr_data_control_manager_v1::ZwlrDataControlManagerV1,
    zwlr_data_control_device_v1::ZwlrDataControlDeviceV1,
    zwlr_data_control_offer_v1::ZwlrDataControlOfferV1,
    zwlr_data_control_source_v1::ZwlrDataControlSourceV1
);
fake_compositor!(
    with_ext,
    ext,
    ext_data_control_manager_v1::ExtDataControlManagerV1,
    ext_data_control_device_v1::ExtDataControlDeviceV1,
    ext_data_control_offer_v1::ExtDataControlOfferV1,
    ext_data_control_source_v1::ExtDataControlSourceV1
);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future).await.expect("in time")
}

async fn selected(wayland: &mut Wayland) -> Option<Selection> {
    match within(wayland.next()).await.expect("connected") {
        Event::Selected(selection) => selection,
        Event::Pasted { mime, .. } => unreachable!("{mime} is pasted"),
    }
}

/// Copies and pastes with a compositor.
async fn both_ways(
    protocol: &str,
    serve: impl FnOnce(&UnixListener, &mpsc::Receiver<Step>) -> Vec<String> + Send + 'static,
) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("wayland-1");
    let listener = UnixListener::bind(&path).expect("bound");
    let (steps, received) = mpsc::channel();
    let compositor = thread::spawn(move || serve(&listener, &received));
    let mut wayland = within(Wayland::connect(&path)).await.expect("connects");
    assert_eq!(wayland.protocol(), protocol);
    let step = |step| steps.send(step).expect("runs");

    // The device exists once the compositor has answered.
    let content = Content::new(vec![(Format::Text, Bytes::from_static(b"pasted"))]).expect("valid");
    let offered = wayland.offer(&content);
    tokio::select! {
        taken = offered => taken.expect("taken"),
        _ = wayland.next() => unreachable!("no event"),
    }

    // As many as the buffers of a socket hold; a compositor ends connections that do not read.
    step(Step::Announce(100));
    step(Step::Copy(500));
    let selection = selected(&mut wayland).await.expect("a content");
    let parts: Vec<_> = selection.offered.parts().collect();
    assert_eq!(parts, [(Format::Text, COPIED.0)]);
    let pipe = selection.source.open(COPIED.0).await.expect("opens");
    assert_eq!(&within(pipe::read(pipe, 100)).await.expect("read")[..], COPIED.1);

    let (reader, writer) = pipe::pair().expect("a pipe");
    step(Step::Paste("UTF8_STRING", writer));
    let Event::Pasted { mime, paste } = within(wayland.next()).await.expect("connected") else {
        unreachable!("a paste was sent")
    };
    assert_eq!(mime, "UTF8_STRING");
    let (read, written) = tokio::join!(pipe::read(reader, 100), paste.write(content.part(&mime)));
    written.expect("written");
    assert_eq!(&read.expect("read")[..], b"pasted");

    step(Step::Cancel);
    step(Step::Copy(0));
    assert!(selected(&mut wayland).await.is_some());
    step(Step::Stop);
    let types = compositor.join().expect("no panic");
    assert!(types.iter().any(|mime| mime == OWN), "{types:?}");
    let expected = content.mime_types();
    assert_eq!(types[..expected.len()], expected[..]);
    assert!(within(wayland.next()).await.is_err(), "the compositor ended");
}

#[tokio::test]
async fn wlr_clipboard_is_copied_and_pasted_with_a_fake_compositor() {
    both_ways("wlr-data-control-v1", with_wlr::serve).await;
}

#[tokio::test]
async fn ext_clipboard_is_copied_and_pasted_with_a_fake_compositor() {
    both_ways("ext-data-control-v1", with_ext::serve).await;
}
