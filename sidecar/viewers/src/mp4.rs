//! Fragmented MP4 (ISO/IEC 14496-12 and -15) of a live stream: an initialisation segment at the first IDR,
//! then one fragment per access unit.
//!
//! A fragment is written when the next unit has come, because only then the sample's duration is known; a
//! gap between what a fragment promises and where the next begins makes players stall. The price is one
//! frame of latency: viewers who mind take the WebSocket. When nothing comes for long, [`Muxer::idle`]
//! closes the pending sample with the time that has passed.
//!
//! Parameter sets stay in the samples too: a player that ignores a second initialisation segment goes on
//! through a change of size. This module does no IO.

use bytes::{BufMut, Bytes, BytesMut};
use encode::annexb::{self, nal_type};
use encode::sps::Sps;
use mp4_atom::{
    Avc1, Avcc, Codec, Dinf, Dref, Encode, Ftyp, Hdlr, Mdhd, Mdia, Mfhd, Minf, Moof, Moov, Mvex, Mvhd, Stbl,
    Stco, Stsd, Tfdt, Tfhd, Tkhd, Traf, Trak, Trex, Trun, TrunEntry, Url, Visual, Vmhd,
};

use super::hub::Unit;

/// Ticks per second of every time in the file.
pub const TIMESCALE: u32 = 90_000;
/// A pending sample older than this is written without waiting for the next.
const IDLE_NS: u64 = 500_000_000;
/// A capture time further in the past than this isn't believed.
const PLAUSIBLE_DELAY_NS: u64 = 5_000_000_000;
/// Decodable without what came before (14496-12, 8.8.3.1): `sample_depends_on` 2.
const FLAGS_SYNC: u32 = 0x0200_0000;
/// Depends on others, is no sync sample.
const FLAGS_DELTA: u32 = 0x0101_0000;

/// Why a unit could not be put into a file.
#[derive(Debug, thiserror::Error)]
pub enum Mp4Error {
    /// An IDR without parameter sets: the encoder breaks its contract.
    #[error("the IDR of frame {0} has no SPS and PPS before it; the encoder must repeat them with every IDR")]
    NoParameterSets(u64),
    /// A box could not be written.
    #[error("MP4 box: {0}")]
    Box(#[from] mp4_atom::Error),
}

/// Makes a file out of units.
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
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a unit; returns what can be written now, maybe nothing. Units before the first IDR are left
    /// out.
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

    /// Writes the pending unit if it has waited for long.
    pub fn idle(&mut self, now_ns: u64) -> Result<Bytes, Mp4Error> {
        let waited = |sample: &mut Sample| now_ns.saturating_sub(sample.published_ns) >= IDLE_NS;
        let mut out = BytesMut::new();
        if let Some(sample) = self.pending.take_if(waited) {
            let end = sample.at + ticks(now_ns.saturating_sub(sample.published_ns));
            self.clock.earliest = end;
            self.write_fragment(&mut out, &sample, end - sample.at)?;
        }
        Ok(out.freeze())
    }

    /// Writes the pending unit, as the last.
    pub fn finish(mut self) -> Result<Bytes, Mp4Error> {
        let mut out = BytesMut::new();
        if let Some(sample) = self.pending.take() {
            self.write_fragment(&mut out, &sample, u64::from(TIMESCALE) / 30)?;
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
        // The offset counts from the box's own beginning, so its length is needed first.
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

/// Decode times. New frames are placed by their capture time, repeats (which carry the capture time of
/// the frame they repeat) by when they came, less the usual way from capture to here.
#[derive(Debug, Default)]
struct Timeline {
    start_ns: Option<u64>,
    delay_ns: u64,
    earliest: u64,
}

impl Timeline {
    fn at(&mut self, unit: &Unit) -> u64 {
        let age = unit.published_ns.checked_sub(unit.au.capture_ns).filter(|&age| age < PLAUSIBLE_DELAY_NS);
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

/// Annex B to what MP4 wants: each NAL unit after its length; delimiters have no place there.
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
    fn repeats_are_placed_by_arrival_and_time_never_stands_still() {
        let mut clock = Timeline::default();
        let ms = u64::from(TIMESCALE) / 1000;
        assert_eq!(clock.at(&unit(1, 1000, 1010, false)), 0);
        assert_eq!(clock.at(&unit(2, 1033, 1043, false)), 33 * ms);
        assert_eq!(clock.at(&unit(2, 1033, 1143, true)), 133 * ms);
        assert_eq!(
            clock.at(&unit(3, 1100, 1150, false)),
            133 * ms + 1,
            "captured before the repeat was made"
        );
        assert_eq!(
            clock.at(&unit(4, 0, 9000, false)),
            ticks((9000 - 50 - 1000) * 1_000_000),
            "no capture time"
        );
    }

    #[test]
    fn nothing_before_the_first_idr() {
        let mut muxer = Muxer::new();
        assert!(muxer.push(&unit(1, 1, 2, false)).expect("muxes").is_empty());
        assert!(muxer.finish().expect("muxes").is_empty());
    }

    #[test]
    fn delimiters_go_and_lengths_come() {
        let data = [0, 0, 0, 1, 9, 0xf0, 0, 0, 0, 1, 0x65, 1, 2];
        assert_eq!(&length_prefixed(&data)[..], [0, 0, 0, 3, 0x65, 1, 2]);
    }
}
