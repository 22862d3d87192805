//! Encodes the stream's offers as SPA pods, and decodes the producer's formats.
//!
//! A DMA-BUF offer is an EnumFormat with the modifier property, flagged MANDATORY (a producer that does not implement
//! the property must not match) and DONT_FIXATE (the allocator chooses). The shared-memory offer follows it and has no
//! modifier property. An agreed format with a modifier uses DMA-BUF, one without uses shared memory. On virgl only the
//! modifier INVALID (implicit layout) works; LINEAR is offered for other drivers. Protocol: PipeWire's
//! `doc/dox/internals/dma-buf.dox`.

use std::io::Cursor;

use pipewire::spa::param::format::{FormatProperties, MediaSubtype, MediaType};
use pipewire::spa::param::video::VideoFormat;
use pipewire::spa::pod::deserialize::PodDeserializer;
use pipewire::spa::pod::serialize::PodSerializer;
use pipewire::spa::pod::{ChoiceValue, Object, Property, PropertyFlags, Value};
use pipewire::spa::sys as spa;
use pipewire::spa::utils::{Choice, ChoiceEnum, ChoiceFlags, Fraction, Id, Rectangle};
use pipewire_buffers::{MAX_CURSOR_SIDE, cursor_meta_size};
use protocol::PixelFormat;
use protocol::pixel::MAX_SIDE;

use crate::negotiated::{MOD_INVALID, MOD_LINEAR, modifier_text};

/// Offered modifiers, in order of preference.
pub const MODIFIERS: [u64; 2] = [MOD_INVALID, MOD_LINEAR];
/// Number of buffers to request: default, minimum, maximum. The default covers the consumer, the slot, the producer
/// and one spare.
const BUFFERS: (i32, i32, i32) = (4, 3, 16);
/// Maximum number of damage regions per buffer.
const DAMAGE_REGIONS: i32 = 16;
/// `SPA_POD_PROP_FLAG_MANDATORY` (`spa/pod/pod.h`).
const MANDATORY: u32 = 1 << 3;
/// `SPA_POD_PROP_FLAG_DONT_FIXATE` (`spa/pod/pod.h`).
const DONT_FIXATE: u32 = 1 << 4;

const FORMATS: [(VideoFormat, PixelFormat); 4] = [
    (VideoFormat::BGRx, PixelFormat::Bgrx),
    (VideoFormat::BGRA, PixelFormat::Bgra),
    (VideoFormat::RGBx, PixelFormat::Rgbx),
    (VideoFormat::RGBA, PixelFormat::Rgba),
];

/// A negotiated format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgreedFormat {
    /// Pixel format.
    pub format: PixelFormat,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Modifier of the DMA-BUFs; `None` for shared memory.
    pub modifier: Option<u64>,
    /// True if the producer leaves the choice of modifier to this side.
    pub unfixed: bool,
}

/// A format offered by the producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedFormat {
    /// The format for display.
    pub text: String,
    /// True if the format has modifiers, so its buffers are DMA-BUFs.
    pub dmabuf: bool,
}

/// Error of [`agreed`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The pod is not a Format object with the expected properties.
    #[error("unreadable format: {0}")]
    Unreadable(String),
    /// The format was not offered.
    #[error("the producer chose pixel format {0}, which was not offered")]
    Pixels(String),
    /// The size is out of range.
    #[error(
        "the producer chose size {0}x{1}; width and height must be between 1 and {limit} pixels",
        limit = MAX_SIDE
    )]
    Size(u32, u32),
}

/// A serialized SPA pod.
pub type Pod = Vec<u8>;

fn bytes(object: Object) -> Pod {
    // Serializing into memory fails only for invalid values, which this module does not build.
    PodSerializer::serialize(Cursor::new(Vec::new()), &Value::Object(object))
        .map(|(cursor, _)| cursor.into_inner())
        .unwrap_or_default()
}

fn choice<T: pipewire::spa::pod::CanonicalFixedSizedPod>(choice: ChoiceEnum<T>) -> Choice<T> {
    Choice(ChoiceFlags::empty(), choice)
}

fn one_of<T: pipewire::spa::pod::CanonicalFixedSizedPod + Copy>(first: T, all: Vec<T>) -> Choice<T> {
    choice(ChoiceEnum::Enum { default: first, alternatives: all })
}

