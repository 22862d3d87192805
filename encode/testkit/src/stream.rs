//! What there is in a byte stream of either codec: kinds of NAL units, and where a decoder can begin.

use encode::{Codec, annexb};

/// The `nal_unit_type` of a NAL unit (Rec. ITU-T H.264, table 7-1; H.265, table 7-1).
pub fn kind(codec: Codec, unit: &[u8]) -> Option<u8> {
    match codec {
        Codec::H264 => annexb::kind(unit),
        Codec::Hevc => unit.first().filter(|byte| **byte & 0x80 == 0).map(|byte| byte >> 1),
    }
}

/// Its parameter sets' kinds, in the order in which they refer to each other.
pub const fn parameter_sets(codec: Codec) -> &'static [u8] {
    match codec {
        Codec::H264 => &[annexb::nal_type::SPS, annexb::nal_type::PPS],
        // VPS, SPS, PPS.
        Codec::Hevc => &[32, 33, 34],
    }
}

/// Whether a decoder can begin with this access unit: all parameter sets, then a picture that refers to none before it
/// (H.265: an IRAP, types 16 to 21).
pub fn is_entry_point(codec: Codec, data: &[u8]) -> bool {
    if codec == Codec::H264 {
        return annexb::is_entry_point(data);
    }
    let mut missing = parameter_sets(codec).to_vec();
    for kind in annexb::nal_units(data).filter_map(|unit| kind(codec, unit)) {
        match kind {
            16..=21 => return missing.is_empty(),
            0..=31 => return false,
            _ => missing.retain(|set| *set != kind),
        }
    }
    false
}
