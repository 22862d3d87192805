//! Our end of a PipeWire stream: its callbacks, and the facts that they note.
//!
//! Callbacks run inside the loop's `iterate`. They answer what must be answered at once (an agreed format
//! needs its buffers' kind, or the producer goes on without it) and note the rest. No borrow of the facts is
//! held while the stream is called, as that may call back. It does not know what a picture is.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pipewire::core::CoreRc;
use pipewire::node::{Node, NodeListener};
use pipewire::properties::properties;
use pipewire::registry::RegistryRc;
use pipewire::spa::param::ParamType;
use pipewire::spa::pod::Pod;
use pipewire::spa::utils::Direction;
use pipewire::stream::{StreamFlags, StreamRc, StreamState};
use pipewire::types::ObjectType;
use pipewire_buffers::{Lent, Watch};

use super::failed;
use super::offer::{self, Agreed, MODIFIERS};
use crate::error::CaptureError;

/// Formats of a producer that are noted, at most.
const MAX_OFFERED: usize = 64;
/// `PW_ID_CORE`: an error there means that the connection is no more.
const CORE: u32 = 0;

/// How far the stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The node is not made yet: access.
    Connecting,
    /// Made, not linked or not running.
    Paused,
    /// Running.
    Streaming,
}

/// What callbacks note.
#[derive(Debug)]
pub struct Facts {
    stage: Cell<Stage>,
    agreed: Cell<Option<Agreed>>,
    /// Changes with every agreement.
    agreements: Cell<u64>,
    /// The node was seen in the registry.
    seen: Cell<bool>,
    offered: RefCell<Vec<String>>,
    error: RefCell<Option<CaptureError>>,
    modifiers: RefCell<Vec<u64>>,
    shm: bool,
    max_fps: u32,
}

impl Facts {
    fn fail(&self, error: CaptureError) {
        self.error.borrow_mut().get_or_insert(error);
    }

    fn formats(&self) -> Vec<offer::Pod> {
        offer::formats(&self.modifiers.borrow(), self.shm, self.max_fps)
    }
}

/// A stream connected to one node. Fields drop in order: listeners before what they listen to.
pub struct Stream {
    _watch: Watch<()>,
    _core_listener: pipewire::core::Listener,
    _registry_listener: pipewire::registry::Listener,
    _node: Rc<RefCell<Option<(NodeListener, Node)>>>,
    _registry: RegistryRc,
    lent: Rc<Lent>,
    facts: Rc<Facts>,
}

impl Stream {
    /// Connects to `node`, offering DMA-BUF and shared memory as told.
    pub fn new(
        core: &CoreRc,
        node: u32,
        dmabuf: bool,
        shm: bool,
        max_fps: u32,
    ) -> Result<Self, CaptureError> {
        let facts = Rc::new(Facts {
            stage: Cell::new(Stage::Connecting),
            agreed: Cell::new(None),
            agreements: Cell::new(0),
            seen: Cell::new(false),
            offered: RefCell::default(),
            error: RefCell::default(),
            modifiers: RefCell::new(if dmabuf { MODIFIERS.to_vec() } else { Vec::new() }),
            shm,
            max_fps,
        });
        if !dmabuf && !shm {
            return Err(CaptureError::NoDmaBuf("there is no render node to import buffers with".to_owned()));
        }
        let core_listener = listen_to_core(core, &facts);
        let (registry, registry_listener, bound) = listen_to_node(core, node, &facts)?;
        let stream = StreamRc::new(
            core.clone(),
            "desktopstream",
            properties! {
                *pipewire::keys::MEDIA_TYPE => "Video",
                *pipewire::keys::MEDIA_CATEGORY => "Capture",
                *pipewire::keys::MEDIA_ROLE => "Screen",
            },
        )
        .map_err(|error| failed("cannot make a stream", &error))?;
        let lent = Lent::new(stream);
        let watch = listen_to_stream(&lent, node, &facts)?;
        let offers = facts.formats();
        let mut pods: Vec<&Pod> = offers.iter().filter_map(|bytes| Pod::from_bytes(bytes)).collect();
        lent.stream()
            .connect(
                Direction::Input,
                Some(node),
                StreamFlags::AUTOCONNECT | StreamFlags::DONT_RECONNECT,
                &mut pods,
            )
            .map_err(|error| failed("cannot connect the stream", &error))?;
        Ok(Self {
            _watch: watch,
            _core_listener: core_listener,
            _registry_listener: registry_listener,
            _node: bound,
            _registry: registry,
            lent,
            facts,
        })
    }

    /// The buffers.
    pub fn lent(&self) -> &Rc<Lent> {
        &self.lent
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        self.facts.stage.get()
    }

    /// The format that was agreed on, and which agreement it is.
    pub fn agreed(&self) -> Option<(Agreed, u64)> {
        self.facts.agreed.get().map(|agreed| (agreed, self.facts.agreements.get()))
    }

    /// What the producer offers, in words.
    pub fn offered(&self) -> Vec<String> {
        self.facts.offered.borrow().clone()
    }

    /// What went wrong, if something did.
    pub fn take_error(&self) -> Option<CaptureError> {
        self.facts.error.take()
    }

    /// Offers everything anew without this modifier, whose buffers are of no use.
    pub fn without(&self, modifier: u64) -> Result<(), CaptureError> {
        self.facts.modifiers.borrow_mut().retain(|other| *other != modifier);
        let offers = self.facts.formats();
        if offers.is_empty() {
            return Err(CaptureError::NoDmaBuf("no buffer of the producer's could be imported".to_owned()));
        }
        update(self.lent.stream(), &offers)
    }
}

