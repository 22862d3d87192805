//! Images that are being pulled, beside everything else: a slow registry holds up its own stream only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::engine::Engine;
use operator_api::conditions::reasons;
use operator_plan::status::Obstacle;

/// How long a pulled image counts as fresh where it is always pulled.
const FRESH: Duration = Duration::from_secs(60);
/// First and longest wait after a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

#[derive(Debug, Clone)]
enum Pull {
    Running,
    Done { at: Instant },
    Failed { why: Obstacle, times: u32, until: Instant },
}

/// All of them.
#[derive(Debug)]
pub struct Pulls {
    all: Arc<Mutex<HashMap<String, Pull>>>,
    wake: Arc<Notify>,
}

impl Pulls {
    /// None yet; `wake` is told when one ends.
    pub fn new(wake: Arc<Notify>) -> Self {
        Self { all: Arc::default(), wake }
    }

    /// Whether none is under way.
    pub fn are_quiet(&self) -> bool {
        !lock(&self.all).values().any(|pull| matches!(pull, Pull::Running))
    }

    /// Whether the image was pulled just now; else pulls it, and says what there is to wait for.
    pub fn want(&self, engine: &Arc<Engine>, image: &str) -> Option<Obstacle> {
        let mut all = lock(&self.all);
        let times = match all.get(image) {
            Some(Pull::Done { at }) if at.elapsed() < FRESH => return None,
            Some(Pull::Running) => return Some(pulling(image)),
            Some(Pull::Failed { why, until, .. }) if Instant::now() < *until => {
                return Some(why.clone());
            }
            Some(Pull::Failed { times, .. }) => *times,
            Some(Pull::Done { .. }) | None => 0,
        };
        let said = match all.get(image) {
            // Until it is known better, the last word stands.
            Some(Pull::Failed { why, .. }) => why.clone(),
            _ => pulling(image),
        };
        all.insert(image.to_owned(), Pull::Running);
        drop(all);
        let (all, wake, engine) = (Arc::clone(&self.all), Arc::clone(&self.wake), Arc::clone(engine));
        let image = image.to_owned();
        tokio::spawn(async move {
            tracing::info!(image, "pulling");
            let end = match engine.pull(&image).await {
                Ok(()) => Pull::Done { at: Instant::now() },
                Err(error) => {
                    tracing::warn!(%error, "will try again");
                    let wait = (BACK_OFF.0 * 2_u32.pow(times.min(8))).min(BACK_OFF.1);
                    let reason = if error.is_full() { reasons::DISK_FULL } else { reasons::IMAGE };
                    let why = Obstacle { reason, text: error.to_string() };
                    Pull::Failed { why, times: times + 1, until: Instant::now() + wait }
                }
            };
            lock(&all).insert(image, end);
            wake.notify_one();
        });
        Some(said)
    }
}

fn pulling(image: &str) -> Obstacle {
    Obstacle { reason: reasons::WAITING, text: format!("image {image} is being pulled") }
}

fn lock(all: &Mutex<HashMap<String, Pull>>) -> MutexGuard<'_, HashMap<String, Pull>> {
    // Every change is one insertion: whoever panicked left whole entries.
    all.lock().unwrap_or_else(PoisonError::into_inner)
}
