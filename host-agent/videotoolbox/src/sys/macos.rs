//! VideoToolbox by its C API. Contains no decisions: those are in the modules that use [`api`](crate::api).

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use encode::{Codec, EncodeError};
use objc2_core_foundation::{CFArray, CFBoolean, CFDictionary, CFNumber, CFRetained, CFString, CFType};
use objc2_core_media::{
    CMFormatDescription, CMSampleBuffer, CMTime, CMVideoFormatDescriptionGetH264ParameterSetAtIndex,
    CMVideoFormatDescriptionGetHEVCParameterSetAtIndex, kCMSampleAttachmentKey_NotSync, kCMTimeInvalid,
    kCMVideoCodecType_H264, kCMVideoCodecType_HEVC,
};
use objc2_core_video::{
    CVPixelBuffer, CVPixelBufferCreateWithPlanarBytes, kCVImageBufferColorPrimaries_ITU_R_709_2,
    kCVImageBufferTransferFunction_ITU_R_709_2, kCVImageBufferYCbCrMatrix_ITU_R_709_2,
    kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange,
};
use objc2_video_toolbox::{
    VTCompressionSession, VTEncodeInfoFlags, VTSessionSetProperty,
    kVTCompressionPropertyKey_AllowFrameReordering, kVTCompressionPropertyKey_AverageBitRate,
    kVTCompressionPropertyKey_ColorPrimaries, kVTCompressionPropertyKey_ExpectedFrameRate,
    kVTCompressionPropertyKey_MaxFrameDelayCount, kVTCompressionPropertyKey_MaxKeyFrameInterval,
    kVTCompressionPropertyKey_ProfileLevel, kVTCompressionPropertyKey_RealTime,
    kVTCompressionPropertyKey_TransferFunction, kVTCompressionPropertyKey_YCbCrMatrix,
    kVTEncodeFrameOptionKey_ForceKeyFrame, kVTProfileLevel_H264_High_AutoLevel,
    kVTProfileLevel_HEVC_Main_AutoLevel,
};

use crate::api::{Api, Deliver, Delivery, Frame, Property, Sample, Session, Shape, Status};
use crate::avcc::MAX_SETS;
use crate::registry::Registry;

/// Callbacks of the sessions.
static SESSIONS: Registry<Deliver> = Registry::new();
/// Memory that pixel buffers borrow.
static PICTURES: Registry<Bytes> = Registry::new();

/// `kVTParameterErr`, for errors that this module detects.
const BAD_PARAMETER: Status = Status(-12902);
/// Time scale of presentation times: us.
const TIMESCALE: i32 = 1_000_000;

fn ok(status: i32) -> Result<(), Status> {
    if status == 0 { Ok(()) } else { Err(Status(status)) }
}

/// The API of this Mac.
#[expect(clippy::unnecessary_wraps, reason = "has the signature of the variant without VideoToolbox")]
pub(crate) fn api() -> Result<Arc<dyn Api>, EncodeError> {
    Ok(Arc::new(Mac))
}

#[derive(Debug)]
struct Mac;

impl Api for Mac {
    fn create(&self, shape: Shape, deliver: Deliver) -> Result<Box<dyn Session>, Status> {
        let (Ok(width), Ok(height)) = (i32::try_from(shape.width), i32::try_from(shape.height)) else {
            return Err(BAD_PARAMETER);
        };
        let codec = match shape.codec {
            Codec::Hevc => kCMVideoCodecType_HEVC,
            Codec::H264 => kCMVideoCodecType_H264,
        };
        let number = SESSIONS.add(deliver);
        let mut made: *mut VTCompressionSession = ptr::null_mut();
        // SAFETY: all optional arguments are absent; the callback has the signature that the function needs, and
        // treats its context as a number; `made` is a local that outlives the call.
        let status = unsafe {
            VTCompressionSession::create(
                None,
                width,
                height,
                codec,
                None,
                None,
                None,
                Some(output),
                ptr::without_provenance_mut(number),
                NonNull::from(&mut made),
            )
        };
        let made = match (ok(status), NonNull::new(made)) {
            (Ok(()), Some(made)) => made,
            (failed, _) => {
                SESSIONS.remove(number);
                return Err(failed.err().unwrap_or(BAD_PARAMETER));
            }
        };
        // SAFETY: not null (checked); by Core Foundation's create rule the caller owns one reference.
        let session = unsafe { CFRetained::from_raw(made) };
        Ok(Box::new(MacSession { session, number, shape }))
    }
}

