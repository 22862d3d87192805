//! Lines that tell a waiting person what is going on. On stderr: stdout belongs to results.

/// Says what is being done.
macro_rules! say {
    ($($words:tt)*) => { eprintln!("lab: {}", format_args!($($words)*)) };
}

pub(crate) use say;
