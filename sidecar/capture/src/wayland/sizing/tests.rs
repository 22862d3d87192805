//! Output management against a fake compositor.

use std::collections::VecDeque;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use contract::display::DisplaySize;
use wayland_protocols_wlr::output_management::v1::server::zwlr_output_configuration_head_v1::{
    self, ZwlrOutputConfigurationHeadV1 as ConfigurationHead,
};
use wayland_protocols_wlr::output_management::v1::server::zwlr_output_configuration_v1::{
    self, ZwlrOutputConfigurationV1 as Configuration,
};
use wayland_protocols_wlr::output_management::v1::server::zwlr_output_head_v1::{
    self, ZwlrOutputHeadV1 as OutputHead,
};
use wayland_protocols_wlr::output_management::v1::server::zwlr_output_manager_v1::{
    self, ZwlrOutputManagerV1 as Manager,
};
use wayland_protocols_wlr::screencopy::v1::server::zwlr_screencopy_manager_v1::{
    self, ZwlrScreencopyManagerV1 as Screencopy,
};
use wayland_server::protocol::wl_output::{self, WlOutput};
use wayland_server::{
    Client, DataInit, Dispatch, Display, DisplayHandle, GlobalDispatch, New, Resource as _,
};

use super::*;
use crate::CaptureOptions;
use crate::pointer::PointerSender;
use crate::slot::Slot;
use crate::source_context::SourceContext;
use crate::waker::Waker;
use crate::wayland::Session;

const TIMEOUT: Duration = Duration::from_mins(1);
const OUTPUT: &str = "HEADLESS-1";

/// Reply to a configuration.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Succeed,
    Fail,
    /// The outputs change before the configuration arrives.
    Cancel,
}

/// A compositor with one output.
struct Fake {
    outcomes: VecDeque<Outcome>,
    /// Outcome of further configurations.
    rest: Outcome,
    serial: u32,
    manager: Option<Manager>,
    mode: (i32, i32),
    scale: f64,
    /// Receives each configuration: size, scale, and whether it was applied.
    applied: Sender<((i32, i32), f64, bool)>,
}

macro_rules! global {
    ($interface:ty, $bound:expr) => {
        impl GlobalDispatch<$interface, ()> for Fake {
            fn bind(
                state: &mut Self,
                display: &DisplayHandle,
                client: &Client,
                new: New<$interface>,
                (): &(),
                init: &mut DataInit<'_, Self>,
            ) {
                let bound: fn(&mut Self, &DisplayHandle, &Client, $interface) = $bound;
                bound(state, display, client, init.init(new, ()));
            }
        }
    };
}

