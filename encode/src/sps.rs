//! Parser of sequence parameter sets (Rec. ITU-T H.264, 7.3.2.1.1 and annex E).
//!
//! It reads a NAL unit once from front to back, and checks every count against the standard's limit before
//! it loops over it.

/// The used fields of a sequence parameter set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sps {
    /// `profile_idc`: 66 Baseline, 77 Main, 100 High.
    pub profile: u8,
    /// Byte with the constraint flags.
    pub constraints: u8,
    /// `level_idc`, ten times the level.
    pub level: u8,
    /// Width after cropping, pixels.
    pub width: u32,
    /// Height after cropping, pixels.
    pub height: u32,
    /// Samples have the range 0 to 255 (`video_full_range_flag`).
    pub full_range: bool,
    /// `matrix_coefficients`; 1 is BT.709, 2 is unspecified (table E-5).
    pub matrix: u8,
    /// `max_num_reorder_frames`; `None` if absent: then a decoder may delay pictures.
    pub max_reorder: Option<u32>,
    /// `pic_order_cnt_type`; 2 excludes reordering, whatever `max_reorder` is.
    pub order_type: u32,
}

/// A sequence parameter set is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpsError {
    /// It ends inside a field.
    #[error("the sequence parameter set ends inside a field")]
    Truncated,
    /// The NAL unit has another type.
    #[error("not a sequence parameter set")]
    NotSps,
    /// A field is outside the range that the standard allows.
    #[error("{0} is outside the standard's range")]
    Range(&'static str),
}

/// Reads bits of a NAL unit's payload, skipping emulation prevention bytes (7.4.1.1).
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    zeros: u32,
    current: u8,
    left: u32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, zeros: 0, current: 0, left: 0 }
    }

    fn bit(&mut self) -> Result<u32, SpsError> {
        if self.left == 0 {
            let mut byte = *self.bytes.get(self.at).ok_or(SpsError::Truncated)?;
            self.at += 1;
            if self.zeros >= 2 && byte == 3 {
                self.zeros = 0;
                byte = *self.bytes.get(self.at).ok_or(SpsError::Truncated)?;
                self.at += 1;
            }
            self.zeros = if byte == 0 { self.zeros + 1 } else { 0 };
            (self.current, self.left) = (byte, 8);
        }
        self.left -= 1;
        Ok(u32::from(self.current >> self.left) & 1)
    }

    fn flag(&mut self) -> Result<bool, SpsError> {
        Ok(self.bit()? == 1)
    }

    /// `u(n)`, n at most 32.
    fn bits(&mut self, count: u32) -> Result<u32, SpsError> {
        (0..count).try_fold(0, |value, _| Ok(value << 1 | self.bit()?))
    }

    /// `ue(v)`, at most `max`.
    fn ue(&mut self, what: &'static str, max: u32) -> Result<u32, SpsError> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return Err(SpsError::Range(what));
            }
        }
        let value = (1 << zeros) - 1 + self.bits(zeros)?;
        if value > max { Err(SpsError::Range(what)) } else { Ok(value) }
    }

    /// Reads `se(v)`.
    fn se(&mut self, what: &'static str) -> Result<i64, SpsError> {
        let code = i64::from(self.ue(what, u32::MAX - 1)?);
        Ok(if code % 2 == 1 { code.div_euclid(2) + 1 } else { -(code / 2) })
    }
}

/// Largest width or height in macroblocks: 16,384 pixels, twice the largest encoded size.
const MAX_MACROBLOCKS: u32 = 1024;