#[derive(Debug)]
struct MacSession {
    session: CFRetained<VTCompressionSession>,
    /// Handle in `SESSIONS`.
    number: usize,
    shape: Shape,
}

// SAFETY: VTCompressionSession may be used from any thread, one at a time; the functions of `Session` take
// `&mut self`.
unsafe impl Send for MacSession {}

impl MacSession {
    fn put(&self, key: &CFString, value: &CFType) -> Result<(), Status> {
        // SAFETY: the session is valid, and the value has the type that the key's documentation names: all pairs
        // are in `set`.
        ok(unsafe { VTSessionSetProperty(&self.session, key, Some(value)) })
    }
}

/// A constant of one of the frameworks.
macro_rules! constant {
    ($name:ident) => {{
        // SAFETY: the loader initialises the constant before any code of this program runs, and it is never
        // written; it exists in all supported versions of macOS.
        unsafe { $name }
    }};
}

impl Session for MacSession {
    fn set(&mut self, property: Property) -> Result<(), Status> {
        match property {
            Property::RealTime(yes) => {
                self.put(constant!(kVTCompressionPropertyKey_RealTime), CFBoolean::new(yes))
            }
            Property::AllowFrameReordering(yes) => {
                self.put(constant!(kVTCompressionPropertyKey_AllowFrameReordering), CFBoolean::new(yes))
            }
            Property::MaxFrameDelayCount(count) => {
                self.put(constant!(kVTCompressionPropertyKey_MaxFrameDelayCount), &CFNumber::new_i32(count))
            }
            Property::MaxKeyFrameInterval(count) => {
                self.put(constant!(kVTCompressionPropertyKey_MaxKeyFrameInterval), &CFNumber::new_i32(count))
            }
            Property::Profile(codec) => {
                let profile = match codec {
                    Codec::Hevc => constant!(kVTProfileLevel_HEVC_Main_AutoLevel),
                    Codec::H264 => constant!(kVTProfileLevel_H264_High_AutoLevel),
                };
                self.put(constant!(kVTCompressionPropertyKey_ProfileLevel), profile)
            }
            Property::Bt709 => {
                self.put(
                    constant!(kVTCompressionPropertyKey_ColorPrimaries),
                    constant!(kCVImageBufferColorPrimaries_ITU_R_709_2),
                )?;
                self.put(
                    constant!(kVTCompressionPropertyKey_TransferFunction),
                    constant!(kCVImageBufferTransferFunction_ITU_R_709_2),
                )?;
                self.put(
                    constant!(kVTCompressionPropertyKey_YCbCrMatrix),
                    constant!(kCVImageBufferYCbCrMatrix_ITU_R_709_2),
                )
            }
            Property::AverageBitRate(bits) => {
                self.put(constant!(kVTCompressionPropertyKey_AverageBitRate), &CFNumber::new_i64(bits))
            }
            Property::ExpectedFrameRate(fps) => {
                self.put(constant!(kVTCompressionPropertyKey_ExpectedFrameRate), &CFNumber::new_i32(fps))
            }
        }
    }

