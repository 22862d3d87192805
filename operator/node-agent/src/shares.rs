//! Shares of GPUs, which are the devices that the kubelet counts. A share has the ID `NAME::NUMBER`.
//!
//! Desktop and sidecar each request a share and must get the same GPU. The kubelet asks for the containers of a pod in turn,
//! one pod at a time, so a GPU with an odd number of allocated shares is the one whose second container comes next.

use std::collections::BTreeMap;

/// Separator of GPU and number.
const MARK: &str = "::";

/// ID of a share.
pub fn id(gpu: &str, share: u32) -> String {
    format!("{gpu}{MARK}{share}")
}

/// Name of a share's GPU; `None` if `id` is not a share.
pub fn gpu_of(id: &str) -> Option<&str> {
    id.rsplit_once(MARK).map(|(gpu, _)| gpu)
}

/// IDs of all shares of these GPUs, `each` per GPU.
pub fn all<'g>(gpus: impl Iterator<Item = &'g str>, each: u32) -> Vec<String> {
    gpus.flat_map(|gpu| (0..each).map(move |share| id(gpu, share))).collect()
}

/// Chooses `size` of the `available` shares, including `must`. Several shares of one container come from different GPUs. A GPU
/// with an odd number of allocated shares is preferred, then the one with the fewest.
pub fn prefer(available: &[String], must: &[String], size: usize, each: u32) -> Vec<String> {
    let mut free: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for share in available.iter().filter(|share| !must.contains(share)) {
        if let Some(gpu) = gpu_of(share) {
            free.entry(gpu).or_default().push(share);
        }
    }
    let total = |gpu: &str| available.iter().filter(|share| gpu_of(share) == Some(gpu)).count();
    let mut order: Vec<&str> = free.keys().copied().collect();
    order.sort_by_key(|gpu| {
        let taken = (each as usize).saturating_sub(total(gpu));
        (taken % 2 == 0, taken, *gpu)
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

    #[test]
    fn two_containers_of_a_pod_get_the_same_gpu() {
        let mut available = all(["a", "b"].into_iter(), 4);
        let mut pods = Vec::new();
        for _ in 0..4 {
            let mut gpus = Vec::new();
            for _ in 0..2 {
                let share = prefer(&available, &[], 1, 4).remove(0);
                available.retain(|it| *it != share);
                gpus.push(gpu_of(&share).expect("a share").to_owned());
            }
            assert_eq!(gpus[0], gpus[1]);
            pods.push(gpus.remove(0));
        }
        assert_eq!(pods, ["a", "b", "a", "b"], "pods are spread");
    }

    #[test]
    fn two_shares_of_one_container_are_of_two_gpus() {
        let available = all(["a", "b"].into_iter(), 4);
        let chosen = prefer(&available, &[], 2, 4);
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
            let chosen = prefer(&available, &must, size.max(must.len()), 4);
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