impl Sps {
    /// Parses a NAL unit that begins with its header byte.
    ///
    /// # Errors
    /// If it is truncated, of another type, or has a field out of range.
    pub fn parse(unit: &[u8]) -> Result<Self, SpsError> {
        let [header, profile, constraints, level, rest @ ..] = unit else { return Err(SpsError::Truncated) };
        if header & 0x9F != crate::annexb::nal_type::SPS {
            return Err(SpsError::NotSps);
        }
        let mut bits = Bits::new(rest);
        bits.ue("seq_parameter_set_id", 31)?;
        let mut chroma_format = 1;
        let mut separate_planes = false;
        if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
            chroma_format = bits.ue("chroma_format_idc", 3)?;
            if chroma_format == 3 {
                separate_planes = bits.flag()?;
            }
            bits.ue("bit_depth_luma_minus8", 6)?;
            bits.ue("bit_depth_chroma_minus8", 6)?;
            bits.flag()?;
            if bits.flag()? {
                scaling_matrix(&mut bits, if chroma_format == 3 { 12 } else { 8 })?;
            }
        }
        bits.ue("log2_max_frame_num_minus4", 12)?;
        let order_type = bits.ue("pic_order_cnt_type", 2)?;
        match order_type {
            0 => {
                bits.ue("log2_max_pic_order_cnt_lsb_minus4", 12)?;
            }
            1 => {
                bits.flag()?;
                bits.se("offset_for_non_ref_pic")?;
                bits.se("offset_for_top_to_bottom_field")?;
                for _ in 0..bits.ue("num_ref_frames_in_pic_order_cnt_cycle", 255)? {
                    bits.se("offset_for_ref_frame")?;
                }
            }
            _ => {}
        }
        bits.ue("max_num_ref_frames", 16)?;
        bits.flag()?;
        let columns = bits.ue("pic_width_in_mbs_minus1", MAX_MACROBLOCKS - 1)? + 1;
        let rows = bits.ue("pic_height_in_map_units_minus1", MAX_MACROBLOCKS - 1)? + 1;
        let frames_only = bits.flag()?;
        if !frames_only {
            bits.flag()?;
        }
        bits.flag()?;
        let (mut width, mut height) = (columns * 16, rows * 16 * if frames_only { 1 } else { 2 });
        if bits.flag()? {
            let (unit_x, unit_y) = match chroma_format {
                1 if !separate_planes => (2, 2),
                2 if !separate_planes => (2, 1),
                _ => (1, 1),
            };
            let unit_y = unit_y * if frames_only { 1 } else { 2 };
            let side = 16 * MAX_MACROBLOCKS;
            let across =
                bits.ue("frame_crop_left_offset", side)? + bits.ue("frame_crop_right_offset", side)?;
            let down = bits.ue("frame_crop_top_offset", side)? + bits.ue("frame_crop_bottom_offset", side)?;
            width =
                width.checked_sub(across * unit_x).filter(|w| *w > 0).ok_or(SpsError::Range("frame_crop"))?;
            height =
                height.checked_sub(down * unit_y).filter(|h| *h > 0).ok_or(SpsError::Range("frame_crop"))?;
        }
        let vui = if bits.flag()? { usability(&mut bits)? } else { Usability::ABSENT };
        Ok(Self {
            profile: *profile,
            constraints: *constraints,
            level: *level,
            width,
            height,
            full_range: vui.full_range,
            matrix: vui.matrix,
            max_reorder: vui.max_reorder,
            order_type,
        })
    }

    /// True if a decoder may output each picture immediately.
    pub fn has_no_reordering(&self) -> bool {
        self.order_type == 2 || self.max_reorder == Some(0)
    }
}

fn scaling_matrix(bits: &mut Bits<'_>, lists: u32) -> Result<(), SpsError> {
    for list in 0..lists {
        if !bits.flag()? {
            continue;
        }
        let (mut last, mut next) = (8i64, 8i64);
        for _ in 0..if list < 6 { 16 } else { 64 } {
            if next != 0 {
                next = (last + bits.se("delta_scale")?).rem_euclid(256);
            }
            if next != 0 {
                last = next;
            }
        }
    }
    Ok(())
}

/// The used fields of the video usability information (E.1.1).
struct Usability {
    full_range: bool,
    matrix: u8,
    max_reorder: Option<u32>,
}

impl Usability {
    const ABSENT: Self = Self { full_range: false, matrix: 2, max_reorder: None };
}

