//! Systems without VideoToolbox.

use std::sync::Arc;

use encode::EncodeError;

use crate::api::Api;

/// Always fails, with a remedy.
pub(crate) fn api() -> Result<Arc<dyn Api>, EncodeError> {
    Err(EncodeError::Unavailable(
        "VideoToolbox is part of macOS; on this system install gstreamer1.0-plugins-ugly for x264enc"
            .to_owned(),
    ))
}
