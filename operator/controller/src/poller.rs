//! Polls the status of sidecars, apart from reconciliations: a sidecar that does not answer delays no other stream.
//!
//! A stream is queued only if its sidecar's answer is news: see [`news`].

mod news;
mod schedule;

use std::net::SocketAddr;
use std::time::Duration;

use contract::SidecarStatus;
use kube::runtime::reflector::ObjectRef;
use operator_sidecar_client::{RequestError, SidecarClient};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::schedule::{Job, Schedule};
use super::stores::{Guarded, Queue};

/// Pause of the loop without a sidecar to poll.
const IDLE: Duration = Duration::from_secs(3600);

/// Answer of a sidecar, or the error of the request.
pub type Answer = Result<SidecarStatus, RequestError>;

/// True if the sidecar has encoded frames.
pub fn is_streaming(answer: &Answer) -> bool {
    answer.as_ref().is_ok_and(|status| status.frames.encoded > 0)
}

/// A sidecar to poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The stream.
    pub stream: ObjectRef<Guarded>,
    /// Address of the sidecar's viewer port.
    pub address: SocketAddr,
    /// Tokens of viewers, tried in this order; none without authentication.
    pub tokens: Vec<String>,
}

/// Polls the sidecars of all streams.
pub struct Poller {
    client: SidecarClient,
    queue: Queue,
    schedule: Mutex<Schedule>,
    /// Notified when a sidecar was added.
    added: Notify,
}

impl Poller {
    /// A poller that queues streams with news into `queue`. `interval` is the interval between requests to a sidecar that
    /// streams.
    pub fn new(queue: Queue, interval: Duration) -> Self {
        Self {
            client: SidecarClient::new(),
            queue,
            schedule: Mutex::new(Schedule::new(interval)),
            added: Notify::new(),
        }
    }

    /// Polls a stream's sidecar from now on, in place of its former one.
    pub fn watch(&self, uid: &str, target: Target) {
        if self.schedule.lock().watch(uid, target, Instant::now()) {
            self.added.notify_one();
        }
    }

    /// Stops polling the sidecar of a stream.
    pub fn forget(&self, uid: &str) {
        self.schedule.lock().retain(|other| other != uid);
    }

    /// Stops polling the sidecars of streams that no longer exist.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.schedule.lock().retain(exists);
    }

    /// Last answer of the stream's sidecar; `None` until the sidecar at `address` was polled.
    pub fn answer(&self, uid: &str, address: SocketAddr) -> Option<Answer> {
        self.schedule.lock().answer(uid, address)
    }

    /// Polls until the operator stops leading. `polled` is called for each request.
    pub async fn run(&self, polled: impl Fn()) {
        let mut polls = JoinSet::new();
        loop {
            let (jobs, next) = self.schedule.lock().due(Instant::now());
            for job in jobs {
                polled();
                let client = self.client.clone();
                polls.spawn(async move {
                    let answer = poll(&client, &job.target).await;
                    (job, answer)
                });
            }
            let next = next.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                Some(done) = polls.join_next() => {
                    // A request that panicked would keep its slot; it has no code that panics.
                    let Ok((job, answer)) = done else { continue };
                    self.finish(&job, answer);
                }
                () = self.added.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    fn finish(&self, job: &Job, answer: Answer) {
        if self.schedule.lock().finish(job, answer, Instant::now()) {
            // The queue is closed only when the operator stops.
            let _closed = self.queue.send(job.target.stream.clone());
        }
    }
}

async fn poll(client: &SidecarClient, target: &Target) -> Answer {
    let address = target.address.to_string();
    let (first, others) = match target.tokens.split_first() {
        Some((first, others)) => (Some(first.as_str()), others),
        None => (None, [].as_slice()),
    };
    let mut answer = client.sidecar_status(&address, first).await;
    if matches!(answer, Err(RequestError::Connection(_))) {
        // The sidecar may have closed a connection that was kept alive.
        answer = client.sidecar_status(&address, first).await;
    }
    for token in others {
        if !answer.as_ref().is_err_and(RequestError::is_unauthorized) {
            break;
        }
        answer = client.sidecar_status(&address, Some(token)).await;
    }
    answer
}

#[cfg(test)]
mod tests;
