//! Tests of the offers and of the decoding of formats.

use super::*;

fn format_pod(format: VideoFormat, width: u32, height: u32, modifier: Option<(u32, Value)>) -> Pod {
    let mut properties = vec![
        Property::new(FormatProperties::VideoFormat.as_raw(), Value::Id(Id(format.as_raw()))),
        Property::new(FormatProperties::VideoSize.as_raw(), Value::Rectangle(Rectangle { width, height })),
    ];
    if let Some((flags, value)) = modifier {
        properties.push(Property {
            key: FormatProperties::VideoModifier.as_raw(),
            flags: PropertyFlags::from_bits_retain(flags),
            value,
        });
    }
    bytes(Object { type_: spa::SPA_TYPE_OBJECT_Format, id: spa::SPA_PARAM_Format, properties })
}

#[test]
fn dmabuf_offer_is_first_and_flagged() {
    let offers = formats(&MODIFIERS, true, 60, None);
    assert_eq!(offers.len(), 2);
    let gpu = object(&offers[0]).expect("an object");
    let modifier = find(&gpu, FormatProperties::VideoModifier).expect("a modifier");
    assert_eq!(modifier.flags.bits(), MANDATORY | DONT_FIXATE);
    assert_eq!(modifiers(&modifier.value), MODIFIERS);
    let shm = object(&offers[1]).expect("an object");
    assert!(find(&shm, FormatProperties::VideoModifier).is_none());
    let single = object(&formats(&[MOD_INVALID], false, 60, None)[0]).expect("an object");
    let single = find(&single, FormatProperties::VideoModifier).expect("a modifier");
    assert_eq!((single.flags.bits(), modifiers(&single.value)), (MANDATORY, vec![MOD_INVALID]));
    assert_eq!(formats(&[], true, 60, None), offers[1..]);
    assert_eq!(formats(&MODIFIERS, false, 60, None), offers[..1]);
}

#[test]
fn offered_format_reports_its_memory() {
    let offers = formats(&MODIFIERS, true, 60, None);
    let text = "BGRx|BGRA|RGBx|RGBA 1x1 to 8192x8192, DMA-BUF modifiers INVALID, LINEAR".to_owned();
    assert_eq!(offered(&offers[0]), OfferedFormat { text, dmabuf: true });
    let text = "BGRx|BGRA|RGBx|RGBA 1x1 to 8192x8192, shared memory".to_owned();
    assert_eq!(offered(&offers[1]), OfferedFormat { text, dmabuf: false });
    assert!(!offered(&[0xff; 64]).dmabuf);
}

#[test]
fn agreed_format_is_decoded() {
    let shm = agreed(&format_pod(VideoFormat::RGBA, 640, 360, None)).expect("a valid format");
    assert_eq!(
        shm,
        AgreedFormat { format: PixelFormat::Rgba, width: 640, height: 360, modifier: None, unfixed: false }
    );
    let chosen = bytes(Object {
        type_: spa::SPA_TYPE_OBJECT_Format,
        id: spa::SPA_PARAM_Format,
        properties: vec![
            Property::new(
                FormatProperties::VideoFormat.as_raw(),
                Value::Choice(ChoiceValue::Id(choice(ChoiceEnum::None(Id(VideoFormat::RGBA.as_raw()))))),
            ),
            Property::new(
                FormatProperties::VideoSize.as_raw(),
                Value::Choice(ChoiceValue::Rectangle(choice(ChoiceEnum::None(Rectangle {
                    width: 640,
                    height: 360,
                })))),
            ),
        ],
    });
    assert_eq!(agreed(&chosen).expect("a choice of kind None is a fixed value"), shm);
    let fixed =
        format_pod(VideoFormat::BGRx, 640, 360, Some((MANDATORY, Value::Long(MOD_INVALID.cast_signed()))));
    let fixed = agreed(&fixed).expect("a valid format");
    assert_eq!((fixed.modifier, fixed.unfixed), (Some(MOD_INVALID), false));
    let open = Value::Choice(ChoiceValue::Long(one_of(0, vec![0, MOD_INVALID.cast_signed()])));
    let open = agreed(&format_pod(VideoFormat::BGRx, 1, 1, Some((MANDATORY | DONT_FIXATE, open))))
        .expect("a valid format");
    assert_eq!((open.modifier, open.unfixed), (Some(MOD_LINEAR), true));
}

#[test]
fn agreed_format_malformed_or_not_offered_is_refused() {
    let refused = |pod: &[u8]| agreed(pod).expect_err("refused");
    assert!(matches!(refused(&format_pod(VideoFormat::I420, 640, 360, None)), FormatError::Pixels(_)));
    assert_eq!(refused(&format_pod(VideoFormat::BGRx, 0, 360, None)), FormatError::Size(0, 360));
    assert!(matches!(refused(&format_pod(VideoFormat::BGRx, 9000, 360, None)), FormatError::Size(..)));
    assert!(matches!(refused(&[]), FormatError::Unreadable(_)));
    assert!(matches!(refused(&[0xff; 64]), FormatError::Unreadable(_)));
}
