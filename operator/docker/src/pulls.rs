//! Image pulls in the background, so that a slow registry delays only the streams that need its images.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use operator_api::conditions::reasons;
use operator_plan::status::Obstacle;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engine::{Engine, Refusal};

/// Time after a pull during which the policy `Always` does not pull again.
const FRESH: Duration = Duration::from_secs(60);
/// Delay after the first failure. It doubles with each further one.
const MIN_BACKOFF: Duration = Duration::from_secs(5);
/// Longest delay after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
enum Pull {
    Running,
    Done { at: Instant },
    Failed { obstacle: Obstacle, failures: u32, retry_at: Instant },
}

/// Pulls by image.
#[derive(Debug)]
pub struct Pulls {
    pulls: Arc<Mutex<HashMap<String, Pull>>>,
    wake: Arc<Notify>,
}

impl Pulls {
    /// Notifies `wake` when a pull ends.
    pub fn new(wake: Arc<Notify>) -> Self {
        Self { pulls: Arc::default(), wake }
    }

    /// Whether no pull is running.
    pub fn are_idle(&self) -> bool {
        !self.pulls.lock().values().any(|pull| matches!(pull, Pull::Running))
    }

    /// `None` if the image was pulled within the last minute. Otherwise starts a pull, unless one is running or its retry
    /// is not due, and returns the obstacle.
    pub fn ensure(&self, engine: &Arc<Engine>, image: &str) -> Option<Obstacle> {
        let mut pulls = self.pulls.lock();
        let (failures, obstacle) = match pulls.get(image) {
            Some(Pull::Done { at }) if at.elapsed() < FRESH => return None,
            Some(Pull::Running) => return Some(pulling(image)),
            Some(Pull::Failed { obstacle, retry_at, .. }) if Instant::now() < *retry_at => {
                return Some(obstacle.clone());
            }
            // The last error stays in the status until the retry ends.
            Some(Pull::Failed { failures, obstacle, .. }) => (*failures, obstacle.clone()),
            Some(Pull::Done { .. }) | None => (0, pulling(image)),
        };
        pulls.insert(image.to_owned(), Pull::Running);
        drop(pulls);
        let (pulls, wake, engine) = (Arc::clone(&self.pulls), Arc::clone(&self.wake), Arc::clone(engine));
        let image = image.to_owned();
        tokio::spawn(async move {
            let result = pull(&engine, &image, failures).await;
            pulls.lock().insert(image, result);
            wake.notify_one();
        });
        Some(obstacle)
    }
}

async fn pull(engine: &Engine, image: &str, failures: u32) -> Pull {
    tracing::info!(image, "pulling image");
    let Err(error) = engine.pull(image).await else { return Pull::Done { at: Instant::now() } };
    let delay = (MIN_BACKOFF * 2_u32.pow(failures.min(8))).min(MAX_BACKOFF);
    tracing::warn!(image, %error, ?delay, "image pull failed");
    let reason = match error.refusal() {
        Some(Refusal::OutOfSpace) => reasons::DISK_FULL,
        _ => reasons::IMAGE,
    };
    let obstacle = Obstacle { reason, text: error.to_string() };
    Pull::Failed { obstacle, failures: failures + 1, retry_at: Instant::now() + delay }
}

fn pulling(image: &str) -> Obstacle {
    Obstacle { reason: reasons::WAITING, text: format!("pulling image {image}") }
}
