//! Time budget of the VMM's thread.
//!
//! A read blocks the VMM: while it lasts, no other device of the VM is served. What counts is therefore
//! the time that requests take and not their number. Each context has a [`Debt`] of time, which its
//! requests raise and which decays at the context's share of the thread. A context over its share must
//! wait, and each request that it makes meanwhile adds to its debt, so a flood gains less than a client
//! that waits. If all contexts together use up the VM's share, a context may still use its equal part.
//!
//! The current time is a parameter.

/// Share of the thread that all contexts together may use, per mille.
const VM_SHARE: u64 = 750;
/// Share of the thread that one of several sessions may use, per mille.
const CONTEXT_SHARE: u64 = 500;
/// Debt up to which a context is served, ns.
const CONTEXT_BURST_NS: u64 = 50_000_000;
/// Debt up to which the VM counts as below its share, ns.
const VM_BURST_NS: u64 = 100_000_000;
/// Debt up to which a context counts as below its equal part of the VM's share, ns.
const PART_BURST_NS: u64 = 5_000_000;
/// Cost of a refused request, ns.
const PENALTY_NS: u64 = 1_000_000;
/// Largest debt, ns: a context over its share is served again after this time divided by its share.
const MAX_DEBT_NS: u64 = 1_000_000_000;

/// Used time that has not decayed yet.
#[derive(Debug, Clone, Copy, Default)]
struct Debt {
    ns: u64,
    at_ns: u64,
}

impl Debt {
    /// Lets the debt decay at `share` per mille since the last call.
    fn decay(&mut self, now_ns: u64, share: u64) {
        let decayed = now_ns.saturating_sub(self.at_ns).saturating_mul(share) / 1000;
        self.ns = self.ns.saturating_sub(decayed);
        self.at_ns = self.at_ns.max(now_ns);
    }

    fn add(&mut self, ns: u64) {
        self.ns = self.ns.saturating_add(ns).min(MAX_DEBT_NS);
    }
}

/// Budget of the VM.
#[derive(Debug, Default)]
pub struct VmBudget {
    debt: Debt,
}

/// Budget of a context.
#[derive(Debug, Default)]
pub struct ContextBudget {
    /// Decays at the largest share that the context may use.
    debt: Debt,
    /// Decays at the context's equal part.
    part: Debt,
}

impl VmBudget {
    /// True if a read of the context may begin. `sessions` is the number of the VM's sessions. A refusal is
    /// charged to the context.
    pub fn admits(&mut self, context: &mut ContextBudget, sessions: usize, now_ns: u64) -> bool {
        self.decay(context, sessions, now_ns);
        let vm_below = self.debt.ns < VM_BURST_NS || context.part.ns < PART_BURST_NS;
        let admitted = context.debt.ns < CONTEXT_BURST_NS && vm_below;
        if !admitted {
            context.debt.add(PENALTY_NS);
        }
        admitted
    }

    /// Charges the time that a request took; it ended at `now_ns`.
    pub fn charge(&mut self, context: &mut ContextBudget, sessions: usize, ns: u64, now_ns: u64) {
        self.decay(context, sessions, now_ns);
        for debt in [&mut self.debt, &mut context.debt, &mut context.part] {
            debt.add(ns);
        }
    }

    fn decay(&mut self, context: &mut ContextBudget, sessions: usize, now_ns: u64) {
        let part = VM_SHARE / (sessions.max(1) as u64).min(VM_SHARE);
        self.debt.decay(now_ns, VM_SHARE);
        context.debt.decay(now_ns, CONTEXT_SHARE.max(part));
        context.part.decay(now_ns, part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1000 * MS;
    const START: u64 = 1 << 40;

    /// One client: its reads take `read` ns, and it makes a request every `interval` ns.
    struct Client {
        read: u64,
        interval: u64,
        next: u64,
        used: u64,
        refused: u64,
        context: ContextBudget,
    }

    impl Client {
        fn new(read: u64, interval: u64) -> Self {
            Self { read, interval, next: START, used: 0, refused: 0, context: ContextBudget::default() }
        }
    }

    /// Time of the thread that each client used in ten seconds, per mille, after two seconds of settling.
    fn shares(clients: &mut [Client]) -> Vec<u64> {
        let mut vm = VmBudget::default();
        let sessions = clients.len();
        let mut now = START;
        while now < START + 12 * SECOND {
            let Some(client) = clients.iter_mut().min_by_key(|client| client.next) else { break };
            now = now.max(client.next);
            client.next = now + client.interval;
            if vm.admits(&mut client.context, sessions, now) {
                now += client.read;
                vm.charge(&mut client.context, sessions, client.read, now);
                if now > START + 2 * SECOND {
                    client.used += client.read;
                }
            } else {
                client.refused += 1;
            }
        }
        clients.iter().map(|client| client.used * 1000 / (10 * SECOND)).collect()
    }

    #[test]
    fn desktop_below_its_share_is_never_refused() {
        // 4K at 60 Hz with 7 ms per read.
        let mut clients = [Client::new(7 * MS, SECOND / 60)];
        let share = shares(&mut clients);
        assert_eq!(clients[0].refused, 0);
        assert!((290..=430).contains(&share[0]), "{share:?}");
    }

    #[test]
    fn desktop_over_its_share_keeps_most_of_it() {
        // 4K at 60 Hz with 15 ms per read would take 900 per mille.
        let share = shares(&mut [Client::new(15 * MS, SECOND / 60)]);
        assert!((650..=760).contains(&share[0]), "{share:?}");
    }

    #[test]
    fn flood_takes_less_than_a_client_that_waits() {
        let mut clients = [Client::new(2 * MS, SECOND / 60), Client::new(12 * MS, MS)];
        let share = shares(&mut clients);
        assert_eq!(clients[0].refused, 0, "the other client is served: {share:?}");
        assert!(share[1] < 20, "{share:?}");
    }

    #[test]
    fn busy_contexts_leave_others_their_part() {
        // Seven clients use up what the VM may use; the eighth makes small requests.
        let mut clients: Vec<_> = (0..7).map(|_| Client::new(12 * MS, SECOND / 20)).collect();
        clients.push(Client::new(MS, SECOND / 30));
        let shares = shares(&mut clients);
        assert!(shares.iter().sum::<u64>() <= 800, "{shares:?}");
        assert_eq!(clients[7].refused, 0, "{shares:?}");
        assert!(shares[..7].iter().all(|share| *share >= 60), "{shares:?}");
    }

    #[test]
    fn flood_is_served_again_after_a_pause() {
        let (mut vm, mut context) = (VmBudget::default(), ContextBudget::default());
        vm.charge(&mut context, 2, u64::MAX, START);
        assert!((0..10_000).all(|_| !vm.admits(&mut context, 2, START)));
        assert!(!vm.admits(&mut context, 2, START + SECOND));
        assert!(vm.admits(&mut context, 2, START + 2 * SECOND));
    }

    #[test]
    fn clock_that_goes_back_pays_nothing() {
        let (mut vm, mut context) = (VmBudget::default(), ContextBudget::default());
        vm.charge(&mut context, 1, SECOND, START);
        assert!(!vm.admits(&mut context, 1, START));
        assert!(!vm.admits(&mut context, 1, START - SECOND));
        assert!(!vm.admits(&mut context, 1, START));
        assert!(vm.admits(&mut context, 1, u64::MAX));
    }
}
