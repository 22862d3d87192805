//! The desktop's pointer, where the compositor delivers it apart from the picture.

use std::sync::Arc;

use contract::input::Fraction;
use pipewire_buffers::{CursorBitmap, CursorMeta, CursorShape};
use tokio::sync::watch;

/// Shape of the pointer's cursor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Shape {
    /// The compositor draws the cursor into the picture, or leaves it out.
    #[default]
    InPicture,
    /// The program under the pointer hides the cursor.
    Hidden,
    /// A bitmap.
    Bitmap(Arc<CursorBitmap>),
    /// A cursor that cannot be read.
    Unsupported,
}

/// Position and cursor of the pointer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pointer {
    /// Position in the picture; `None` if it is elsewhere or not known.
    pub position: Option<(Fraction, Fraction)>,
    /// Shape of the cursor.
    pub shape: Shape,
}

impl Pointer {
    /// The pointer after a change in a picture of `width` × `height` pixels.
    fn changed(&self, meta: CursorMeta, (width, height): (u32, u32)) -> Self {
        // The centre of the pixel.
        let fraction = |at: i32, size: u32| Fraction::new((f64::from(at) + 0.5) / f64::from(size.max(1)));
        let position = meta.position.and_then(|(x, y)| fraction(x, width).zip(fraction(y, height)));
        let shape = match (meta.shape, &self.shape) {
            (Some(CursorShape::Bitmap(bitmap)), _) => Shape::Bitmap(Arc::new(bitmap)),
            (Some(CursorShape::Hidden), _) => Shape::Hidden,
            (Some(CursorShape::Unsupported), _) | (None, Shape::InPicture) => Shape::Unsupported,
            (None, former) => former.clone(),
        };
        Self { position, shape }
    }
}

/// Publishes the pointer of the running source.
#[derive(Debug, Clone)]
pub struct PointerSender(Arc<watch::Sender<Pointer>>);

impl Default for PointerSender {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }
}

impl PointerSender {
    /// The pointer, as it changes.
    pub fn subscribe(&self) -> watch::Receiver<Pointer> {
        self.0.subscribe()
    }

    /// Publishes a change in a picture of this size.
    pub fn update(&self, meta: CursorMeta, size: (u32, u32)) {
        self.0.send_if_modified(|pointer| {
            let changed = pointer.changed(meta, size);
            std::mem::replace(pointer, changed) != *pointer
        });
    }

    /// Publishes that the pointer is in the picture or not known: the source ended.
    pub fn reset(&self) {
        self.0.send_if_modified(|pointer| std::mem::take(pointer) != *pointer);
    }
}

#[cfg(test)]
mod tests {
    use pipewire_buffers::CursorFormat;

    use super::*;

    #[test]
    fn shape_stays_until_it_changes_and_the_position_is_a_fraction() {
        let sender = PointerSender::default();
        let mut pointer = sender.subscribe();
        let bitmap = CursorBitmap {
            format: CursorFormat::Rgba,
            width: 1,
            height: 1,
            hotspot: (0, 0),
            pixels: vec![0; 4],
        };
        let shape = Some(CursorShape::Bitmap(bitmap.clone()));
        sender.update(CursorMeta { position: Some((9, 4)), shape }, (100, 50));
        let (x, y) = pointer.borrow_and_update().position.expect("a position");
        assert_eq!((x.of(100), y.of(50)), (9, 4));
        sender.update(CursorMeta { position: Some((-5, 700)), shape: None }, (100, 50));
        let moved = pointer.borrow_and_update().clone();
        assert_eq!(moved.shape, Shape::Bitmap(Arc::new(bitmap)));
        let (x, y) = moved.position.expect("a position");
        assert_eq!((x.of(100), y.of(50)), (0, 49), "limited to the picture");
        sender.update(CursorMeta { position: None, shape: Some(CursorShape::Hidden) }, (100, 50));
        assert_eq!(*pointer.borrow_and_update(), Pointer { position: None, shape: Shape::Hidden });
        sender.reset();
        assert!(pointer.has_changed().expect("a sender"));
        assert_eq!(*pointer.borrow_and_update(), Pointer::default());
        sender.reset();
        assert!(!pointer.has_changed().expect("a sender"));
    }
}