    fn encode(&mut self, frame: &Frame) -> Result<(), Status> {
        if (frame.width, frame.height) != (self.shape.width, self.shape.height) {
            return Err(BAD_PARAMETER);
        }
        let (Ok(pts), Ok(number)) = (i64::try_from(frame.pts_us), usize::try_from(frame.number)) else {
            return Err(BAD_PARAMETER);
        };
        let picture = wrap(frame)?;
        let force = CFDictionary::<CFString, CFBoolean>::from_slices(
            &[constant!(kVTEncodeFrameOptionKey_ForceKeyFrame)],
            &[CFBoolean::new(true)],
        );
        let options = frame.idr.then(|| force.as_opaque());
        // SAFETY: takes numbers and returns a structure; no preconditions.
        let pts = unsafe { CMTime::new(pts, TIMESCALE) };
        // SAFETY: the image buffer has the session's size (checked), and VideoToolbox retains it; the options have
        // the documented type; the callback treats its context as a number; the flags may be null.
        ok(unsafe {
            self.session.encode_frame(
                &picture,
                pts,
                kCMTimeInvalid,
                options,
                ptr::without_provenance_mut(number),
                ptr::null_mut(),
            )
        })
    }

    fn complete(&mut self) -> Result<(), Status> {
        // SAFETY: as in `constant!`.
        let all = unsafe { kCMTimeInvalid };
        // SAFETY: the session is valid; the caller holds no lock that a callback needs.
        ok(unsafe { self.session.complete_frames(all) })
    }
}

impl Drop for MacSession {
    fn drop(&mut self) {
        // SAFETY: the session is valid and is not used afterwards.
        unsafe { self.session.invalidate() };
        SESSIONS.remove(self.number);
    }
}

/// A pixel buffer that borrows a picture's memory until Core Video calls `release`.
fn wrap(frame: &Frame) -> Result<CFRetained<CVPixelBuffer>, Status> {
    let (width, height, stride) = (frame.width as usize, frame.height as usize, frame.stride as usize);
    if stride < width || frame.data.len() < stride * height * 3 / 2 {
        return Err(BAD_PARAMETER);
    }
    let luma = frame.data.as_ptr().cast_mut();
    let mut planes: [*mut c_void; 2] = [luma.cast(), luma.wrapping_add(stride * height).cast()];
    let (mut widths, mut heights) = ([width, width / 2], [height, height / 2]);
    let mut strides = [stride, stride];
    let number = PICTURES.add(frame.data.clone());
    let mut made: *mut CVPixelBuffer = ptr::null_mut();
    // SAFETY:
    // - each array has two entries, and outlives the call.
    // - both planes lie inside the picture's memory (checked), which `PICTURES` keeps until `release`; the
    //   encoder only reads them.
    // - the callback has the signature that the function needs, and treats its context as a number.
    // - `made` is a local that outlives the call.
    let status = unsafe {
        CVPixelBufferCreateWithPlanarBytes(
            None,
            width,
            height,
            kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange,
            ptr::null_mut(),
            0,
            2,
            NonNull::from(&mut planes).cast(),
            NonNull::from(&mut widths).cast(),
            NonNull::from(&mut heights).cast(),
            NonNull::from(&mut strides).cast(),
            Some(release),
            ptr::without_provenance_mut(number),
            None,
            NonNull::from(&mut made),
        )
    };
    match (ok(status), NonNull::new(made)) {
        // SAFETY: not null; by Core Foundation's create rule the caller owns one reference.
        (Ok(()), Some(made)) => Ok(unsafe { CFRetained::from_raw(made) }),
        (failed, _) => {
            PICTURES.remove(number);
            Err(failed.err().unwrap_or(BAD_PARAMETER))
        }
    }
}

/// Core Video released a picture.
unsafe extern "C-unwind" fn release(
    number: *mut c_void,
    _data: *const c_void,
    _size: usize,
    _planes: usize,
    _addresses: *mut *const c_void,
) {
    // Dropping may free a ring slot; a panic must not unwind into C.
    let _panicked = catch_unwind(|| drop(PICTURES.remove(number.addr())));
}