fn enum_format(modifiers: Option<&[u64]>, max_fps: u32, size: Option<(u32, u32)>) -> Pod {
    let ids: Vec<Id> = FORMATS.iter().map(|(format, _)| Id(format.as_raw())).collect();
    let property = |key: FormatProperties, value| Property::new(key.as_raw(), value);
    let mut properties = vec![
        property(FormatProperties::MediaType, Value::Id(Id(MediaType::Video.as_raw()))),
        property(FormatProperties::MediaSubtype, Value::Id(Id(MediaSubtype::Raw.as_raw()))),
        property(FormatProperties::VideoFormat, Value::Choice(ChoiceValue::Id(one_of(ids[0], ids)))),
    ];
    let modifier = |flags, value| Property {
        key: FormatProperties::VideoModifier.as_raw(),
        flags: PropertyFlags::from_bits_retain(flags),
        value,
    };
    match modifiers {
        None | Some([]) => {}
        // A single modifier leaves no choice, so DONT_FIXATE is omitted.
        Some([only]) => properties.push(modifier(MANDATORY, Value::Long(only.cast_signed()))),
        Some(all @ [first, ..]) => {
            let all = all.iter().map(|modifier| modifier.cast_signed()).collect();
            let value = Value::Choice(ChoiceValue::Long(one_of(first.cast_signed(), all)));
            properties.push(modifier(MANDATORY | DONT_FIXATE, value));
        }
    }
    let size = match size {
        Some((width, height)) => Value::Rectangle(Rectangle { width, height }),
        None => Value::Choice(ChoiceValue::Rectangle(choice(ChoiceEnum::Range {
            default: Rectangle { width: 1280, height: 720 },
            min: Rectangle { width: 1, height: 1 },
            max: Rectangle { width: MAX_SIDE, height: MAX_SIDE },
        }))),
    };
    // A rate of 0 is a variable frame rate.
    let rate = choice(ChoiceEnum::Range {
        default: Fraction { num: 0, denom: 1 },
        min: Fraction { num: 0, denom: 1 },
        max: Fraction { num: 1000, denom: 1 },
    });
    let highest = choice(ChoiceEnum::Range {
        default: Fraction { num: max_fps, denom: 1 },
        min: Fraction { num: 1, denom: 1 },
        max: Fraction { num: max_fps, denom: 1 },
    });
    properties.extend([
        property(FormatProperties::VideoSize, size),
        property(FormatProperties::VideoFramerate, Value::Choice(ChoiceValue::Fraction(rate))),
        property(FormatProperties::VideoMaxFramerate, Value::Choice(ChoiceValue::Fraction(highest))),
    ]);
    bytes(Object { type_: spa::SPA_TYPE_OBJECT_Format, id: spa::SPA_PARAM_EnumFormat, properties })
}

/// EnumFormat pods in order of preference: DMA-BUF with `modifiers` unless empty, shared memory if `shm`. Of `size` only, if
/// there is one.
pub fn formats(modifiers: &[u64], shm: bool, max_fps: u32, size: Option<(u32, u32)>) -> Vec<Pod> {
    let max_fps = max_fps.clamp(1, 1000);
    let mut offers = Vec::with_capacity(2);
    if !modifiers.is_empty() {
        offers.push(enum_format(Some(modifiers), max_fps, size));
    }
    if shm {
        offers.push(enum_format(None, max_fps, size));
    }
    offers
}

/// Parameters of the buffers of an agreed format: kind, number and metas; that of the cursor if `cursor`.
pub fn buffers(dmabuf: bool, cursor: bool) -> Vec<Pod> {
    let kinds = if dmabuf { 1 << spa::SPA_DATA_DmaBuf } else { 1 << spa::SPA_DATA_MemFd };
    let (default, min, max) = BUFFERS;
    let meta = |kind: u32, size: Value| {
        bytes(Object {
            type_: spa::SPA_TYPE_OBJECT_ParamMeta,
            id: spa::SPA_PARAM_Meta,
            properties: vec![
                Property::new(spa::SPA_PARAM_META_type, Value::Id(Id(kind))),
                Property::new(spa::SPA_PARAM_META_size, size),
            ],
        })
    };
    let region = size_of::<spa::spa_meta_region>() as i32;
    let mut params = vec![
        bytes(Object {
            type_: spa::SPA_TYPE_OBJECT_ParamBuffers,
            id: spa::SPA_PARAM_Buffers,
            properties: vec![
                Property::new(
                    spa::SPA_PARAM_BUFFERS_buffers,
                    Value::Choice(ChoiceValue::Int(choice(ChoiceEnum::Range { default, min, max }))),
                ),
                Property::new(
                    spa::SPA_PARAM_BUFFERS_dataType,
                    Value::Choice(ChoiceValue::Int(choice(ChoiceEnum::Flags {
                        default: kinds,
                        flags: vec![],
                    }))),
                ),
            ],
        }),
        meta(spa::SPA_META_Header, Value::Int(size_of::<spa::spa_meta_header>() as i32)),
        meta(
            spa::SPA_META_VideoDamage,
            Value::Choice(ChoiceValue::Int(choice(ChoiceEnum::Range {
                default: region * DAMAGE_REGIONS,
                min: region,
                max: region * DAMAGE_REGIONS,
            }))),
        ),
    ];
    if cursor {
        let size = |side| cursor_meta_size(side) as i32;
        let (min, max) = (size(1), size(MAX_CURSOR_SIDE));
        let range = choice(ChoiceEnum::Range { default: max, min, max });
        params.push(meta(spa::SPA_META_Cursor, Value::Choice(ChoiceValue::Int(range))));
    }
    params
}

