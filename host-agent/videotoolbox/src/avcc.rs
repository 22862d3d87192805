//! Conversion of access units from length-prefixed NAL units (ISO/IEC 14496-15) to the byte stream format
//! (Annex B), with parameter sets before each IDR.

use bytes::{BufMut, Bytes, BytesMut};
use encode::annexb;

/// A sample is malformed, for this reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

const START_CODE: &[u8] = &[0, 0, 0, 1];
/// Largest number of parameter sets in a format description; streams have two or three.
pub const MAX_SETS: usize = 32;

/// Converts a sample: `sets` first, then the NAL units of `data`.
///
/// # Errors
/// If `length_bytes` is not 1, 2 or 4, a length exceeds the data, or there is no NAL unit.
pub fn to_annex_b(sets: &[Bytes], data: &[u8], length_bytes: usize) -> Result<Bytes, Malformed> {
    if !matches!(length_bytes, 1 | 2 | 4) {
        return Err(Malformed("length prefixes must have 1, 2 or 4 bytes"));
    }
    let before: usize = sets.iter().map(|set| set.len() + START_CODE.len()).sum();
    // Suffices for prefixes of four bytes, which VideoToolbox uses.
    let mut out = BytesMut::with_capacity(before + data.len() + 16);
    for set in sets {
        out.put_slice(START_CODE);
        out.put_slice(set);
    }
    let mut rest = data;
    let mut units = 0;
    while !rest.is_empty() {
        let (length, after) =
            rest.split_at_checked(length_bytes).ok_or(Malformed("the data ends inside a length prefix"))?;
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let (unit, after) = after
            .split_at_checked(length)
            .ok_or(Malformed("a NAL unit is longer than the remaining data"))?;
        if !unit.is_empty() {
            out.put_slice(START_CODE);
            out.put_slice(unit);
            units += 1;
        }
        rest = after;
    }
    if units == 0 {
        return Err(Malformed("there is no NAL unit"));
    }
    Ok(out.freeze())
}

/// True if the first slice of an HEVC access unit belongs to an IRAP picture, at which a decoder can start
/// (Rec. ITU-T H.265, table 7-1).
pub fn is_irap(stream: &[u8]) -> bool {
    let mut kinds = annexb::nal_units(stream).filter_map(|unit| unit.first()).map(|byte| byte >> 1);
    kinds.find(|kind| *kind < 32).is_some_and(|kind| (16..=21).contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_slice_decides_about_irap() {
        let units =
            |kinds: &[u8]| kinds.iter().flat_map(|kind| [0, 0, 1, kind << 1, 1, 7]).collect::<Vec<_>>();
        assert!(is_irap(&units(&[32, 33, 34, 39, 19])), "IDR_W_RADL");
        assert!(is_irap(&units(&[21])), "CRA_NUT");
        assert!(!is_irap(&units(&[32, 33, 34, 1, 19])), "TRAIL_R first");
        assert!(!is_irap(&units(&[32, 33, 34])) && !is_irap(&[]));
        assert!(!is_irap(&[0, 0, 1, 0x80 | 19 << 1, 1, 7]), "the forbidden bit is set");
    }

    #[test]
    fn length_prefixes_become_start_codes() {
        let sets = [Bytes::from_static(&[0x67, 1]), Bytes::from_static(&[0x68])];
        let out = to_annex_b(&sets, &[0, 0, 0, 2, 0x65, 9, 0, 0, 0, 1, 0x06], 4).expect("well-formed");
        assert_eq!(&out[..], [0, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 0, 0, 0, 1, 0x65, 9, 0, 0, 0, 1, 6]);
        assert_eq!(
            &to_annex_b(&[], &[1, 0x41, 2, 0x41, 5], 1).expect("short lengths")[..],
            [0, 0, 0, 1, 0x41, 0, 0, 0, 1, 0x41, 5]
        );
        assert_eq!(&to_annex_b(&[], &[0, 1, 0x41], 2).expect("two bytes")[..], [0, 0, 0, 1, 0x41]);
    }

    #[test]
    fn malformed_sample_is_refused() {
        for (data, length_bytes) in [
            (&[][..], 4),
            (&[0, 0, 0, 0], 4),
            (&[0, 0, 0, 5, 1, 2], 4),
            (&[0, 0], 4),
            (&[0xFF, 0xFF, 0xFF, 0xFF, 1], 4),
            (&[1, 0x41], 3),
            (&[1, 0x41], 0),
        ] {
            assert!(to_annex_b(&[], data, length_bytes).is_err(), "{data:?} with {length_bytes}");
        }
    }
}
