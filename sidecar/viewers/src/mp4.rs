//! Muxes a live stream into fragmented MP4 (ISO/IEC 14496-12 and -15): an initialisation segment at the first IDR, then
//! one fragment per access unit.
//!
//! A fragment is written when the next unit arrives, because it contains the sample's duration, and players stall at gaps
//! between a sample's end and the next one's start. This adds one frame of latency; the WebSocket has none. While no
//! unit arrives, [`Muxer::flush_idle`] writes the pending sample with the elapsed time as its duration.
//!
//! Parameter sets are also kept in the samples, so that a player that ignores a second initialisation segment still
//! follows a change of size.

use bytes::{BufMut, Bytes, BytesMut};
use encode::annexb::{self, nal_type};
use encode::sps::Sps;
use mp4_atom::{
    Avc1, Avcc, Codec, Dinf, Dref, Encode, Ftyp, Hdlr, Mdhd, Mdia, Mfhd, Minf, Moof, Moov, Mvex, Mvhd, Stbl,
    Stco, Stsd, Tfdt, Tfhd, Tkhd, Traf, Trak, Trex, Trun, TrunEntry, Url, Visual, Vmhd,
};

use super::hub::Unit;

/// Time scale of all tracks, ticks per second.
pub const TIMESCALE: u32 = 90_000;
/// Age at which a pending sample is written without waiting for the next, ns.
const IDLE_NS: u64 = 500_000_000;
/// Maximum plausible time from capture to publication, ns; a capture time further in the past is ignored.
const MAX_DELAY_NS: u64 = 5_000_000_000;
/// Sample flags of a sync sample: `sample_depends_on` 2 (14496-12, 8.8.3.1).
const FLAGS_SYNC: u32 = 0x0200_0000;
/// Sample flags of other samples: `sample_depends_on` 1, `sample_is_non_sync_sample`.
const FLAGS_DELTA: u32 = 0x0101_0000;

/// Error of [`Muxer`].
#[derive(Debug, thiserror::Error)]
pub enum Mp4Error {
    /// The encoder sent an IDR without parameter sets.
    #[error("the IDR of frame {0} has no SPS and PPS; configure the encoder to repeat them with every IDR")]
    NoParameterSets(u64),
    /// Encoding an MP4 box failed.
    #[error("MP4 box: {0}")]
    Box(#[from] mp4_atom::Error),
}

/// Muxes one live stream.
#[derive(Debug, Default)]
pub struct Muxer {
    clock: Timeline,
    pending: Option<Sample>,
    sequence: u32,
    parameter_sets: Option<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
struct Sample {
    at: u64,
    published_ns: u64,
    idr: bool,
    data: Bytes,
}

impl Muxer {
    /// A muxer before its first unit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a unit and returns the bytes to send now, which may be none. Units before the first IDR are skipped.
    ///
    /// # Errors
    /// [`Mp4Error`] if an IDR has no parameter sets, or a box cannot be encoded.
    pub fn push(&mut self, unit: &Unit) -> Result<Bytes, Mp4Error> {
        if self.parameter_sets.is_none() && !unit.au.idr {
            return Ok(Bytes::new());
        }
        let mut out = BytesMut::new();
        let at = self.clock.at(unit);
        if let Some(sample) = self.pending.take() {
            let duration = at.saturating_sub(sample.at);
            self.write_fragment(&mut out, &sample, duration)?;
        }
        if unit.au.idr {
            self.write_init(&mut out, unit)?;
        }
        let data = length_prefixed(&unit.au.data);
        self.pending = Some(Sample { at, published_ns: unit.published_ns, idr: unit.au.idr, data });
        Ok(out.freeze())
    }