macro_rules! requests {
    ($interface:ty, $data:ty, $request:ty, $handle:expr) => {
        impl Dispatch<$interface, $data> for Fake {
            fn request(
                state: &mut Self,
                _: &Client,
                resource: &$interface,
                request: $request,
                data: &$data,
                _: &DisplayHandle,
                init: &mut DataInit<'_, Self>,
            ) {
                let handle: fn(&mut Self, &$interface, $request, &$data, &mut DataInit<'_, Self>) = $handle;
                handle(state, resource, request, data, init);
            }
        }
    };
}

global!(WlOutput, |_, _, _, output| {
    output.name(OUTPUT.to_owned());
    output.done();
});
global!(Screencopy, |_, _, _, _| {});
global!(Manager, |state, display, client, manager| {
    let head = client.create_resource::<OutputHead, _, Fake>(display, manager.version(), ()).expect("made");
    manager.head(&head);
    head.name(OUTPUT.to_owned());
    head.enabled(1);
    manager.done(state.serial);
    state.manager = Some(manager);
});
requests!(WlOutput, (), wl_output::Request, |_, _, _, (), _| {});
requests!(Screencopy, (), zwlr_screencopy_manager_v1::Request, |_, _, _, (), _| {});
requests!(OutputHead, (), zwlr_output_head_v1::Request, |_, _, _, (), _| {});
requests!(Manager, (), zwlr_output_manager_v1::Request, |_, _, request, (), init| {
    if let zwlr_output_manager_v1::Request::CreateConfiguration { id, serial } = request {
        init.init(id, serial);
    }
});
requests!(ConfigurationHead, (), zwlr_output_configuration_head_v1::Request, |state, _, request, (), _| {
    match request {
        zwlr_output_configuration_head_v1::Request::SetCustomMode { width, height, .. } => {
            state.mode = (width, height);
        }
        zwlr_output_configuration_head_v1::Request::SetScale { scale } => state.scale = scale,
        _ => {}
    }
});
requests!(
    Configuration,
    u32,
    zwlr_output_configuration_v1::Request,
    |state, configuration, request, serial, init| {
        match request {
            zwlr_output_configuration_v1::Request::EnableHead { id, .. } => {
                init.init(id, ());
            }
            zwlr_output_configuration_v1::Request::Apply => {
                let outcome = state.outcomes.pop_front().unwrap_or(state.rest);
                if let (Outcome::Cancel, Some(manager)) = (outcome, &state.manager) {
                    state.serial += 1;
                    manager.done(state.serial);
                }
                let is_applied = *serial == state.serial && matches!(outcome, Outcome::Succeed);
                if *serial != state.serial {
                    configuration.cancelled();
                } else if is_applied {
                    configuration.succeeded();
                } else {
                    configuration.failed();
                }
                // Fails once the test has ended.
                let _ = state.applied.send((state.mode, state.scale, is_applied));
            }
            _ => {}
        }
    }
);

/// A session with a fake compositor.
struct Rig {
    session: Session,
    resizer: Resizer,
    applied: Receiver<((i32, i32), f64, bool)>,
    stop: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Rig {
    fn start(outcomes: &[Outcome], rest: Outcome, with_manager: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("wayland-1");
        let listener = UnixListener::bind(&path).expect("bound");
        let (sender, applied) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let mut fake = Fake {
            outcomes: outcomes.iter().copied().collect(),
            rest,
            serial: 1,
            manager: None,
            mode: (0, 0),
            scale: 0.0,
            applied: sender,
        };
        thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut display = Display::<Fake>::new().expect("a display");
                let mut handle = display.handle();
                handle.create_global::<Fake, WlOutput, ()>(4, ());
                handle.create_global::<Fake, Screencopy, ()>(3, ());
                if with_manager {
                    handle.create_global::<Fake, Manager, ()>(4, ());
                }
                let stream = listener.accept().expect("a client").0;
                handle.insert_client(stream, Arc::new(())).expect("inserted");
                while !stop.load(Ordering::Relaxed) {
                    display.dispatch_clients(&mut fake).expect("dispatched");
                    display.flush_clients().expect("flushed");
                    thread::sleep(Duration::from_millis(2));
                }
            }
        });
        let waker = Arc::new(Waker::new().expect("a waker"));
        let resizer = Resizer::new(Arc::clone(&waker));
        let (events, _) = mpsc::sync_channel(1);
        let context = SourceContext::new(
            Arc::new(Slot::default()),
            resizer.clone(),
            PointerSender::default(),
            waker,
            events,
        );
        let session = Session::connect(&path, &CaptureOptions::default(), &context).expect("connected");
        Self { session, resizer, applied, stop, _folder: folder }
    }

    fn request(&self) {
        self.resizer.request(DisplaySize::fit(800.0, 600.0, 1.5).expect("finite"));
    }

    /// Processes events until the condition holds.
    fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + TIMEOUT;
        while !condition(self) {
            assert!(Instant::now() < end, "timed out: {what}; error {:?}", self.resizer.error());
            self.session.turn(Duration::from_millis(20)).expect("connected");
        }
    }

    /// Waits for an applied size and returns the number of other configurations before it.
    fn until_applied(&mut self) -> usize {
        let others = std::cell::Cell::new(0);
        self.until("a size", |rig| {
            rig.applied.try_iter().any(|(size, scale, is_applied)| {
                assert_eq!((size, scale.to_bits()), ((800, 600), 1.5_f64.to_bits()));
                others.set(others.get() + usize::from(!is_applied));
                is_applied
            })
        });
        others.get()
    }
}

#[test]
fn cancelled_configuration_is_sent_again_with_the_newer_serial() {
    let mut rig = Rig::start(&[Outcome::Cancel, Outcome::Cancel], Outcome::Succeed, true);
    rig.session.accept();
    rig.request();
    assert_eq!(rig.until_applied(), 2);
    assert_eq!(rig.resizer.error(), "");
}

#[test]
fn compositor_that_always_cancels_is_given_up() {
    let mut rig = Rig::start(&[], Outcome::Cancel, true);
    rig.session.accept();
    rig.request();
    rig.until("an error", |rig| rig.resizer.error().contains("again and again"));
    assert_eq!(rig.applied.try_iter().count(), MAX_CANCELLED as usize);
}

#[test]
fn refused_size_is_reported_and_can_be_asked_for_again() {
    let mut rig = Rig::start(&[Outcome::Fail], Outcome::Succeed, true);
    rig.session.accept();
    rig.request();
    rig.until("an error", |rig| rig.resizer.error().contains("refused"));
    rig.request();
    assert_eq!(rig.resizer.error(), "");
    assert_eq!(rig.until_applied(), 1, "the refused one");
}

#[test]
fn compositor_is_resized_only_as_the_source_and_needs_the_protocol() {
    let mut rig = Rig::start(&[], Outcome::Succeed, false);
    rig.request();
    rig.session.turn(Duration::ZERO).expect("connected");
    assert_eq!(rig.resizer.error(), "", "it may not become the source");
    rig.session.accept();
    rig.until("an error", |rig| rig.resizer.error().contains("zwlr_output_manager_v1"));
}
