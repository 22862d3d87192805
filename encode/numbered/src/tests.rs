//! Drawing, reading and verifying frames.

use proptest::prelude::*;

use super::*;

const RGB: [PixelFormat; 4] = [PixelFormat::Bgrx, PixelFormat::Bgra, PixelFormat::Rgbx, PixelFormat::Rgba];

fn picture(frame: u32, width: u32, height: u32, padding: u32, format: PixelFormat) -> (Vec<u8>, u32) {
    let stride = if format == PixelFormat::Nv12 { width.next_multiple_of(2) } else { 4 * width } + padding;
    let mut bytes = vec![0x5a; stride as usize * 2 * height.next_multiple_of(2) as usize];
    draw(frame, &mut bytes, width, height, stride, format).expect("large enough");
    (bytes, stride)
}

proptest! {
    #[test]
    fn drawn_frame_is_read_back(
        frame: u32, width in 16u32..200, height in 9u32..120, padding in 0u32..9,
        format in prop::sample::select(&PixelFormat::ALL[..]),
    ) {
        let (bytes, stride) = picture(frame, width, height, padding, format);
        prop_assert_eq!(read_number(&bytes, width, height, stride, format), Ok(frame));
        prop_assert_eq!(verify_exact(frame, &bytes, width, height, stride, format), Ok(0));
    }

    #[test]
    fn cells_cover_every_pixel_once(width in 16u32..300, height in 9u32..200) {
        let mut seen = vec![0u8; (width * height) as usize];
        let map = Map::new(0, width, height);
        for (index, (rect, _)) in cells(0, width, height).enumerate() {
            prop_assert!(rect.fits(width, height));
            for y in rect.y..rect.y + rect.height {
                for x in rect.x..rect.x + rect.width {
                    seen[(y * width + x) as usize] += 1;
                    prop_assert_eq!(map.cell_at(x, y), index);
                }
            }
        }
        prop_assert!(seen.iter().all(|count| *count == 1));
    }

    #[test]
    fn halves_of_two_frames_are_reported_as_torn(a: u32, b: u32, width in 16u32..200, height in 18u32..120) {
        prop_assume!(a != b);
        let (mut bytes, stride) = picture(a, width, height, 0, PixelFormat::Bgrx);
        let (other, _) = picture(b, width, height, 0, PixelFormat::Bgrx);
        let half = stride as usize * (height / 2) as usize;
        bytes[..half].copy_from_slice(&other[..half]);
        let read = read_number(&bytes, width, height, stride, PixelFormat::Bgrx);
        prop_assert_eq!(read, Err(Torn::Disagree { top: b, bottom: a }));
    }

    #[test]
    fn every_colour_changes_with_the_frame(frame: u32, column in 0u32..16, row in 2u32..7) {
        let (now, next) = (colour(column, row, frame), colour(column, row, frame.wrapping_add(1)));
        prop_assert!(now.iter().zip(next).any(|(a, b)| *a != b));
        prop_assert_ne!(now, colour(column, row, frame ^ 0x100));
        prop_assert_ne!(now, colour(column, row, frame ^ 0x1_0000));
    }

    #[test]
    fn wrong_byte_counts_as_one_wrong_pixel(
        frame: u32, x in 0u32..33, y in 0u32..19, channel in 0usize..3, format in prop::sample::select(&RGB[..]),
    ) {
        let (mut bytes, stride) = picture(frame, 33, 19, 0, format);
        bytes[(y * stride + 4 * x) as usize + channel] ^= 1;
        bytes[(y * stride + 4 * x) as usize + 3] ^= 1;
        prop_assert_eq!(verify_exact(frame, &bytes, 33, 19, stride, format), Ok(1));
    }
}

#[test]
fn memory_of_one_colour_is_refused() {
    for fill in [0, 255] {
        let bytes = vec![fill; 4 * 64 * 36];
        let read = read_number(&bytes, 64, 36, 256, PixelFormat::Bgrx);
        assert!(matches!(read, Err(Torn::Disagree { .. })), "{fill}: {read:?}");
    }
    let grey = vec![128; 4 * 64 * 36];
    assert_eq!(
        read_number(&grey, 64, 36, 256, PixelFormat::Bgrx),
        Err(Torn::Grey { column: 0, row: 0, luma: 128 })
    );
}

#[test]
fn swapped_red_and_blue_are_detected() {
    let (bytes, stride) = picture(7, 64, 36, 0, PixelFormat::Bgrx);
    assert_eq!(read_number(&bytes, 64, 36, stride, PixelFormat::Rgbx), Ok(7), "black and white are the same");
    let wrong = verify_exact(7, &bytes, 64, 36, stride, PixelFormat::Rgbx).expect("readable");
    assert!(wrong > 64 * 36 / 3, "{wrong}");
}

#[test]
fn number_rows_hold_the_bits_of_the_number() {
    let bit = |column, row| colour(column, row, 0x8001_4002)[0] / 255;
    let row = |row| (0..COLUMNS).fold(0u32, |number, column| number << 1 | u32::from(bit(column, row)));
    assert_eq!([row(0), row(1), row(7), row(8)], [0x8001, 0x4002, 0x7ffe, 0xbffd]);
}

#[test]
fn nv12_colours_are_bt709_limited_range() {
    // Primaries in BT.709, 8 bits.
    for (rgb, want) in [
        ([0, 0, 0], [16, 128, 128]),
        ([255, 255, 255], [235, 128, 128]),
        ([255, 0, 0], [63, 102, 240]),
        ([0, 255, 0], [173, 42, 26]),
        ([0, 0, 255], [32, 240, 118]),
    ] {
        let map = Map { colours: vec![rgb; CELLS], width: 16, height: 9 };
        let [cb, cr] = map.chroma(0, 0);
        assert_eq!([luma_limited(rgb), cb, cr], want, "{rgb:?}");
    }
}

#[test]
fn invalid_size_is_refused() {
    let bytes = vec![0; 4 * 16 * 9];
    assert_eq!(
        read_number(&bytes, 15, 9, 60, PixelFormat::Bgrx),
        Err(Torn::TooSmall { width: 15, height: 9 })
    );
    let read = read_number(&bytes[1..], 16, 9, 64, PixelFormat::Bgrx);
    assert_eq!(read, Err(Torn::Short { need: 576, have: 575 }));
    assert!(matches!(read_number(&bytes, 16, 9, 60, PixelFormat::Bgrx), Err(Torn::Short { .. })));
    let drawn = draw(1, &mut vec![0; 16 * 13], 16, 9, 16, PixelFormat::Nv12);
    assert_eq!(drawn, Err(Torn::Short { need: 16 * 14, have: 16 * 13 }));
}