    /// Returns the pending sample if it has waited for half a second.
    ///
    /// # Errors
    /// [`Mp4Error::Box`] if a box cannot be encoded.
    pub fn flush_idle(&mut self, now_ns: u64) -> Result<Bytes, Mp4Error> {
        let waited = |sample: &mut Sample| now_ns.saturating_sub(sample.published_ns) >= IDLE_NS;
        let mut out = BytesMut::new();
        if let Some(sample) = self.pending.take_if(waited) {
            let end = sample.at + ticks(now_ns.saturating_sub(sample.published_ns));
            self.clock.earliest = end;
            self.write_fragment(&mut out, &sample, end - sample.at)?;
        }
        Ok(out.freeze())
    }

    fn write_init(&mut self, out: &mut BytesMut, unit: &Unit) -> Result<(), Mp4Error> {
        let find = |kind| annexb::find(&unit.au.data, kind);
        let (Some(sps), Some(pps)) = (find(nal_type::SPS), find(nal_type::PPS)) else {
            return Err(Mp4Error::NoParameterSets(unit.au.seq));
        };
        if self.parameter_sets.as_ref().is_some_and(|(s, p)| s == sps && p == pps) {
            return Ok(());
        }
        if self.parameter_sets.is_none() {
            let brands = vec![b"iso6".into(), b"avc1".into(), b"mp41".into()];
            Ftyp { major_brand: b"iso6".into(), minor_version: 1, compatible_brands: brands }.encode(out)?;
        }
        movie(sps, pps)?.encode(out)?;
        self.parameter_sets = Some((sps.to_vec(), pps.to_vec()));
        Ok(())
    }

    fn write_fragment(&mut self, out: &mut BytesMut, sample: &Sample, duration: u64) -> Result<(), Mp4Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let moof = |offset| Moof {
            mfhd: Mfhd { sequence_number: self.sequence },
            traf: vec![Traf {
                tfhd: Tfhd { track_id: 1, default_base_is_moof: true, ..Tfhd::default() },
                tfdt: Some(Tfdt { base_media_decode_time: sample.at }),
                trun: vec![Trun {
                    data_offset: Some(offset),
                    samples: vec![TrunEntry {
                        duration: Some(u32::try_from(duration).unwrap_or(u32::MAX)),
                        size: Some(sample.data.len() as u32),
                        flags: Some(if sample.idr { FLAGS_SYNC } else { FLAGS_DELTA }),
                        cts: None,
                    }]
                    .into(),
                }],
                ..Traf::default()
            }],
        };
        // data_offset is relative to the start of the moof, so its length must be known first.
        let mut measured = BytesMut::new();
        moof(0).encode(&mut measured)?;
        out.reserve(measured.len() + 8 + sample.data.len());
        moof(measured.len() as i32 + 8).encode(out)?;
        out.put_u32(sample.data.len() as u32 + 8);
        out.put_slice(b"mdat");
        out.put_slice(&sample.data);
        Ok(())
    }
}

/// Computes decode times. A new frame's is its capture time. A repeat carries the capture time of the frame it repeats,
/// so its decode time is its publication time less the last delay from capture to publication.
#[derive(Debug, Default)]
struct Timeline {
    start_ns: Option<u64>,
    delay_ns: u64,
    earliest: u64,
}

impl Timeline {
    fn at(&mut self, unit: &Unit) -> u64 {
        let age = unit.published_ns.checked_sub(unit.au.capture_ns).filter(|&age| age < MAX_DELAY_NS);
        let ns = match age {
            Some(age) if !unit.au.repeat => {
                self.delay_ns = age;
                unit.au.capture_ns
            }
            _ => unit.published_ns.saturating_sub(self.delay_ns),
        };
        let start = *self.start_ns.get_or_insert(ns);
        let at = ticks(ns.saturating_sub(start)).max(self.earliest);
        self.earliest = at + 1;
        at
    }
}

fn ticks(ns: u64) -> u64 {
    (u128::from(ns) * u128::from(TIMESCALE) / 1_000_000_000) as u64
}

/// Converts Annex B to length-prefixed NAL units, without access unit delimiters (14496-15, 5.2.3).
fn length_prefixed(data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(data.len() + 16);
    for unit in annexb::nal_units(data).filter(|unit| annexb::kind(unit) != Some(nal_type::AUD)) {
        out.put_u32(unit.len() as u32);
        out.put_slice(unit);
    }
    out.freeze()
}

fn movie(sps: &[u8], pps: &[u8]) -> Result<Moov, Mp4Error> {
    let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
    let (width, height) = Sps::parse(sps).map_or((0, 0), |sps| (side(sps.width), side(sps.height)));
    let avc1 = Avc1 {
        visual: Visual { data_reference_index: 1, width, height, depth: 24, ..Visual::default() },
        avcc: Avcc::new(sps, pps)?,
        ..Avc1::default()
    };
    let stbl = Stbl {
        stsd: Stsd { codecs: vec![Codec::Avc1(avc1)] },
        stco: Some(Stco::default()),
        ..Stbl::default()
    };
    let mdia = Mdia {
        mdhd: Mdhd { timescale: TIMESCALE, language: "und".into(), ..Mdhd::default() },
        hdlr: Hdlr { handler: b"vide".into(), name: "desktop".into() },
        minf: Minf {
            vmhd: Some(Vmhd::default()),
            dinf: Dinf { dref: Dref { entries: vec![Url::default().into()] } },
            stbl,
            ..Minf::default()
        },
    };
    let tkhd = Tkhd {
        track_id: 1,
        enabled: true,
        in_movie: true,
        width: width.into(),
        height: height.into(),
        ..Tkhd::default()
    };
    Ok(Moov {
        mvhd: Mvhd { timescale: TIMESCALE, next_track_id: 2, rate: 1.into(), ..Mvhd::default() },
        mvex: Some(Mvex {
            mehd: None,
            trex: vec![Trex { track_id: 1, default_sample_description_index: 1, ..Trex::default() }],
        }),
        trak: vec![Trak { tkhd, mdia, ..Trak::default() }],
        ..Moov::default()
    })
}

#[cfg(test)]
mod tests {
    use protocol::stream::AccessUnit;

