//! The accept loop of all listeners.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Delay after a failed accept, most likely for lack of file descriptors.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A source of connections.
pub(crate) trait Accept: Sync {
    /// An accepted connection.
    type Connection: Send;

    /// Accepts the next connection. Cancel safe.
    ///
    /// # Errors
    /// The operating system failed to accept it, for example because the process is out of file descriptors.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

/// Spawns a task for each connection until `stop`, and returns the tasks that still run. `serve` is called in the
/// order of accepts. `name` identifies the listener in the log.
pub(crate) async fn accept_until<A: Accept, F: Future<Output = ()> + Send + 'static>(
    listener: &A,
    name: impl fmt::Display,
    stop: &mut watch::Receiver<bool>,
    serve: impl Fn(A::Connection) -> F,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(stop) => return connections,
            // Removes finished tasks from the set.
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(connection) => {
                    connections.spawn(serve(connection));
                }
                Err(error) => {
                    tracing::error!(%error, listener = %name, "cannot accept connection");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }
}

/// Waits for connections to end, and aborts those that have not ended after `limit`.
pub(crate) async fn end_within(mut connections: JoinSet<()>, limit: Duration) {
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(limit, ended).await.is_err() {
        connections.shutdown().await;
    }
}

/// Returns when `stop` becomes true, or its sender is dropped.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The guard that `wait_for` returns is dropped here: it must not be held across an await.
    let _ = stop.wait_for(|stop| *stop).await;
}
