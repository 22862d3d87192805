//! NAL units of H.264 and HEVC byte streams.

use encode::{Codec, annexb};

/// The `nal_unit_type` of a NAL unit (Rec. ITU-T H.264, table 7-1; H.265, table 7-1).
pub fn kind(codec: Codec, unit: &[u8]) -> Option<u8> {
    match codec {
        Codec::H264 => annexb::kind(unit),
        Codec::Hevc => unit.first().filter(|byte| **byte & 0x80 == 0).map(|byte| byte >> 1),
    }
}

/// NAL unit types of the codec's parameter sets, in the order of their references.
pub const fn parameter_sets(codec: Codec) -> &'static [u8] {
    match codec {
        Codec::H264 => &[annexb::nal_type::SPS, annexb::nal_type::PPS],
        // VPS, SPS, PPS.
        Codec::Hevc => &[32, 33, 34],
    }
}

/// True if a decoder can start at this access unit: all parameter sets, then a picture without references to
/// earlier ones (for HEVC an IRAP picture, types 16 to 21).
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
