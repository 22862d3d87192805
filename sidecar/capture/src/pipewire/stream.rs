//! A PipeWire stream and the events that its callbacks record.
//!
//! Callbacks run inside the loop's `iterate`. They reply where PipeWire requires an immediate reply (an agreed format
//! must be answered with buffer parameters, or the producer continues without) and record the rest. No `RefCell` of
//! [`Events`] is borrowed while a stream method is called, as the method may call back.

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
use pipewire_buffers::{BufferListener, BufferOrigin, CORE, Stage, StreamBuffers};

use super::offer::{self, AgreedFormat, MODIFIERS, OfferedFormat};
use super::{PEER, failed};
use crate::error::CaptureError;
use crate::negotiated::ShmReason;
use crate::{CaptureOptions, Cursor, Memory};

/// Maximum number of formats of the producer that are recorded.
const MAX_OFFERED: usize = 64;

/// Events recorded by callbacks, and the current offer.
#[derive(Debug)]
pub struct Events {
    stage: Cell<Stage>,
    agreed: Cell<Option<AgreedFormat>>,
    /// Number of agreements so far.
    agreements: Cell<u64>,
    /// True once the registry listed the node.
    node_found: Cell<bool>,
    offered: RefCell<Vec<OfferedFormat>>,
    error: RefCell<Option<CaptureError>>,
    modifiers: RefCell<Vec<u64>>,
    shm: bool,
    max_fps: u32,
    /// The only size to offer; all sizes if `None`.
    size: Cell<Option<(u32, u32)>>,
    /// Request the cursor of each buffer.
    cursor: bool,
}

impl Events {
    /// Records the first error.
    fn fail(&self, error: CaptureError) {
        self.error.borrow_mut().get_or_insert(error);
    }

    fn formats(&self) -> Vec<offer::Pod> {
        offer::formats(&self.modifiers.borrow(), self.shm, self.max_fps, self.size.get())
    }
}

/// A stream connected to one node. Fields drop in order: listeners before the objects they listen to.
pub struct Stream {
    _buffer_listener: BufferListener<()>,
    _core_listener: pipewire::core::Listener,
    _registry_listener: pipewire::registry::Listener,
    _node: Rc<RefCell<Option<(NodeListener, Node)>>>,
    _registry: RegistryRc,
    buffers: Rc<StreamBuffers>,
    events: Rc<Events>,
}

impl Stream {
    /// Connects to `node`. Offers DMA-BUF unless `shm_reason` excludes it, and shared memory unless the options require
    /// DMA-BUF; of `size` only, if there is one.
    pub fn new(
        core: &CoreRc,
        node: u32,
        shm_reason: Option<&ShmReason>,
        options: &CaptureOptions,
        size: Option<(u32, u32)>,
    ) -> Result<Self, CaptureError> {
        let shm = options.memory != Memory::DmaBuf;
        if let Some(reason) = shm_reason
            && !shm
        {
            return Err(CaptureError::NoDmaBuf(reason.clone()));
        }
        let events = Rc::new(Events {
            stage: Cell::new(Stage::Connecting),
            agreed: Cell::new(None),
            agreements: Cell::new(0),
            node_found: Cell::new(false),
            offered: RefCell::default(),
            error: RefCell::default(),
            modifiers: RefCell::new(if shm_reason.is_none() { MODIFIERS.to_vec() } else { Vec::new() }),
            shm,
            max_fps: options.max_fps,
            size: Cell::new(size),
            cursor: options.cursor == Cursor::Viewer,
        });
        let core_listener = listen_to_core(core, &events);
        let (registry, registry_listener, bound) = listen_to_node(core, node, &events)?;
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
        let buffers = StreamBuffers::new(stream, BufferOrigin::Daemon { cursor: events.cursor });
        let buffer_listener = listen_to_stream(&buffers, node, &events)?;
        let offers = events.formats();
        let mut pods: Vec<&Pod> = offers.iter().filter_map(|bytes| Pod::from_bytes(bytes)).collect();
        buffers
            .stream()
            .connect(
                Direction::Input,
                Some(node),
                StreamFlags::AUTOCONNECT | StreamFlags::DONT_RECONNECT,
                &mut pods,
            )
            .map_err(|error| failed("cannot connect the stream", &error))?;
        Ok(Self {
            _buffer_listener: buffer_listener,
            _core_listener: core_listener,
            _registry_listener: registry_listener,
            _node: bound,
            _registry: registry,
            buffers,
            events,
        })
    }

    /// The stream's buffers.
    pub fn buffers(&self) -> &Rc<StreamBuffers> {
        &self.buffers
    }

    /// Current stage.
    pub fn stage(&self) -> Stage {
        self.events.stage.get()
    }

    /// The agreed format and the number of agreements so far; `None` while no format is agreed.
    pub fn agreed(&self) -> Option<(AgreedFormat, u64)> {
        self.events.agreed.get().map(|agreed| (agreed, self.events.agreements.get()))
    }

    /// Formats that the producer offers.
    pub fn offered(&self) -> Vec<OfferedFormat> {
        self.events.offered.borrow().clone()
    }

    /// Takes the recorded error.
    pub fn take_error(&self) -> Option<CaptureError> {
        self.events.error.take()
    }

    /// Offers the formats again, of size `size` only.
    pub fn resize(&self, size: (u32, u32)) -> Result<(), CaptureError> {
        self.events.size.set(Some(size));
        update_params(self.buffers.stream(), &self.events.formats())
    }

