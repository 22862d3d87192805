//! The desktop's cursor for one viewer.

use std::time::Duration;

use axum::extract::ws::Message;
use tokio::sync::watch;
use tokio::time::Instant;

use super::session::text;
use super::wire::{CursorMessage, ShapeMessage, ToViewer};
use crate::cursor::{Cursor, CursorShape};

/// Minimum interval between messages: changes in between are merged.
const INTERVAL: Duration = Duration::from_millis(33);

/// Messages about the cursor.
#[derive(Debug)]
pub struct ViewerCursor {
    cursor: Option<watch::Receiver<Cursor>>,
    /// Shape that was sent last.
    sent: CursorShape,
    /// Time of the next message.
    due: Instant,
}

impl ViewerCursor {
    /// Messages about `cursor`; none without one. The page assumes a cursor in the picture.
    pub fn new(cursor: Option<watch::Receiver<Cursor>>) -> Self {
        let cursor = cursor.map(|mut cursor| {
            cursor.mark_changed();
            cursor
        });
        Self { cursor, sent: CursorShape::default(), due: Instant::now() }
    }

    /// The next change. Cancel safe.
    pub async fn next(&mut self) -> Message {
        let Some(cursor) = &mut self.cursor else { return std::future::pending().await };
        tokio::time::sleep_until(self.due).await;
        if cursor.changed().await.is_err() {
            return std::future::pending().await;
        }
        self.due = Instant::now() + INTERVAL;
        let Cursor { position, shape } = cursor.borrow_and_update().clone();
        let is_same = shape.is(&self.sent);
        let message = ToViewer::Cursor(CursorMessage {
            position: position.map(|(x, y)| [x.get(), y.get()]),
            shape: (!is_same).then_some(match &shape {
                CursorShape::InPicture => ShapeMessage::InPicture,
                CursorShape::Hidden => ShapeMessage::Hidden,
                CursorShape::Arrow => ShapeMessage::Arrow,
                CursorShape::Image(image) => ShapeMessage::Image {
                    png: &image.png,
                    width: image.width,
                    height: image.height,
                    hotspot: [image.hotspot.0, image.hotspot.1],
                },
            }),
        });
        let message = text(&message);
        self.sent = shape;
        message
    }
}
