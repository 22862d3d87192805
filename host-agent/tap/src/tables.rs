//! What exists in the VM, as the host saw it being made: resources, contexts, and who holds what.
//!
//! Bounded whatever the guest does: a thing beyond the bounds is not known, and what is not known is
//! refused. An attachment names a context with its generation, so a destroyed context's attachments
//! end with it, without a walk over all resources.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use protocol::link::Context;
use protocol::mailbox;

use crate::abi::{CreateArgs, TARGET_2D};
use crate::binding::Binding;
use crate::bucket::Bucket;
use crate::memory::Page;

/// Most resources that are known at once.
pub const MAX_RESOURCES: usize = 65_536;
/// Most contexts that are known at once.
pub const MAX_CONTEXTS: usize = 4096;
/// Most contexts that one resource is known to be attached to. A screen buffer has three or four.
pub const MAX_ATTACHED: usize = 32;

/// Hashes a 32-bit ID: two keys that the guest does not know, and the finaliser of SplitMix64.
#[derive(Debug, Clone, Copy)]
pub struct Keyed {
    before: u64,
    between: u64,
}

impl Default for Keyed {
    fn default() -> Self {
        let random = RandomState::new();
        Self { before: random.hash_one(1), between: random.hash_one(2) }
    }
}

impl BuildHasher for Keyed {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher { keys: *self, hash: 0 }
    }
}

/// See [`Keyed`].
#[derive(Debug)]
pub struct KeyedHasher {
    keys: Keyed,
    hash: u64,
}

impl Hasher for KeyedHasher {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32((*byte).into());
        }
    }

    fn write_u32(&mut self, value: u32) {
        let mut mixed = (self.hash ^ self.keys.before).wrapping_add(value.into());
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ self.keys.between;
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.hash = mixed ^ mixed >> 31;
    }
}

/// A resource.
#[derive(Debug, Clone)]
pub struct Resource {
    /// How it was made. For a blob, nothing but its ID is known.
    pub made: CreateArgs,
    /// Memory without a shape of its own; can't be read as a picture.
    pub blob: bool,
    /// Its guest memory, if it has a mailbox's shape.
    pub page: Option<Page>,
    attached: Vec<Context>,
}

impl Resource {
    /// Whether it has a mailbox's shape.
    fn is_mailbox(&self) -> bool {
        let made = &self.made;
        !self.blob
            && made.target == TARGET_2D
            && made.format == mailbox::VIRGL_FORMAT
            && (made.width, made.height) == (mailbox::WIDTH, 1)
    }

    /// Whether `context` holds it.
    pub fn is_attached(&self, context: Context) -> bool {
        self.attached.contains(&context)
    }
}

/// All resources by ID.
#[derive(Debug, Default)]
pub struct Resources {
    map: HashMap<u32, Resource, Keyed>,
}

impl Resources {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// A resource was made.
    pub fn create(&mut self, made: CreateArgs, blob: bool) {
        if self.map.len() < MAX_RESOURCES || self.map.contains_key(&made.handle) {
            self.map.insert(made.handle, Resource { made, blob, page: None, attached: Vec::new() });
        }
    }

    /// A resource is gone.
    pub fn remove(&mut self, id: u32) {
        self.map.remove(&id);
    }

    /// All are gone.
    pub fn clear(&mut self) {
        self.map.clear();
    }

    /// A resource got guest memory. `page` is only kept for a mailbox.
    pub fn back(&mut self, id: u32, page: Option<Page>) {
        if let Some(resource) = self.map.get_mut(&id) {
            resource.page = page.filter(|_| resource.is_mailbox());
        }
    }

    /// A resource lost its guest memory.
    pub fn unback(&mut self, id: u32) {
        if let Some(resource) = self.map.get_mut(&id) {
            resource.page = None;
        }
    }

    /// A context got hold of a resource. `alive` tells contexts that still are, to make room.
    pub fn attach(&mut self, id: u32, context: Context, alive: impl Fn(Context) -> bool) {
        let Some(resource) = self.map.get_mut(&id) else { return };
        if resource.is_attached(context) {
            return;
        }
        if resource.attached.len() >= MAX_ATTACHED {
            resource.attached.retain(|context| alive(*context));
        }
        if resource.attached.len() < MAX_ATTACHED {
            resource.attached.push(context);
        }
    }

