//! Passes the desktop's cursor from the capture to the viewers.

use std::sync::Arc;
use std::time::Duration;

use capture::{CursorBitmap, CursorFormat, Pointer, Shape};
use tokio::sync::watch;
use viewers::{Cursor, CursorImage, CursorShape};

/// Minimum interval between images, which are encoded and sent to all viewers.
const IMAGE_INTERVAL: Duration = Duration::from_millis(100);
/// Rate of images, bytes of Base64 per second: large ones have a longer interval.
const IMAGE_RATE: f64 = 64.0 * 1024.0;

/// The cursor for viewers, until the capture ends. Must be called inside a runtime.
pub fn follow(mut pointer: watch::Receiver<Pointer>) -> watch::Receiver<Cursor> {
    let (sender, cursor) = watch::channel(Cursor::default());
    tokio::spawn(async move {
        let mut known = (Shape::default(), CursorShape::default());
        while pointer.changed().await.is_ok() {
            let Pointer { position, shape } = pointer.borrow_and_update().clone();
            let is_new = shape != known.0;
            if is_new {
                known = (shape.clone(), converted(&shape));
            }
            sender.send_replace(Cursor { position, shape: known.1.clone() });
            if is_new {
                tokio::time::sleep(interval(&known.1)).await;
            }
        }
    });
    cursor
}

/// Time until the next image.
fn interval(shape: &CursorShape) -> Duration {
    let bytes = match shape {
        CursorShape::Image(image) => image.png.len(),
        _ => 0,
    };
    IMAGE_INTERVAL.max(Duration::from_secs_f64(bytes as f64 / IMAGE_RATE))
}

fn converted(shape: &Shape) -> CursorShape {
    match shape {
        Shape::InPicture => CursorShape::InPicture,
        Shape::Hidden => CursorShape::Hidden,
        Shape::Unsupported => CursorShape::Arrow,
        Shape::Bitmap(bitmap) => {
            image(bitmap).map_or(CursorShape::Arrow, |image| CursorShape::Image(Arc::new(image)))
        }
    }
}

fn image(bitmap: &CursorBitmap) -> Option<CursorImage> {
    let CursorBitmap { format, width, height, hotspot, pixels } = bitmap;
    let swapped;
    let pixels = match format {
        CursorFormat::Rgba => pixels,
        CursorFormat::Bgra => {
            let pixels = pixels.as_chunks::<4>().0.iter();
            swapped = pixels.flat_map(|[blue, green, red, alpha]| [*red, *green, *blue, *alpha]).collect();
            &swapped
        }
    };
    CursorImage::new(*width, *height, *hotspot, pixels)
        .inspect_err(|error| tracing::debug!(%error, "viewers see an arrow"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitmap(width: u32, format: CursorFormat, pixel: [u8; 4]) -> Shape {
        let pixels = pixel.repeat(width as usize);
        Shape::Bitmap(Arc::new(CursorBitmap { format, width, height: 1, hotspot: (0, 0), pixels }))
    }

    #[tokio::test(start_paused = true)]
    async fn images_reach_viewers_and_those_of_browsers_limits_only() {
        let (sender, pointer) = watch::channel(Pointer::default());
        let mut cursor = follow(pointer);
        let mut shape_of = async |shape: Shape| {
            sender.send_replace(Pointer { position: None, shape });
            cursor.changed().await.expect("the task lives");
            cursor.borrow_and_update().shape.clone()
        };
        let rgba = shape_of(bitmap(1, CursorFormat::Rgba, [9, 8, 7, 255])).await;
        let bgra = shape_of(bitmap(1, CursorFormat::Bgra, [7, 8, 9, 255])).await;
        let (CursorShape::Image(rgba), CursorShape::Image(bgra)) = (rgba, bgra) else {
            unreachable!("both are images")
        };
        assert_eq!(rgba, bgra);
        let large = shape_of(bitmap(viewers::cursor::MAX_SIDE + 1, CursorFormat::Rgba, [0; 4])).await;
        assert!(matches!(large, CursorShape::Arrow));
        assert!(matches!(shape_of(Shape::Hidden).await, CursorShape::Hidden));
    }
}