    use super::*;

    fn unit(seq: u64, capture_ms: u64, published_ms: u64, repeat: bool) -> Unit {
        let au = AccessUnit {
            seq,
            capture_ns: capture_ms * 1_000_000,
            idr: false,
            repeat,
            queue_us: 0,
            encode_us: 0,
            data: Bytes::from_static(&[0, 0, 1, 0x41, 9]),
        };
        Unit { au, published_ns: published_ms * 1_000_000, discontinuity: false, backlog: false }
    }

    #[test]
    fn decode_times_increase_and_repeats_follow_their_publication() {
        let mut clock = Timeline::default();
        let ms = u64::from(TIMESCALE) / 1000;
        assert_eq!(clock.at(&unit(1, 1000, 1010, false)), 0);
        assert_eq!(clock.at(&unit(2, 1033, 1043, false)), 33 * ms);
        assert_eq!(clock.at(&unit(2, 1033, 1143, true)), 133 * ms);
        assert_eq!(
            clock.at(&unit(3, 1100, 1150, false)),
            133 * ms + 1,
            "the frame was captured before the repeat"
        );
        assert_eq!(
            clock.at(&unit(4, 0, 9000, false)),
            ticks((9000 - 50 - 1000) * 1_000_000),
            "an implausible capture time is ignored"
        );
    }

    #[test]
    fn unit_before_the_first_idr_is_skipped() {
        let mut muxer = Muxer::new();
        assert!(muxer.push(&unit(1, 1, 2, false)).expect("muxed").is_empty());
        assert!(muxer.flush_idle(u64::MAX).expect("muxed").is_empty());
    }

    #[test]
    fn length_prefixed_drops_access_unit_delimiters() {
        let data = [0, 0, 0, 1, 9, 0xf0, 0, 0, 0, 1, 0x65, 1, 2];
        assert_eq!(&length_prefixed(&data)[..], [0, 0, 0, 3, 0x65, 1, 2]);
    }
}
