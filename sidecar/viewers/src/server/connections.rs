//! Open connections of a listener, and the one to close when there are too many.
//!
//! A connection counts as unauthenticated until it carried a request with a valid credential. Unauthenticated connections
//! never displace authenticated ones: at a limit, the oldest of the source with the most unauthenticated connections is
//! evicted, so a client that opens many displaces its own first.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Limits on the connections of a listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// Maximum number of connections.
    pub(super) total: usize,
    /// Maximum number of unauthenticated connections from one source.
    pub(super) unauthenticated_per_source: usize,
}

/// A client's address; of IPv6 the first 64 bits, which one client has all addresses of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(ip) if !ip.is_loopback() => {
                Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into()
            }
            ip => ip,
        })
    }
}

#[derive(Debug)]
struct Open {
    source: Source,
    authenticated: bool,
    evict: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Table {
    /// Open connections, the oldest first.
    open: BTreeMap<u64, Open>,
    next: u64,
}

impl Table {
    /// Number and oldest of the unauthenticated connections of each source.
    fn unauthenticated(&self) -> HashMap<Source, (usize, u64)> {
        let mut sources = HashMap::new();
        for (id, open) in self.open.iter().filter(|(_, open)| !open.authenticated) {
            sources.entry(open.source).or_insert((0, *id)).0 += 1;
        }
        sources
    }

    fn evict(&mut self, id: u64) {
        if let Some(open) = self.open.remove(&id) {
            open.evict.notify_one();
        }
    }
}

/// The open connections of a listener.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    limits: ConnectionLimits,
    table: Arc<Mutex<Table>>,
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self { limits, table: Arc::default() }
    }

    /// Admits a connection from `peer` and evicts others that exceed the limits. `None` if all others are authenticated
    /// and at the limit.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<Connection> {
        let source = Source::from(peer);
        let mut table = self.table.lock();
        let sources = table.unauthenticated();
        match sources.get(&source) {
            Some((count, oldest)) if *count >= self.limits.unauthenticated_per_source => table.evict(*oldest),
            _ if table.open.len() >= self.limits.total => {
                let (_, oldest) =
                    sources.into_values().max_by_key(|(count, oldest)| (*count, u64::MAX - oldest))?;
                table.evict(oldest);
            }
            _ => {}
        }
        let id = table.next;
        table.next += 1;
        let evict = Arc::new(Notify::new());
        table.open.insert(id, Open { source, authenticated: false, evict: Arc::clone(&evict) });
        Some(Connection { id, table: Arc::clone(&self.table), evict })
    }
}

/// An admitted connection; leaves the table when dropped.
#[derive(Debug)]
pub(super) struct Connection {
    id: u64,
    table: Arc<Mutex<Table>>,
    evict: Arc<Notify>,
}

impl Connection {
    /// Marks the connection as authenticated: it is no longer evicted.
    pub(super) fn authenticated(&self) {
        if let Some(open) = self.table.lock().open.get_mut(&self.id) {
            open.authenticated = true;
        }
    }

    /// Waits until the connection is evicted. Cancellation safe.
    pub(super) async fn evicted(&self) {
        self.evict.notified().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.table.lock().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn connections(total: usize, unauthenticated_per_source: usize) -> Connections {
        Connections::new(ConnectionLimits { total, unauthenticated_per_source })
    }

    fn from(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Numbers of the evicted ones. An eviction is reported once.
    fn evicted(all: &[Connection]) -> Vec<usize> {
        let is_evicted = |(_, one): &(usize, &Connection)| one.evicted().now_or_never().is_some();
        all.iter().enumerate().filter(is_evicted).map(|(number, _)| number).collect()
    }

    #[test]
    fn source_at_its_limit_loses_its_oldest_unauthenticated_connection() {
        let table = connections(100, 2);
        let admit = |last| table.admit(from(last)).expect("admitted");
        let mut all = vec![admit(1), admit(2), admit(1), admit(1)];
        assert_eq!(evicted(&all), [0]);
        all[2].authenticated();
        all.extend([admit(1), admit(2), admit(3)]);
        assert_eq!(evicted(&all), [0; 0], "the authenticated one does not count");
        all.push(admit(1));
        assert_eq!(evicted(&all), [3]);
    }

    #[test]
    fn full_table_evicts_from_the_source_with_the_most_connections() {
        let table = connections(4, 4);
        let admit = |last| table.admit(from(last)).expect("admitted");
        let all = [admit(1), admit(2), admit(2), admit(2), admit(3)];
        assert_eq!(evicted(&all), [1]);
    }

    #[test]
    fn full_table_of_authenticated_connections_refuses_another() {
        let table = connections(2, 2);
        let all = [table.admit(from(1)).expect("admitted"), table.admit(from(1)).expect("admitted")];
        all.iter().for_each(Connection::authenticated);
        assert!(table.admit(from(2)).is_none());
        assert_eq!(evicted(&all), [0; 0]);
        drop(all);
        assert!(table.admit(from(2)).is_some(), "closed connections do not count");
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let source = |ip: &str| Source::from(ip.parse::<IpAddr>().expect("an address"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("::1"), source("::2"));
    }
}
