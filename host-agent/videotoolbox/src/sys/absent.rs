//! No VideoToolbox here.

use std::sync::Arc;

use encode::EncodeError;

use crate::api::Api;

/// Always says what to do instead.
pub(crate) fn api() -> Result<Arc<dyn Api>, EncodeError> {
    Err(EncodeError::Unavailable(
        "VideoToolbox is a part of macOS; here install gstreamer1.0-plugins-ugly for x264enc".to_owned(),
    ))
}