    /// A context let go of a resource.
    pub fn detach(&mut self, id: u32, context: Context) {
        if let Some(resource) = self.map.get_mut(&id) {
            resource.attached.retain(|other| *other != context);
        }
    }

    /// One resource.
    pub fn get(&self, id: u32) -> Option<&Resource> {
        self.map.get(&id)
    }
}

/// A context that is alive.
#[derive(Debug)]
pub struct Alive {
    /// Tells it from earlier contexts of the same ID.
    pub generation: u64,
    /// Debug name, from the guest.
    pub name: String,
    /// The link epoch in which it rang with a nonce; the host-agent of that epoch knows it.
    pub announced: Option<u64>,
    /// Where its pictures go.
    pub binding: Option<Binding>,
    /// Limit of frames.
    pub frames: Bucket,
    /// Limit of binds.
    pub binds: Bucket,
    /// Limit of echoes.
    pub echoes: Bucket,
}

/// All contexts by ID.
#[derive(Debug, Default)]
pub struct Contexts {
    map: HashMap<u32, Alive, Keyed>,
    last_generation: u64,
}

impl Contexts {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// A context was made. Gives the one that it replaces, if the guest made two of one ID.
    pub fn create(&mut self, id: u32, name: String) -> Option<Alive> {
        if self.map.len() >= MAX_CONTEXTS && !self.map.contains_key(&id) {
            return None;
        }
        self.last_generation += 1;
        let alive = Alive {
            generation: self.last_generation,
            name,
            announced: None,
            binding: None,
            frames: Bucket::default(),
            binds: Bucket::default(),
            echoes: Bucket::default(),
        };
        self.map.insert(id, alive)
    }

    /// A context is gone.
    pub fn remove(&mut self, id: u32) -> Option<Alive> {
        self.map.remove(&id)
    }

    /// All are gone; gives them.
    pub fn drain(&mut self) -> impl Iterator<Item = (u32, Alive)> {
        self.map.drain()
    }

    /// The context that has this ID now, with its generation.
    pub fn named(&self, id: u32) -> Option<Context> {
        self.map.get(&id).map(|alive| Context { id, generation: alive.generation })
    }

    /// A context, if it is still the one of that generation.
    pub fn get_mut(&mut self, context: Context) -> Option<&mut Alive> {
        self.map.get_mut(&context.id).filter(|alive| alive.generation == context.generation)
    }

