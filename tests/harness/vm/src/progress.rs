//! Progress messages on stderr; stdout is for results.

/// Prints a progress message.
macro_rules! say {
    ($($words:tt)*) => { eprintln!("lab: {}", format_args!($($words)*)) };
}

pub(crate) use say;