/// VideoToolbox finished a picture; called on one of its threads.
unsafe extern "C-unwind" fn output(
    session: *mut c_void,
    picture: *mut c_void,
    status: i32,
    flags: VTEncodeInfoFlags,
    sample: *mut CMSampleBuffer,
) {
    let Some(deliver) = SESSIONS.get(session.addr()) else { return };
    // SAFETY: null, or a sample buffer that VideoToolbox keeps valid during this call.
    let sample = unsafe { sample.as_ref() };
    let _panicked = catch_unwind(AssertUnwindSafe(|| {
        let delivery = match (ok(status), sample) {
            (Err(status), _) => Delivery::Failed(status),
            (Ok(()), Some(sample)) if !flags.contains(VTEncodeInfoFlags::FrameDropped) => {
                read(sample).map_or_else(Delivery::Failed, Delivery::Sample)
            }
            (Ok(()), _) => Delivery::Dropped,
        };
        deliver(picture.addr() as u64, delivery);
    }));
}

fn read(sample: &CMSampleBuffer) -> Result<Sample, Status> {
    // SAFETY: the sample buffer is valid; the result is retained.
    let format = unsafe { sample.format_description() }.ok_or(BAD_PARAMETER)?;
    // SAFETY: the sample buffer is valid; the result is retained.
    let block = unsafe { sample.data_buffer() }.ok_or(BAD_PARAMETER)?;
    // SAFETY: the block buffer is valid.
    let length = unsafe { block.data_length() };
    let mut data = BytesMut::zeroed(length);
    if let Some(start) = NonNull::new(data.as_mut_ptr()).filter(|_| length > 0) {
        // SAFETY: the destination has `length` bytes, and so has the block buffer.
        ok(unsafe { block.copy_data_bytes(0, length, start.cast()) })?;
    }
    let (parameter_sets, length_bytes) = parameter_sets(&format)?;
    Ok(Sample { keyframe: is_sync(sample), length_bytes, parameter_sets, data: data.freeze() })
}

/// True unless the sample's attachments mark it as not a sync sample.
fn is_sync(sample: &CMSampleBuffer) -> bool {
    // SAFETY: the sample buffer is valid.
    let Some(attachments) = (unsafe { sample.sample_attachments_array(false) }) else { return true };
    // SAFETY: Core Media documents the attachments as an array of dictionaries with string keys.
    let attachments = unsafe { attachments.cast_unchecked::<CFDictionary<CFString, CFType>>() };
    let Some(first) = CFArray::get(attachments, 0) else { return true };
    let not_sync = first.get(constant!(kCMSampleAttachmentKey_NotSync));
    !not_sync.is_some_and(|value| value.downcast_ref::<CFBoolean>().is_some_and(CFBoolean::as_bool))
}

/// The parameter sets, and the size of length prefixes in bytes.
fn parameter_sets(format: &CMFormatDescription) -> Result<(Vec<Bytes>, usize), Status> {
    // SAFETY: the format description is valid.
    let codec = unsafe { format.media_sub_type() };
    let get = if codec == kCMVideoCodecType_HEVC {
        CMVideoFormatDescriptionGetHEVCParameterSetAtIndex
    } else {
        CMVideoFormatDescriptionGetH264ParameterSetAtIndex
    };
    let (mut count, mut header) = (0, 0);
    // SAFETY: the format description is valid and of this codec; `count` and `header` are locals that outlive the
    // call; the other pointers may be null.
    ok(unsafe { get(format, 0, ptr::null_mut(), ptr::null_mut(), &raw mut count, &raw mut header) })?;
    let mut sets = Vec::new();
    for index in 0..count.min(MAX_SETS) {
        let (mut start, mut size) = (ptr::null(), 0);
        // SAFETY: as above; `index` is less than the count.
        ok(unsafe { get(format, index, &raw mut start, &raw mut size, ptr::null_mut(), ptr::null_mut()) })?;
        if !start.is_null() {
            // SAFETY: the function returned `size` bytes of the format description's memory, which `format` keeps
            // valid; they are copied here.
            sets.push(Bytes::copy_from_slice(unsafe { std::slice::from_raw_parts(start, size) }));
        }
    }
    Ok((sets, usize::try_from(header).unwrap_or(0)))
}
