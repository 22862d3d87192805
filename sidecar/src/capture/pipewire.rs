//! PipeWire.
pub fn run(
    _: &super::CaptureOptions,
    _: &super::Outlet,
    _: u32,
    _: Option<&super::mutter::Cast>,
) -> Result<(), super::CaptureError> {
    Err(super::CaptureError::PipeWire(String::new()))
}