fn object(pod: &[u8]) -> Result<Object, FormatError> {
    match PodDeserializer::deserialize_any_from(pod) {
        Ok((_, Value::Object(object))) => Ok(object),
        Ok(_) => Err(FormatError::Unreadable("not an object".to_owned())),
        Err(error) => Err(FormatError::Unreadable(format!("{error:?}"))),
    }
}

fn find(object: &Object, key: FormatProperties) -> Option<&Property> {
    object.properties.iter().find(|property| property.key == key.as_raw())
}

/// Decodes an agreed format.
///
/// # Errors
/// [`FormatError`] if the pod is malformed, or the format or size was not offered.
pub fn agreed(pod: &[u8]) -> Result<AgreedFormat, FormatError> {
    let object = object(pod)?;
    let raw =
        match find(&object, FormatProperties::VideoFormat).map(|property| ids(&property.value)).as_deref() {
            Some([only]) => *only,
            other => return Err(FormatError::Unreadable(format!("video format {other:?}"))),
        };
    let format = FORMATS
        .iter()
        .find(|(format, _)| format.as_raw() == raw)
        .map(|(_, format)| *format)
        .ok_or_else(|| FormatError::Pixels(format_text(raw)))?;
    let size = match find(&object, FormatProperties::VideoSize).map(|property| sizes(&property.value)) {
        Some(Some((smallest, largest))) if smallest == largest => smallest,
        other => return Err(FormatError::Unreadable(format!("video size {other:?}"))),
    };
    if !(1..=MAX_SIDE).contains(&size.width) || !(1..=MAX_SIDE).contains(&size.height) {
        return Err(FormatError::Size(size.width, size.height));
    }
    let property = find(&object, FormatProperties::VideoModifier);
    let modifier = property.and_then(|property| modifiers(&property.value).first().copied());
    let unfixed = property.is_some_and(|property| property.flags.bits() & DONT_FIXATE != 0);
    Ok(AgreedFormat { format, width: size.width, height: size.height, modifier, unfixed })
}

/// Identifiers in a property's value. A fixed value is encoded plain, or as a choice of kind None.
fn ids(value: &Value) -> Vec<u32> {
    match value {
        Value::Id(id) | Value::Choice(ChoiceValue::Id(Choice(_, ChoiceEnum::None(id)))) => vec![id.0],
        Value::Choice(ChoiceValue::Id(Choice(_, ChoiceEnum::Enum { alternatives, .. }))) => {
            alternatives.iter().map(|id| id.0).collect()
        }
        _ => Vec::new(),
    }
}

/// Minimum and maximum size in a property's value.
fn sizes(value: &Value) -> Option<(Rectangle, Rectangle)> {
    match value {
        Value::Rectangle(size) | Value::Choice(ChoiceValue::Rectangle(Choice(_, ChoiceEnum::None(size)))) => {
            Some((*size, *size))
        }
        Value::Choice(ChoiceValue::Rectangle(Choice(
            _,
            ChoiceEnum::Range { min, max, .. } | ChoiceEnum::Step { min, max, .. },
        ))) => Some((*min, *max)),
        _ => None,
    }
}

/// Modifiers in a property's value, the default first.
fn modifiers(value: &Value) -> Vec<u64> {
    let all = match value {
        Value::Long(modifier) => vec![*modifier],
        Value::Choice(ChoiceValue::Long(Choice(_, choice))) => match choice {
            ChoiceEnum::None(modifier) => vec![*modifier],
            ChoiceEnum::Enum { default, alternatives } => {
                let others = alternatives.iter().filter(|other| *other != default);
                std::iter::once(default).chain(others).copied().collect()
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    };
    all.into_iter().map(i64::cast_unsigned).collect()
}

fn format_text(raw: u32) -> String {
    let text = format!("{:?}", VideoFormat::from_raw(raw));
    text.strip_prefix("VideoFormat::").unwrap_or(&text).to_owned()
}

/// Decodes a format offered by the producer.
pub fn offered(pod: &[u8]) -> OfferedFormat {
    let Ok(object) = object(pod) else {
        return OfferedFormat { text: "unreadable format".to_owned(), dmabuf: false };
    };
    let formats = find(&object, FormatProperties::VideoFormat).map(|property| ids(&property.value));
    let formats: Vec<String> = formats.unwrap_or_default().into_iter().map(format_text).collect();
    let size = match find(&object, FormatProperties::VideoSize).and_then(|property| sizes(&property.value)) {
        Some((min, max)) if min == max => format!(" {}x{}", min.width, min.height),
        Some((min, max)) => format!(" {}x{} to {}x{}", min.width, min.height, max.width, max.height),
        None => String::new(),
    };
    let modifier = find(&object, FormatProperties::VideoModifier);
    let memory = match modifier {
        Some(property) => {
            let all: Vec<String> = modifiers(&property.value).into_iter().map(modifier_text).collect();
            format!(", DMA-BUF modifiers {}", all.join(", "))
        }
        None => ", shared memory".to_owned(),
    };
    OfferedFormat { text: format!("{}{size}{memory}", formats.join("|")), dmabuf: modifier.is_some() }
}

#[cfg(test)]
mod tests;
