//! The stream and the events that its callbacks record.
//!
//! Callbacks run inside the loop's `iterate`, on this thread. No `RefCell` of [`Events`] is borrowed while a stream method is
//! called, as the method may call back.

use std::cell::{Cell, RefCell};
use std::io::Cursor;
use std::rc::Rc;

use pipewire::core::CoreRc;
use pipewire::properties::properties;
use pipewire::spa::param::ParamType;
use pipewire::spa::param::audio::{AudioFormat, AudioInfoRaw};
use pipewire::spa::pod::serialize::PodSerializer;
use pipewire::spa::pod::{ChoiceValue, Object, Pod, Property, Value};
use pipewire::spa::sys as spa;
use pipewire::spa::utils::{Choice, ChoiceEnum, ChoiceFlags, Direction};
use pipewire::stream::{StreamFlags, StreamRc, StreamState};
use pipewire_buffers::{BufferListener, BufferOrigin, CORE, Stage, StreamBuffers};

use super::{MAX_BYTES, failed};
use crate::error::AudioError;
use crate::{CHANNELS, FRAME_BYTES, SAMPLE_RATE};

/// Requested length of the daemon's cycle, in sample frames: 5 ms.
const CYCLE: u32 = 256;
/// Number of buffers to request: default, minimum, maximum. The default holds 80 ms, for when this thread is late.
const BUFFERS: (i32, i32, i32) = (16, 4, 32);

/// Events recorded by callbacks.
#[derive(Debug)]
struct Events {
    stage: Cell<Stage>,
    /// True while the offered format is agreed.
    agreed: Cell<bool>,
    error: RefCell<Option<AudioError>>,
}

impl Events {
    /// Records the first error.
    fn fail(&self, error: AudioError) {
        self.error.borrow_mut().get_or_insert(error);
    }
}

/// A stream linked to the monitor of the default sink. Fields drop in order: listeners before the objects they listen to.
pub struct Stream {
    _buffer_listener: BufferListener<()>,
    _core_listener: pipewire::core::Listener,
    buffers: Rc<StreamBuffers>,
    events: Rc<Events>,
}

impl Stream {
    /// Connects a stream that the session manager links.
    pub fn new(core: &CoreRc) -> Result<Self, AudioError> {
        let events = Rc::new(Events {
            stage: Cell::new(Stage::Connecting),
            agreed: Cell::new(false),
            error: RefCell::default(),
        });
        let core_listener = listen_to_core(core, &events);
        let stream = StreamRc::new(
            core.clone(),
            "desktopstream",
            properties! {
                *pipewire::keys::MEDIA_TYPE => "Audio",
                *pipewire::keys::MEDIA_CATEGORY => "Capture",
                *pipewire::keys::MEDIA_ROLE => "Screen",
                *pipewire::keys::STREAM_CAPTURE_SINK => "true",
                *pipewire::keys::NODE_LATENCY => format!("{CYCLE}/{SAMPLE_RATE}"),
            },
        )
        .map_err(|error| failed("cannot make a stream", &error))?;
        let buffers = StreamBuffers::new(stream, BufferOrigin::Converter);
        let buffer_listener = listen_to_stream(&buffers, &events)?;
        let format = format();
        let mut pods: Vec<&Pod> = Pod::from_bytes(&format).into_iter().collect();
        buffers
            .stream()
            .connect(Direction::Input, None, StreamFlags::AUTOCONNECT | StreamFlags::MAP_BUFFERS, &mut pods)
            .map_err(|error| failed("cannot connect the stream", &error))?;
        Ok(Self { _buffer_listener: buffer_listener, _core_listener: core_listener, buffers, events })
    }

    /// Current stage.
    pub fn stage(&self) -> Stage {
        self.events.stage.get()
    }

    /// Takes the recorded error.
    pub fn take_error(&self) -> Option<AudioError> {
        self.events.error.take()
    }

    /// Replaces the content of `bytes` by that of the next filled buffer; false if there is none. The content is empty if the
    /// buffer has no samples, or claims more than it can have.
    pub fn read(&self, bytes: &mut Vec<u8>) -> bool {
        // Also bounds the lists that nothing else reads.
        self.buffers.take_added();
        self.buffers.take_removed();
        let Some(filled) = self.buffers.dequeue() else { return false };
        bytes.clear();
        let size = filled.size as usize;
        if self.events.agreed.get() && !filled.corrupted && size <= MAX_BYTES {
            bytes.resize(size, 0);
            if !self.buffers.copy_out(filled.id, filled.offset as usize, bytes) {
                bytes.clear();
            }
        }
        self.buffers.release(filled.id);
        true
    }
}

fn listen_to_core(core: &CoreRc, events: &Rc<Events>) -> pipewire::core::Listener {
    let events = Rc::clone(events);
    core.add_listener_local()
        .error(move |id, _, result, message| {
            if id == CORE {
                events.fail(AudioError::Disconnected(format!("{message} (error {result})")));
            } else {
                tracing::debug!(id, result, message, "PipeWire error");
            }
        })
        .register()
}

