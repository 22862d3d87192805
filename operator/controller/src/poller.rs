//! Polls the status of sidecars, apart from reconciliations: a sidecar that does not answer delays no other stream.
//!
//! A stream is queued only if its sidecar's answer is news: see [`news`].

mod news;
mod schedule;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use contract::SidecarStatus;
use contract::names::{STATUS_AUDIENCE, STATUS_TOKEN_SECONDS};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use operator_sidecar_client::{RequestError, SidecarClient};
use parking_lot::Mutex;
use stream_token::{KeyError, Signer};
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
    /// Address of the sidecar's port for `/status`.
    pub address: SocketAddr,
}

/// Polls the sidecars of all streams.
pub struct Poller {
    client: SidecarClient,
    signer: Arc<Signer>,
    queue: Queue,
    schedule: Mutex<Schedule>,
    /// Notified when a sidecar was added.
    added: Notify,
}

impl Poller {
    /// A poller that queues streams with news into `queue`. `interval` is the interval between requests to a sidecar that
    /// streams. `signer` signs the tokens of the requests.
    pub fn new(queue: Queue, interval: Duration, signer: Arc<Signer>) -> Self {
        Self {
            client: SidecarClient::new(),
            signer,
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
                let (client, token) = (self.client.clone(), self.token(&job.target));
                polls.spawn(async move {
                    let answer = match token {
                        Ok(token) => poll(&client, &job.target, &token).await,
                        Err(error) => Err(RequestError::Request(error.to_string())),
                    };
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

    /// A token for one request: a desktop that takes the port of its sidecar gets no more than that.
    fn token(&self, target: &Target) -> Result<String, KeyError> {
        let ObjectRef { namespace, name, .. } = &target.stream;
        let stream = format!("{}/{name}", namespace.as_deref().unwrap_or_default());
        let now = Timestamp::now().as_second().max(0).cast_unsigned();
        self.signer.token(&stream, STATUS_AUDIENCE, now, STATUS_TOKEN_SECONDS.into())
    }

    fn finish(&self, job: &Job, answer: Answer) {
        if self.schedule.lock().finish(job, answer, Instant::now()) {
            // The queue is closed only when the operator stops.
            let _closed = self.queue.send(job.target.stream.clone());
        }
    }
}

async fn poll(client: &SidecarClient, target: &Target, token: &str) -> Answer {
    let address = target.address.to_string();
    let answer = client.sidecar_status(&address, Some(token)).await;
    if matches!(answer, Err(RequestError::Connection(_))) {
        // The sidecar may have closed a connection that was kept alive.
        return client.sidecar_status(&address, Some(token)).await;
    }
    answer
}

#[cfg(test)]
mod tests;
