//! Passes the size of the viewer's window on to the capture, at a limited rate.

use std::time::Duration;

use contract::display::DisplaySize;
use tokio::sync::watch;

/// Minimum interval between changes of the size. Each one makes buffers and encoders; the host-agent admits two per second.
const INTERVAL: Duration = Duration::from_millis(500);

/// A function that takes sizes at any rate, and calls `request` with the newest one, at most once per [`INTERVAL`]. Must be
/// called inside a runtime.
pub fn requests(request: impl Fn(DisplaySize) + Send + 'static) -> impl Fn(DisplaySize) + Send + Sync {
    let (sender, mut sizes) = watch::channel(None);
    tokio::spawn(async move {
        while sizes.changed().await.is_ok() {
            let size: Option<DisplaySize> = *sizes.borrow_and_update();
            if let Some(size) = size {
                request(size);
                tokio::time::sleep(INTERVAL).await;
            }
        }
    });
    move |size| {
        sender.send_replace(Some(size));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sizes_are_requested_at_a_limited_rate_and_the_newest_one_last() {
        let (sender, requested) = mpsc::channel();
        let request = requests(move |size| sender.send(size.width()).expect("received"));
        let size = |width: u32| DisplaySize::fit(width.into(), 400.0, 1.0).expect("finite");
        // 10 s with 20 sizes per second.
        for number in 0..200 {
            request(size(400 + 2 * number));
            tokio::time::sleep(INTERVAL / 10).await;
        }
        tokio::time::sleep(INTERVAL).await;
        let widths: Vec<u32> = requested.try_iter().collect();
        assert!((19..=22).contains(&widths.len()), "{widths:?}");
        assert_eq!((widths.first(), widths.last()), (Some(&400), Some(&798)));
    }
}