    /// Offers the formats again without `modifier`, whose buffers could not be imported.
    pub fn renegotiate_without(&self, modifier: u64) -> Result<(), CaptureError> {
        self.events.modifiers.borrow_mut().retain(|other| *other != modifier);
        let offers = self.events.formats();
        if offers.is_empty() {
            return Err(CaptureError::NoDmaBuf(ShmReason::NoModifierLeft));
        }
        update_params(self.buffers.stream(), &offers)
    }
}

fn update_params(stream: &pipewire::stream::Stream, params: &[offer::Pod]) -> Result<(), CaptureError> {
    let mut pods: Vec<&Pod> = params.iter().filter_map(|bytes| Pod::from_bytes(bytes)).collect();
    stream.update_params(&mut pods).map_err(|error| failed("cannot offer formats", &error))
}

fn listen_to_core(core: &CoreRc, events: &Rc<Events>) -> pipewire::core::Listener {
    let events = Rc::clone(events);
    core.add_listener_local()
        .error(move |id, _, result, message| {
            if id == CORE {
                events.fail(CaptureError::Disconnected {
                    peer: PEER,
                    reason: format!("{message} (error {result})"),
                });
            } else {
                tracing::debug!(id, result, message, "PipeWire error");
            }
        })
        .register()
}

type BoundNode = Rc<RefCell<Option<(NodeListener, Node)>>>;

/// Records the formats of the producer's node, and its removal.
fn listen_to_node(
    core: &CoreRc,
    wanted: u32,
    events: &Rc<Events>,
) -> Result<(RegistryRc, pipewire::registry::Listener, BoundNode), CaptureError> {
    let registry = core.get_registry_rc().map_err(|error| failed("cannot get the registry", &error))?;
    let bound: BoundNode = Rc::default();
    let (weak, keep, on_global) = (registry.downgrade(), Rc::clone(&bound), Rc::clone(events));
    let on_remove = Rc::clone(events);
    let listener = registry
        .add_listener_local()
        .global(move |global| {
            if global.id != wanted || global.type_ != ObjectType::Node || keep.borrow().is_some() {
                return;
            }
            let Some(node) = weak.upgrade().and_then(|registry| registry.bind::<Node, _>(global).ok()) else {
                return;
            };
            on_global.node_found.set(true);
            let on_param = Rc::clone(&on_global);
            let listener = node
                .add_listener_local()
                .param(move |_, id, _, _, pod| {
                    let mut offered = on_param.offered.borrow_mut();
                    if id == ParamType::EnumFormat
                        && offered.len() < MAX_OFFERED
                        && let Some(pod) = pod
                    {
                        let format = offer::offered(pod.as_bytes());
                        if !offered.contains(&format) {
                            offered.push(format);
                        }
                    }
                })
                .register();
            node.enum_params(0, Some(ParamType::EnumFormat), 0, u32::MAX);
            keep.borrow_mut().replace((listener, node));
        })
        .global_remove(move |id| {
            if id == wanted {
                let reason = format!("node {id} was removed");
                on_remove.fail(CaptureError::Disconnected { peer: "PipeWire node", reason });
            }
        })
        .register();
    Ok((registry, listener, bound))
}

fn listen_to_stream(
    buffers: &Rc<StreamBuffers>,
    node: u32,
    events: &Rc<Events>,
) -> Result<BufferListener<()>, CaptureError> {
    let (on_state, on_format) = (Rc::clone(events), Rc::clone(events));
    let listener = buffers
        .stream()
        .add_local_listener_with_user_data(())
        .state_changed(move |_, (), old, new| {
            tracing::debug!(?old, ?new, "PipeWire stream state changed");
            match new {
                StreamState::Error(message) => on_state.fail(CaptureError::PipeWire(format!(
                    "the stream to node {node} failed: {message}; list the node's formats with \
                     `pw-cli enum-params {node} EnumFormat`"
                ))),
                StreamState::Unconnected => {
                    let reason = if on_state.node_found.get() {
                        "the session manager disconnected it".to_owned()
                    } else {
                        format!("node {node} does not exist; list nodes with `pw-cli ls Node`")
                    };
                    on_state.fail(CaptureError::Disconnected { peer: "PipeWire stream", reason });
                }
                StreamState::Connecting => on_state.stage.set(Stage::Connecting),
                StreamState::Paused => on_state.stage.set(Stage::Paused),
                StreamState::Streaming => on_state.stage.set(Stage::Streaming),
            }
        })
        .param_changed(move |stream, (), id, pod| {
            if id == ParamType::Format.as_raw() {
                let reply = format_changed(&on_format, pod);
                if let Err(error) = reply.and_then(|params| update_params(stream, &params)) {
                    on_format.fail(error);
                }
            }
        })
        // Registered so that filled buffers end the loop's iteration; they are dequeued after it.
        .process(|_, ()| {});
    buffers.listen(listener).map_err(|error| failed("cannot listen to the stream", &error))
}

/// Records an agreed format and returns the parameters to reply with.
fn format_changed(events: &Events, pod: Option<&Pod>) -> Result<Vec<offer::Pod>, CaptureError> {
    events.agreed.set(None);
    // None clears the format: another one follows, or the stream ends.
    let Some(pod) = pod else { return Ok(Vec::new()) };
    let agreed = offer::agreed(pod.as_bytes()).map_err(|error| CaptureError::PipeWire(error.to_string()))?;
    tracing::debug!(?agreed, "PipeWire format changed");
    if agreed.unfixed
        && let Some(modifier) = agreed.modifier
    {
        // The producer leaves the choice of modifier to this side: offer only its preferred one.
        events.modifiers.replace(vec![modifier]);
        return Ok(events.formats());
    }
    events.agreed.set(Some(agreed));
    events.agreements.set(events.agreements.get() + 1);
    Ok(offer::buffers(agreed.modifier.is_some(), events.cursor))
}