fn listen_to_stream(
    buffers: &Rc<StreamBuffers>,
    events: &Rc<Events>,
) -> Result<BufferListener<()>, AudioError> {
    let (on_state, on_format) = (Rc::clone(events), Rc::clone(events));
    let listener = buffers
        .stream()
        .add_local_listener_with_user_data(())
        .state_changed(move |_, (), old, new| {
            tracing::debug!(?old, ?new, "PipeWire audio stream state changed");
            match new {
                StreamState::Error(message) => {
                    on_state.fail(AudioError::Stream(message));
                }
                StreamState::Unconnected => {
                    on_state.fail(AudioError::Disconnected("it ended the stream".to_owned()));
                }
                StreamState::Connecting => on_state.stage.set(Stage::Connecting),
                StreamState::Paused => on_state.stage.set(Stage::Paused),
                StreamState::Streaming => on_state.stage.set(Stage::Streaming),
            }
        })
        .param_changed(move |stream, (), id, pod| {
            if id != ParamType::Format.as_raw() {
                return;
            }
            on_format.agreed.set(false);
            // None clears the format: another one follows, or the stream ends.
            let Some(pod) = pod else { return };
            if let Err(error) = check(pod) {
                on_format.fail(error);
                return;
            }
            on_format.agreed.set(true);
            let params = buffer_params();
            let mut pods: Vec<&Pod> = Pod::from_bytes(&params).into_iter().collect();
            if let Err(error) = stream.update_params(&mut pods) {
                on_format.fail(failed("cannot request buffers", &error));
            }
        })
        // Registered so that filled buffers end the loop's iteration; they are dequeued after it.
        .process(|_, ()| {});
    buffers.listen(listener).map_err(|error| failed("cannot listen to the stream", &error))
}

fn bytes(object: Object) -> Vec<u8> {
    // Serializing into memory fails only for invalid values, which this module does not build.
    PodSerializer::serialize(Cursor::new(Vec::new()), &Value::Object(object))
        .map(|(cursor, _)| cursor.into_inner())
        .unwrap_or_default()
}

/// The format that the stream offers.
fn format() -> Vec<u8> {
    let mut info = AudioInfoRaw::new();
    info.set_format(AudioFormat::S16LE);
    info.set_rate(SAMPLE_RATE);
    info.set_channels(CHANNELS as u32);
    let mut position = info.position();
    position[..CHANNELS].copy_from_slice(&[spa::SPA_AUDIO_CHANNEL_FL, spa::SPA_AUDIO_CHANNEL_FR]);
    info.set_position(position);
    bytes(Object {
        type_: spa::SPA_TYPE_OBJECT_Format,
        id: spa::SPA_PARAM_EnumFormat,
        properties: info.into(),
    })
}

/// Checks that the agreed format is the one that was offered.
fn check(pod: &Pod) -> Result<(), AudioError> {
    let mut info = AudioInfoRaw::new();
    info.parse(pod).map_err(|error| AudioError::Format(format!("an unreadable audio format ({error})")))?;
    if (info.format(), info.rate(), info.channels()) == (AudioFormat::S16LE, SAMPLE_RATE, CHANNELS as u32) {
        return Ok(());
    }
    let text = format!("{:?} at {} Hz with {} channels", info.format(), info.rate(), info.channels());
    Err(AudioError::Format(text))
}

/// The buffers that the stream asks for.
fn buffer_params() -> Vec<u8> {
    let int = |choice| Value::Choice(ChoiceValue::Int(Choice(ChoiceFlags::empty(), choice)));
    let (default, min, max) = BUFFERS;
    let stride = FRAME_BYTES as i32;
    bytes(Object {
        type_: spa::SPA_TYPE_OBJECT_ParamBuffers,
        id: spa::SPA_PARAM_Buffers,
        properties: vec![
            Property::new(spa::SPA_PARAM_BUFFERS_buffers, int(ChoiceEnum::Range { default, min, max })),
            Property::new(spa::SPA_PARAM_BUFFERS_blocks, Value::Int(1)),
            Property::new(spa::SPA_PARAM_BUFFERS_stride, Value::Int(stride)),
            Property::new(
                spa::SPA_PARAM_BUFFERS_dataType,
                int(ChoiceEnum::Flags { default: 1 << spa::SPA_DATA_MemPtr, flags: vec![] }),
            ),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(change: impl FnOnce(&mut AudioInfoRaw)) -> Result<(), AudioError> {
        let mut info = AudioInfoRaw::new();
        info.set_format(AudioFormat::S16LE);
        info.set_rate(SAMPLE_RATE);
        info.set_channels(CHANNELS as u32);
        change(&mut info);
        let pod = bytes(Object {
            type_: spa::SPA_TYPE_OBJECT_Format,
            id: spa::SPA_PARAM_Format,
            properties: info.into(),
        });
        check(Pod::from_bytes(&pod).expect("a pod"))
    }

    #[test]
    fn offered_format_is_accepted() {
        assert!(check(Pod::from_bytes(&format()).expect("a pod")).is_ok());
    }

    #[test]
    fn format_that_was_not_offered_is_refused() {
        assert!(checked(|_| {}).is_ok());
        assert!(checked(|info| info.set_format(AudioFormat::F32LE)).is_err());
        assert!(checked(|info| info.set_format(AudioFormat::F32P)).is_err());
        assert!(checked(|info| info.set_rate(192_000)).is_err());
        assert!(checked(|info| info.set_channels(64)).is_err());
        let error = checked(|info| info.set_rate(44_100)).expect_err("refused").to_string();
        assert!(error.contains("44100 Hz"), "{error}");
    }

    #[test]
    fn format_that_is_no_audio_format_is_refused() {
        let pod = bytes(Object { type_: spa::SPA_TYPE_OBJECT_Props, id: 0, properties: vec![] });
        assert!(check(Pod::from_bytes(&pod).expect("a pod")).is_err());
    }
}
