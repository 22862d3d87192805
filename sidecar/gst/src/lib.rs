//! GStreamer elements: desktop capture and the resource-ID encoder.
