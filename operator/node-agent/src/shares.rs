//! Shares of GPUs, which are the devices that the kubelet counts. A share has the ID `NAME::NUMBER`.
//!
//! Desktop and sidecar each request a share and must get the same GPU. The kubelet does not say which pod it asks for. It asks
//! for the containers of a pod in turn, one pod at a time and without a pause, so [`Pairs`] expects the second container of a
//! pod right after the first. The number of allocated shares says nothing: a foreign pod may hold an odd number of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use operator_api::names::{self, SHARE_MARK};

/// ID of a share.
pub fn id(gpu: &str, share: u32) -> String {
    format!("{gpu}{SHARE_MARK}{share}")
}

/// Name of a share's GPU; `None` if `id` is not a share.
pub fn gpu_of(id: &str) -> Option<&str> {
    names::gpu_of_share(id)
}

/// IDs of all shares of these GPUs, `each` per GPU.
pub fn all<'g>(gpus: impl Iterator<Item = &'g str>, each: u32) -> Vec<String> {
    gpus.flat_map(|gpu| (0..each).map(move |share| id(gpu, share))).collect()
}

/// Time after an allocation within which the next one is for the same pod. The kubelet takes milliseconds.
const PAIR_TIMEOUT: Duration = Duration::from_secs(2);

/// The GPUs of a pod's first container, while its second one is expected.
#[derive(Debug, Default)]
pub struct Pairs {
    open: Option<(BTreeSet<String>, Instant)>,
}

impl Pairs {
    /// GPUs that the next container should get; empty if it is the first of its pod.
    pub fn expected(&self, now: Instant) -> BTreeSet<String> {
        let is_due = |at: &Instant| now.duration_since(*at) < PAIR_TIMEOUT;
        self.open.iter().filter(|(_, at)| is_due(at)).flat_map(|(gpus, _)| gpus.clone()).collect()
    }

    /// Records an allocation: the first or the second of a pod.
    pub fn allocated(&mut self, gpus: BTreeSet<String>, now: Instant) {
        let is_second = self.expected(now) == gpus;
        self.open = (!is_second).then_some((gpus, now));
    }
}

/// Chooses `size` of the `available` shares, including `must`. Several shares of one container come from different GPUs.
/// GPUs of `partner` are preferred, then those with shares for both containers of a pod, then the one with the fewest
/// allocated shares.
pub fn prefer(
    available: &[String],
    must: &[String],
    size: usize,
    each: u32,
    partner: &BTreeSet<String>,
) -> Vec<String> {
    let mut free: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for share in available.iter().filter(|share| !must.contains(share)) {
        if let Some(gpu) = gpu_of(share) {
            free.entry(gpu).or_default().push(share);
        }
    }
    let total = |gpu: &str| available.iter().filter(|share| gpu_of(share) == Some(gpu)).count();
    let mut order: Vec<&str> = free.keys().copied().collect();
    order.sort_by_key(|gpu| {
        let total = total(gpu);
        let taken = (each as usize).saturating_sub(total);
        (!partner.contains(*gpu), total < 2, taken, *gpu)
    });
    let mut chosen: Vec<String> = must.to_vec();
    while chosen.len() < size {
        let before = chosen.len();
        for gpu in &order {
            if chosen.len() < size
                && let Some(share) =
                    free.get_mut(gpu).filter(|shares| !shares.is_empty()).map(|it| it.remove(0))
            {
                chosen.push(share.clone());
            }
        }
        if chosen.len() == before {
            break;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A kubelet with a clock.
    struct Kubelet {
        available: Vec<String>,
        pairs: Pairs,
        now: Instant,
    }

    impl Kubelet {
        fn new(each: u32) -> Self {
            let available = all(["a", "b"].into_iter(), each);
            Self { available, pairs: Pairs::default(), now: Instant::now() }
        }

        /// Allocates a share to a container; returns its GPU.
        fn container(&mut self) -> String {
            let share = prefer(&self.available, &[], 1, 4, &self.pairs.expected(self.now)).remove(0);
            self.available.retain(|it| *it != share);
            let gpu = gpu_of(&share).expect("a share").to_owned();
            self.pairs.allocated([gpu.clone()].into(), self.now);
            self.now += Duration::from_millis(5);
            gpu
        }

        /// Allocates to desktop and sidecar of a pod; returns their GPUs.
        fn pod(&mut self) -> (String, String) {
            let gpus = (self.container(), self.container());
            self.now += PAIR_TIMEOUT;
            gpus
        }
    }

    #[test]
    fn two_containers_of_a_pod_get_the_same_gpu() {
        let mut kubelet = Kubelet::new(4);
        let mut pods = Vec::new();
        for _ in 0..4 {
            let (desktop, sidecar) = kubelet.pod();
            assert_eq!(desktop, sidecar);
            pods.push(desktop);
        }
        assert_eq!(pods, ["a", "b", "a", "b"], "pods are spread");
    }

    #[test]
    fn foreign_share_does_not_part_later_pods() {
        let mut kubelet = Kubelet::new(6);
        assert_eq!(kubelet.container(), "a");
        kubelet.now += PAIR_TIMEOUT;
        for _ in 0..5 {
            let (desktop, sidecar) = kubelet.pod();
            assert_eq!(desktop, sidecar);
        }
    }

    #[test]
    fn last_share_of_a_gpu_is_not_the_first_of_a_pod() {
        let mut kubelet = Kubelet::new(3);
        let pods = [kubelet.pod(), kubelet.pod()];
        assert!(pods.iter().all(|(desktop, sidecar)| desktop == sidecar), "{pods:?}");
    }

    #[test]
    fn two_shares_of_one_container_are_of_two_gpus() {
        let available = all(["a", "b"].into_iter(), 4);
        let chosen = prefer(&available, &[], 2, 4, &BTreeSet::new());
        assert_ne!(gpu_of(&chosen[0]), gpu_of(&chosen[1]));
        assert_eq!(gpu_of("pci-0000-00-02.0::12"), Some("pci-0000-00-02.0"));
    }

    proptest! {
        #[test]
        fn preferred_shares_are_available_unique_and_include_the_required_one(taken in proptest::collection::btree_set(0usize..8, 0..8), size in 0usize..10, must in 0usize..8) {
            let whole = all(["a", "b"].into_iter(), 4);
            let available: Vec<String> =
                whole.iter().enumerate().filter(|(at, _)| !taken.contains(at)).map(|(_, it)| it.clone()).collect();
            let must: Vec<String> = available.get(must).cloned().into_iter().collect();
            let chosen = prefer(&available, &must, size.max(must.len()), 4, &BTreeSet::new());
            let mut unique = chosen.clone();
            unique.sort();
            unique.dedup();
            prop_assert_eq!(unique.len(), chosen.len());
            prop_assert!(chosen.iter().all(|share| available.contains(share)));
            prop_assert!(must.iter().all(|share| chosen.contains(share)));
            prop_assert_eq!(chosen.len(), size.max(must.len()).min(available.len()));
        }
    }
}
