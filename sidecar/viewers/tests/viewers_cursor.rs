//! The desktop's cursor on the viewers' WebSocket.

mod support;

use std::sync::Arc;

use contract::input::Fraction;
use support::Served;
use tokio::sync::watch;
use viewers::server::ServerOptions;
use viewers::{Cursor, CursorImage, CursorShape, HubOptions};

fn at(x: f64, y: f64) -> Option<(Fraction, Fraction)> {
    Fraction::new(x).zip(Fraction::new(y))
}

#[tokio::test]
async fn viewer_receives_the_cursor_and_its_image_once() {
    let image = Arc::new(CursorImage::new(1, 1, (0, 0), &[1, 2, 3, 255]).expect("a cursor"));
    let shape = CursorShape::Image(image);
    let (sender, cursor) = watch::channel(Cursor { position: at(0.5, 0.25), shape: shape.clone() });
    let served =
        Served::with(HubOptions::default(), ServerOptions::default(), |server| server.with_cursor(cursor))
            .await;
    let mut viewer = served.viewer().await;
    let first = viewer.text("cursor").await;
    assert_eq!(first["position"], serde_json::json!([0.5, 0.25]));
    assert_eq!((&first["shape"]["kind"], &first["shape"]["width"]), (&"image".into(), &1.into()));
    sender.send_replace(Cursor { position: at(0.75, 0.25), shape });
    let moved = viewer.text("cursor").await;
    assert_eq!(moved["position"], serde_json::json!([0.75, 0.25]));
    assert!(moved.get("shape").is_none(), "the shape did not change: {moved}");
    sender.send_replace(Cursor { position: None, shape: CursorShape::Hidden });
    let hidden = viewer.text("cursor").await;
    assert_eq!((&hidden["position"], &hidden["shape"]["kind"]), (&serde_json::Value::Null, &"hidden".into()));
}