fn update(stream: &pipewire::stream::Stream, params: &[offer::Pod]) -> Result<(), CaptureError> {
    let mut pods: Vec<&Pod> = params.iter().filter_map(|bytes| Pod::from_bytes(bytes)).collect();
    stream.update_params(&mut pods).map_err(|error| failed("cannot offer formats", &error))
}

fn listen_to_core(core: &CoreRc, facts: &Rc<Facts>) -> pipewire::core::Listener {
    let facts = Rc::clone(facts);
    core.add_listener_local()
        .error(move |id, _, result, message| {
            if id == CORE {
                let why = format!("{message} ({result})");
                facts.fail(CaptureError::Gone { who: "PipeWire daemon", why });
            } else {
                tracing::debug!(id, result, message, "PipeWire error");
            }
        })
        .register()
}

type BoundNode = Rc<RefCell<Option<(NodeListener, Node)>>>;

/// Asks the producer's node for all its formats, for people to read, and notices its end.
fn listen_to_node(
    core: &CoreRc,
    wanted: u32,
    facts: &Rc<Facts>,
) -> Result<(RegistryRc, pipewire::registry::Listener, BoundNode), CaptureError> {
    let registry = core.get_registry_rc().map_err(|error| failed("cannot get the registry", &error))?;
    let bound: BoundNode = Rc::default();
    let (weak, keep, noted) = (registry.downgrade(), Rc::clone(&bound), Rc::clone(facts));
    let gone = Rc::clone(facts);
    let listener = registry
        .add_listener_local()
        .global(move |global| {
            if global.id != wanted || global.type_ != ObjectType::Node || keep.borrow().is_some() {
                return;
            }
            let Some(node) = weak.upgrade().and_then(|registry| registry.bind::<Node, _>(global).ok()) else {
                return;
            };
            noted.seen.set(true);
            let noted = Rc::clone(&noted);
            let listener = node
                .add_listener_local()
                .param(move |_, id, _, _, pod| {
                    let mut offered = noted.offered.borrow_mut();
                    if id == ParamType::EnumFormat
                        && offered.len() < MAX_OFFERED
                        && let Some(pod) = pod
                    {
                        let line = offer::describe(pod.as_bytes());
                        if !offered.contains(&line) {
                            offered.push(line);
                        }
                    }
                })
                .register();
            node.enum_params(0, Some(ParamType::EnumFormat), 0, u32::MAX);
            keep.borrow_mut().replace((listener, node));
        })
        .global_remove(move |id| {
            if id == wanted {
                gone.fail(CaptureError::Gone { who: "PipeWire node", why: format!("node {id} was removed") });
            }
        })
        .register();
    Ok((registry, listener, bound))
}

fn listen_to_stream(lent: &Rc<Lent>, node: u32, facts: &Rc<Facts>) -> Result<Watch<()>, CaptureError> {
    let (on_state, on_format) = (Rc::clone(facts), Rc::clone(facts));
    let listener = lent
        .stream()
        .add_local_listener_with_user_data(())
        .state_changed(move |_, (), old, new| {
            tracing::debug!(?old, ?new, "PipeWire stream");
            match new {
                StreamState::Error(message) => on_state.fail(CaptureError::PipeWire(explain(&message))),
                StreamState::Unconnected => {
                    let why = if on_state.seen.get() {
                        "the session manager disconnected it".to_owned()
                    } else {
                        format!("there is no node {node}; pw-cli ls Node lists those there are")
                    };
                    on_state.fail(CaptureError::Gone { who: "PipeWire stream", why });
                }
                StreamState::Connecting => on_state.stage.set(Stage::Connecting),
                StreamState::Paused => on_state.stage.set(Stage::Paused),
                StreamState::Streaming => on_state.stage.set(Stage::Streaming),
            }
        })
        .param_changed(move |stream, (), id, pod| {
            if id == ParamType::Format.as_raw() {
                let answer = on_agreement(&on_format, pod);
                if let Err(error) = answer.and_then(|params| update(stream, &params)) {
                    on_format.fail(error);
                }
            }
        })
        // Frames are taken after the loop's turn; this is registered so that they wake it.
        .process(|_, ()| {});
    lent.watch(listener).map_err(|error| failed("cannot listen to the stream", &error))
}

/// Notes an agreement; what is to be answered.
fn on_agreement(facts: &Facts, pod: Option<&Pod>) -> Result<Vec<offer::Pod>, CaptureError> {
    facts.agreed.set(None);
    // No format: the old one is over, another will come or the stream will end.
    let Some(pod) = pod else { return Ok(Vec::new()) };
    let agreed = offer::agreed(pod.as_bytes()).map_err(|error| CaptureError::PipeWire(error.to_string()))?;
    tracing::debug!(?agreed, "PipeWire format");
    if agreed.unfixed
        && let Some(modifier) = agreed.modifier
    {
        // The choice is ours: take the one that the producer likes best, offering only that.
        facts.modifiers.replace(vec![modifier]);
        return Ok(facts.formats());
    }
    facts.agreed.set(Some(agreed));
    facts.agreements.set(facts.agreements.get() + 1);
    Ok(offer::buffers(agreed.modifier.is_some()))
}

fn explain(message: &str) -> String {
    if message.contains("no target node") || message.contains("target not found") {
        format!("{message}; the node is gone")
    } else if message.contains("no more input formats") || message.contains("negotiation") {
        format!("{message}; producer and we have no format in common (yet)")
    } else {
        message.to_owned()
    }
}
