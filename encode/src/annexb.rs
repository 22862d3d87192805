//! The H.264 byte stream format (Rec. ITU-T H.264, annex B): NAL units and their types.
//!
//! The functions accept any bytes, do not allocate and do not fail: bytes that are not NAL units are
//! skipped. Slices are not decoded; [`sps`](crate::sps) parses parameter sets.

use crate::sps::Sps;

/// Values of `nal_unit_type` (table 7-1).
pub mod nal_type {
    /// Slice of a picture that is not an IDR.
    pub const SLICE: u8 = 1;
    /// Slice of an IDR picture.
    pub const IDR: u8 = 5;
    /// Supplemental enhancement information.
    pub const SEI: u8 = 6;
    /// Sequence parameter set.
    pub const SPS: u8 = 7;
    /// Picture parameter set.
    pub const PPS: u8 = 8;
    /// Access unit delimiter.
    pub const AUD: u8 = 9;
}

/// The NAL units of a byte stream, from header byte to the last byte that is not zero.
pub fn nal_units(stream: &[u8]) -> NalUnits<'_> {
    NalUnits { rest: after_start_code(stream) }
}

/// Iterator of [`nal_units`].
#[derive(Debug, Clone)]
pub struct NalUnits<'a> {
    rest: Option<&'a [u8]>,
}

/// Offset of the first start code: the bytes 0, 0, 1.
fn start_code(bytes: &[u8]) -> Option<usize> {
    // In a slice a 1 is rarer than a 0, so the search is for the 1.
    let mut from = 2;
    while let Some(found) = bytes.get(from..)?.iter().position(|byte| *byte == 1) {
        let at = from + found;
        if bytes[at - 2] == 0 && bytes[at - 1] == 0 {
            return Some(at - 2);
        }
        from = at + 1;
    }
    None
}

fn after_start_code(bytes: &[u8]) -> Option<&[u8]> {
    start_code(bytes).map(|at| &bytes[at + 3..])
}

impl<'a> Iterator for NalUnits<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let rest = self.rest?;
            let (unit, next) = match start_code(rest) {
                Some(at) => (&rest[..at], Some(&rest[at + 3..])),
                None => (rest, None),
            };
            self.rest = next;
            let len = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if len > 0 {
                return Some(&unit[..len]);
            }
        }
    }
}

/// The `nal_unit_type` of a NAL unit; `None` if it is empty or has the forbidden bit set.
pub fn kind(unit: &[u8]) -> Option<u8> {
    unit.first().filter(|byte| **byte & 0x80 == 0).map(|byte| byte & 0x1F)
}

/// The first NAL unit of a type.
pub fn find(stream: &[u8], wanted: u8) -> Option<&[u8]> {
    nal_units(stream).find(|unit| kind(unit) == Some(wanted))
}

/// True if the first slice of an access unit is an IDR slice.
pub fn is_idr(stream: &[u8]) -> bool {
    nal_units(stream).filter_map(kind).find(|kind| matches!(*kind, nal_type::SLICE..=nal_type::IDR))
        == Some(nal_type::IDR)
}

/// True if a decoder can start at this access unit: SPS and PPS before an IDR slice.
pub fn is_entry_point(stream: &[u8]) -> bool {
    let (mut sps, mut pps) = (false, false);
    for kind in nal_units(stream).filter_map(kind) {
        match kind {
            nal_type::SPS => sps = true,
            nal_type::PPS => pps = true,
            nal_type::IDR => return sps && pps,
            nal_type::SLICE..nal_type::IDR => return false,
            _ => {}
        }
    }
    false
}

/// The codec string `avc1.PPCCLL` (RFC 6381, section 3.3) for WebCodecs and MSE; `None` without an SPS.
pub fn codec_string(stream: &[u8]) -> Option<String> {
    match find(stream, nal_type::SPS)? {
        [_, profile, constraints, level, ..] => {
            Some(format!("avc1.{profile:02X}{constraints:02X}{level:02X}"))
        }
        _ => None,
    }
}

/// The first sequence parameter set of an access unit, if it is valid.
pub fn sps(stream: &[u8]) -> Option<Sps> {
    Sps::parse(find(stream, nal_type::SPS)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(stream: &[u8]) -> Vec<&[u8]> {
        nal_units(stream).collect()
    }

    #[test]
    fn units_are_split_at_short_and_long_start_codes() {
        assert_eq!(split(&[0, 0, 0, 1, 7, 9, 0, 0, 1, 8, 0, 0, 0, 0, 1, 5, 1]), [&[7, 9][..], &[8], &[5, 1]]);
    }

    #[test]
    fn bytes_before_the_first_start_code_are_skipped() {
        assert_eq!(split(&[1, 2, 3, 0, 0, 1, 0x65]), [&[0x65]]);
        assert!(split(&[1, 2, 3]).is_empty());
        assert!(split(&[]).is_empty());
        assert!(split(&[0, 0, 1]).is_empty());
        assert!(split(&[0, 0, 1, 0, 0, 1, 0, 0, 0, 1]).is_empty());
    }

    #[test]
    fn first_slice_decides_about_idr() {
        assert!(is_idr(&[0, 0, 1, 0x09, 0xF0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65]));
        assert!(!is_idr(&[0, 0, 1, 0x41, 0, 0, 1, 0x65]));
        assert!(!is_idr(&[0, 0, 1, 0xE5]), "the forbidden bit is set");
    }

    #[test]
    fn entry_point_needs_both_parameter_sets_first() {
        assert!(is_entry_point(&[0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 1, 0, 0, 1, 0x65]));
        assert!(!is_entry_point(&[0, 0, 1, 0x67, 1, 0, 0, 1, 0x65]));
        assert!(!is_entry_point(&[0, 0, 1, 0x65, 1, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68]));
    }

    #[test]
    fn codec_string_is_three_bytes_in_hexadecimal() {
        assert_eq!(codec_string(&[0, 0, 1, 0x67, 0x64, 0x00, 0x0A, 0xFF]).as_deref(), Some("avc1.64000A"));
        assert_eq!(codec_string(&[0, 0, 1, 0x67, 0x64, 0x01]), None);
        assert_eq!(codec_string(&[0, 0, 1, 0x65, 0x64, 0x01, 1, 1]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..200)) {
            for unit in nal_units(&bytes) {
                prop_assert!(!unit.is_empty());
                prop_assert!(start_code(unit).is_none());
            }
            let _ = (is_idr(&bytes), is_entry_point(&bytes), codec_string(&bytes), sps(&bytes));
        }

        #[test]
        fn joined_units_are_split_again(units in proptest::collection::vec(proptest::collection::vec(2u8..=255, 1..20), 0..10)) {
            let joined: Vec<u8> = units.iter().flat_map(|unit| [&[0, 0, 0, 1][..], unit].concat()).collect();
            prop_assert_eq!(split(&joined), units.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
    }
}