    /// Whether a context is still the one of that generation.
    pub fn is_alive(&self, context: Context) -> bool {
        self.named(context.id) == Some(context)
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Alive> {
        self.map.values_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn made(handle: u32) -> CreateArgs {
        CreateArgs { handle, target: TARGET_2D, format: 2, width: 4, height: 4, ..CreateArgs::default() }
    }

    #[test]
    fn memory_is_bounded() {
        let mut resources = Resources::default();
        (0..2 * MAX_RESOURCES as u32).for_each(|id| resources.create(made(id), false));
        assert_eq!(resources.len(), MAX_RESOURCES);
        resources.remove(0);
        resources.create(made(u32::MAX), false);
        assert!(resources.get(u32::MAX).is_some());

        let mut contexts = Contexts::default();
        for id in 0..2 * MAX_CONTEXTS as u32 {
            assert!(contexts.create(id, String::new()).is_none());
        }
        assert_eq!(contexts.len(), MAX_CONTEXTS);
    }

    #[test]
    fn a_new_context_of_an_old_id_inherits_nothing() {
        let (mut resources, mut contexts) = (Resources::default(), Contexts::default());
        resources.create(made(1), false);
        contexts.create(5, "first".into());
        let first = contexts.named(5).expect("alive");
        resources.attach(1, first, |_| true);
        assert!(resources.get(1).expect("known").is_attached(first));
        contexts.remove(5);
        contexts.create(5, "second".into());
        let second = contexts.named(5).expect("alive");
        assert!(!resources.get(1).expect("known").is_attached(second));
        assert!(!contexts.is_alive(first));
        assert!(contexts.get_mut(first).is_none());
    }

    #[test]
    fn attachments_of_dead_contexts_make_room() {
        let mut resources = Resources::default();
        resources.create(made(1), false);
        for generation in 0..100 {
            resources.attach(1, Context { id: 1, generation }, |_| true);
        }
        let holds = |resources: &Resources, generation| {
            resources.get(1).expect("known").is_attached(Context { id: 1, generation })
        };
        assert!(holds(&resources, 31) && !holds(&resources, 32), "fails closed");
        resources.attach(1, Context { id: 1, generation: 100 }, |context| context.generation > 5);
        assert!(holds(&resources, 100) && !holds(&resources, 5) && holds(&resources, 6));
    }

    #[test]
    fn only_a_mailbox_keeps_its_page() {
        use std::sync::atomic::AtomicU64;
        let page = Page::of(Box::leak(Box::new([const { AtomicU64::new(0) }; 512])));
        let mailbox = CreateArgs { handle: 1, target: 2, format: 67, width: 1024, height: 1, ..made(1) };
        let kept = |made: CreateArgs, blob| {
            let mut resources = Resources::default();
            resources.create(made, blob);
            resources.back(made.handle, Some(page));
            let kept = resources.get(made.handle).is_some_and(|resource| resource.page.is_some());
            resources.unback(made.handle);
            assert!(resources.get(made.handle).is_some_and(|resource| resource.page.is_none()));
            kept
        };
        assert!(kept(mailbox, false));
        assert!(!kept(mailbox, true));
        assert!(!kept(CreateArgs { height: 2, ..mailbox }, false));
        assert!(!kept(CreateArgs { width: 1023, ..mailbox }, false));
        assert!(!kept(CreateArgs { format: 1, ..mailbox }, false));
        assert!(!kept(CreateArgs { target: 0, ..mailbox }, false));
    }

    #[test]
    fn the_hash_spreads_ids_that_differ_little() {
        for shift in [0, 8, 16, 20] {
            let keyed = Keyed::default();
            let hashes = || (0..1024_u32).map(|id| keyed.hash_one(id << shift));
            let top: HashSet<u64> = hashes().map(|hash| hash >> 54).collect();
            let bottom: HashSet<u64> = hashes().map(|hash| hash & 1023).collect();
            // 1024 balls in 1024 bins leave 647 of them used, give or take 12.
            assert!(top.len() > 560 && bottom.len() > 560, "{} and {}", top.len(), bottom.len());
        }
    }

    proptest! {
        /// Attach, detach, destroy and reuse in any order, against sets of pairs.
        #[test]
        fn holds_what_a_set_of_pairs_holds(steps in prop::collection::vec((0..5_u8, 0..4_u32, 0..4_u32), 0..200)) {
            let (mut resources, mut contexts) = (Resources::default(), Contexts::default());
            let (mut known, mut alive, mut held) = (HashSet::new(), HashSet::new(), HashSet::new());
            for (step, resource, context) in steps {
                let named = contexts.named(context);
                match step {
                    0 => {
                        resources.create(made(resource), false);
                        known.insert(resource);
                        held.retain(|(other, _)| *other != resource);
                    }
                    1 => {
                        resources.remove(resource);
                        known.remove(&resource);
                        held.retain(|(other, _)| *other != resource);
                    }
                    2 => {
                        if alive.insert(context) {
                            contexts.create(context, String::new());
                        } else {
                            contexts.remove(context);
                            alive.remove(&context);
                            held.retain(|(_, other)| *other != context);
                        }
                    }
                    3 => if let Some(named) = named {
                        resources.attach(resource, named, |_| true);
                        if known.contains(&resource) {
                            held.insert((resource, context));
                        }
                    },
                    _ => if let Some(named) = named {
                        resources.detach(resource, named);
                        held.remove(&(resource, context));
                    },
                }
                for resource in 0..4 {
                    for context in 0..4 {
                        let holds = contexts.named(context).is_some_and(|context| {
                            resources.get(resource).is_some_and(|resource| resource.is_attached(context))
                        });
                        prop_assert_eq!(holds, held.contains(&(resource, context)));
                    }
                }
            }
        }
    }
}