fn usability(bits: &mut Bits<'_>) -> Result<Usability, SpsError> {
    const EXTENDED_SAR: u32 = 255;
    let mut vui = Usability::ABSENT;
    if bits.flag()? && bits.bits(8)? == EXTENDED_SAR {
        bits.bits(32)?;
    }
    if bits.flag()? {
        bits.flag()?;
    }
    if bits.flag()? {
        bits.bits(3)?;
        vui.full_range = bits.flag()?;
        if bits.flag()? {
            bits.bits(16)?;
            vui.matrix = bits.bits(8)? as u8;
        }
    }
    if bits.flag()? {
        bits.ue("chroma_sample_loc_type_top_field", 5)?;
        bits.ue("chroma_sample_loc_type_bottom_field", 5)?;
    }
    if bits.flag()? {
        bits.bits(32)?;
        bits.bits(32)?;
        bits.flag()?;
    }
    let nal_hrd = bits.flag()?;
    if nal_hrd {
        reference_decoder(bits)?;
    }
    let vcl_hrd = bits.flag()?;
    if vcl_hrd {
        reference_decoder(bits)?;
    }
    if nal_hrd || vcl_hrd {
        bits.flag()?;
    }
    bits.flag()?;
    if bits.flag()? {
        bits.flag()?;
        bits.ue("max_bytes_per_pic_denom", 16)?;
        bits.ue("max_bits_per_mb_denom", 16)?;
        bits.ue("log2_max_mv_length_horizontal", 16)?;
        bits.ue("log2_max_mv_length_vertical", 16)?;
        vui.max_reorder = Some(bits.ue("max_num_reorder_frames", 16)?);
    }
    Ok(vui)
}

fn reference_decoder(bits: &mut Bits<'_>) -> Result<(), SpsError> {
    let count = bits.ue("cpb_cnt_minus1", 31)? + 1;
    bits.bits(8)?;
    for _ in 0..count {
        bits.ue("bit_rate_value_minus1", u32::MAX - 1)?;
        bits.ue("cpb_size_value_minus1", u32::MAX - 1)?;
        bits.flag()?;
    }
    bits.bits(20)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The null encoder's SPS, written by hand from the standard: 320 x 240, baseline profile.
    const SMALL: &[u8] = &[0x67, 0x42, 0xC0, 0x1E, 0xDA, 0x05, 0x07, 0xE4];

    #[test]
    fn small_parameter_set_is_parsed() {
        let sps = Sps::parse(SMALL).expect("valid");
        assert_eq!((sps.profile, sps.constraints, sps.level), (0x42, 0xC0, 0x1E));
        assert_eq!((sps.width, sps.height), (320, 240));
        assert_eq!((sps.full_range, sps.matrix, sps.max_reorder), (false, 2, None));
    }

    #[test]
    fn every_prefix_is_refused_as_truncated() {
        for len in 0..SMALL.len() {
            assert_eq!(Sps::parse(&SMALL[..len]), Err(SpsError::Truncated), "{len} bytes");
        }
    }

    #[test]
    fn unit_of_another_type_is_refused() {
        assert_eq!(Sps::parse(&[0x68, 1, 2, 3, 4]), Err(SpsError::NotSps));
    }

    #[test]
    fn emulation_prevention_byte_is_skipped() {
        let mut bits = Bits::new(&[0, 0, 3, 1, 0xFF]);
        assert_eq!(bits.bits(32), Ok(0x0000_01FF));
    }

    #[test]
    fn exp_golomb_codes_are_decoded_within_limits() {
        // 1, 010, 011, 00100; a code with 32 leading zeros is longer than any field.
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0000]);
        let mut next = || bits.ue("test", u32::MAX - 1);
        assert_eq!([next(), next(), next(), next()], [Ok(0), Ok(1), Ok(2), Ok(3)]);
        assert_eq!(Bits::new(&[0, 0, 3, 0, 0, 3, 0]).ue("long", 1), Err(SpsError::Range("long")));
        assert_eq!(Bits::new(&[0b0010_0000]).ue("big", 2), Err(SpsError::Range("big")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_within_limits(tail in proptest::collection::vec(any::<u8>(), 0..120), profile in prop_oneof![Just(66u8), Just(100), any::<u8>()]) {
            let unit = [&[0x67, profile, 0, 30][..], &tail].concat();
            if let Ok(sps) = Sps::parse(&unit) {
                prop_assert!(sps.width > 0 && sps.width <= 16 * MAX_MACROBLOCKS);
                prop_assert!(sps.height > 0 && sps.height <= 32 * MAX_MACROBLOCKS);
            }
        }
    }
}
