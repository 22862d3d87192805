//! Recorded state of the VM: resources, contexts, and which context holds which resource.
//!
//! Bounded for any guest: an object beyond the limits is not recorded, and requests for objects that are
//! not recorded are refused. Attachments name a context with its generation, so those of a destroyed
//! context are void without a walk over all resources.
//!
//! The maps use the standard library's hasher: the guest chooses the keys, so the hash must be keyed with
//! a secret.

use std::collections::HashMap;

use protocol::link::Context;
use protocol::mailbox;
use protocol::rate::TokenBucket;

use crate::abi::{CreateArgs, PIPE_TEXTURE_2D};
use crate::access;
use crate::binding::Binding;
use crate::memory::Page;

/// Largest number of recorded resources.
pub const MAX_RESOURCES: usize = 65_536;
/// Largest number of recorded contexts.
pub const MAX_CONTEXTS: usize = 4096;
/// Largest number of recorded attachments per resource. A scan-out buffer has three or four.
pub const MAX_ATTACHED: usize = 32;

/// A recorded resource.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Arguments of its creation. For a blob only the handle is set.
    pub args: CreateArgs,
    /// A blob has no dimensions and cannot be read as a frame.
    pub blob: bool,
    /// Its guest memory, if it has the shape of a mailbox.
    pub page: Option<Page>,
    attached: Vec<Context>,
}

impl Resource {
    /// True if it has the shape of a mailbox.
    fn is_mailbox(&self) -> bool {
        let args = &self.args;
        !self.blob
            && args.target == PIPE_TEXTURE_2D
            && args.format == mailbox::VIRGL_FORMAT
            && (args.width, args.height) == (mailbox::WIDTH, 1)
    }

    /// True if it is attached to `context`.
    pub fn is_attached(&self, context: Context) -> bool {
        self.attached.contains(&context)
    }
}

/// All recorded resources by ID.
#[derive(Debug, Default)]
pub struct Resources {
    map: HashMap<u32, Resource>,
}

impl Resources {
    /// Number of resources.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Records a new resource. It replaces one of the same ID.
    pub fn create(&mut self, args: CreateArgs, blob: bool) {
        if self.map.len() < MAX_RESOURCES || self.map.contains_key(&args.handle) {
            self.map.insert(args.handle, Resource { args, blob, page: None, attached: Vec::new() });
        }
    }

    /// Removes a resource.
    pub fn remove(&mut self, id: u32) {
        self.map.remove(&id);
    }

    /// Removes all resources.
    pub fn clear(&mut self) {
        self.map.clear();
    }

    /// Records a resource's guest memory. The page is kept only for a mailbox.
    pub fn set_page(&mut self, id: u32, page: Option<Page>) {
        if let Some(resource) = self.map.get_mut(&id) {
            resource.page = page.filter(|_| resource.is_mailbox());
        }
    }

    /// Attaches a resource to a context. If the resource has too many attachments, those for which
    /// `exists` is false are removed first.
    pub fn attach(&mut self, id: u32, context: Context, exists: impl Fn(Context) -> bool) {
        let Some(resource) = self.map.get_mut(&id) else { return };
        if resource.is_attached(context) {
            return;
        }
        if resource.attached.len() >= MAX_ATTACHED {
            resource.attached.retain(|context| exists(*context));
        }
        if resource.attached.len() < MAX_ATTACHED {
            resource.attached.push(context);
        }
    }

    /// Detaches a resource from a context.
    pub fn detach(&mut self, id: u32, context: Context) {
        if let Some(resource) = self.map.get_mut(&id) {
            resource.attached.retain(|other| *other != context);
        }
    }

    /// The resource with this ID.
    pub fn get(&self, id: u32) -> Option<&Resource> {
        self.map.get(&id)
    }
}

/// A recorded context.
#[derive(Debug)]
pub struct ContextEntry {
    /// Distinguishes it from earlier contexts with the same ID.
    pub generation: u64,
    /// Debug name, from the guest.
    pub name: String,
    /// Link epoch in which the context sent a bind; the host-agent of that epoch was notified of it.
    pub announced: Option<u64>,
    /// The session that its frames go to.
    pub binding: Option<Box<Binding>>,
    /// Limit of frame requests.
    pub frames: TokenBucket,
    /// Limit of bind requests.
    pub binds: TokenBucket,
    /// Limit of echo requests.
    pub echoes: TokenBucket,
}

/// All recorded contexts by ID.
#[derive(Debug, Default)]
pub struct Contexts {
    map: HashMap<u32, ContextEntry>,
    last_generation: u64,
}

impl Contexts {
    /// Number of contexts.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Records a new context. Returns the one with the same ID that it replaces.
    pub fn create(&mut self, id: u32, name: String) -> Option<ContextEntry> {
        if self.map.len() >= MAX_CONTEXTS && !self.map.contains_key(&id) {
            return None;
        }
        self.last_generation += 1;
        let entry = ContextEntry {
            generation: self.last_generation,
            name,
            announced: None,
            binding: None,
            frames: TokenBucket::new(access::FRAMES),
            binds: TokenBucket::new(access::BINDS),
            echoes: TokenBucket::new(access::ECHOES),
        };
        self.map.insert(id, entry)
    }

    /// Removes a context and returns it.
    pub fn remove(&mut self, id: u32) -> Option<ContextEntry> {
        self.map.remove(&id)
    }

    /// Removes all contexts and returns them.
    pub fn drain(&mut self) -> impl Iterator<Item = (u32, ContextEntry)> {
        self.map.drain()
    }

    /// The context that has this ID now, with its generation.
    pub fn current(&self, id: u32) -> Option<Context> {
        self.map.get(&id).map(|entry| Context { id, generation: entry.generation })
    }

    /// The entry of a context; `None` if its ID is unused or belongs to another generation.
    pub fn get_mut(&mut self, context: Context) -> Option<&mut ContextEntry> {
        self.map.get_mut(&context.id).filter(|entry| entry.generation == context.generation)
    }

    /// True if the context exists.
    pub fn exists(&self, context: Context) -> bool {
        self.current(context.id) == Some(context)
    }

    /// All entries.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut ContextEntry> {
        self.map.values_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{FORMAT_B8G8R8A8, FORMAT_B8G8R8X8};
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn args(handle: u32) -> CreateArgs {
        CreateArgs {
            handle,
            target: PIPE_TEXTURE_2D,
            format: FORMAT_B8G8R8X8,
            width: 4,
            height: 4,
            ..CreateArgs::default()
        }
    }

    #[test]
    fn objects_beyond_the_limits_are_not_recorded() {
        let mut resources = Resources::default();
        (0..2 * MAX_RESOURCES as u32).for_each(|id| resources.create(args(id), false));
        assert_eq!(resources.len(), MAX_RESOURCES);
        resources.remove(0);
        resources.create(args(u32::MAX), false);
        assert!(resources.get(u32::MAX).is_some());

        let mut contexts = Contexts::default();
        for id in 0..2 * MAX_CONTEXTS as u32 {
            assert!(contexts.create(id, String::new()).is_none());
        }
        assert_eq!(contexts.len(), MAX_CONTEXTS);
    }

    #[test]
    fn context_with_a_reused_id_has_no_attachments() {
        let (mut resources, mut contexts) = (Resources::default(), Contexts::default());
        resources.create(args(1), false);
        contexts.create(5, "first".into());
        let first = contexts.current(5).expect("exists");
        resources.attach(1, first, |_| true);
        assert!(resources.get(1).expect("recorded").is_attached(first));
        contexts.remove(5);
        contexts.create(5, "second".into());
        let second = contexts.current(5).expect("exists");
        assert!(!resources.get(1).expect("recorded").is_attached(second));
        assert!(!contexts.exists(first));
        assert!(contexts.get_mut(first).is_none());
    }

    #[test]
    fn full_attachment_list_drops_destroyed_contexts_first() {
        let mut resources = Resources::default();
        resources.create(args(1), false);
        for generation in 0..100 {
            resources.attach(1, Context { id: 1, generation }, |_| true);
        }
        let holds = |resources: &Resources, generation| {
            resources.get(1).expect("recorded").is_attached(Context { id: 1, generation })
        };
        assert!(holds(&resources, 31) && !holds(&resources, 32), "fails closed");
        resources.attach(1, Context { id: 1, generation: 100 }, |context| context.generation > 5);
        assert!(holds(&resources, 100) && !holds(&resources, 5) && holds(&resources, 6));
    }

    #[test]
    fn page_is_kept_for_a_mailbox_only() {
        use std::sync::atomic::AtomicU64;
        let page = Page::from_static(Box::leak(Box::new([const { AtomicU64::new(0) }; 512])));
        let mailbox =
            CreateArgs { format: mailbox::VIRGL_FORMAT, width: mailbox::WIDTH, height: 1, ..args(1) };
        let kept = |args: CreateArgs, blob| {
            let mut resources = Resources::default();
            resources.create(args, blob);
            resources.set_page(args.handle, Some(page));
            let kept = resources.get(args.handle).is_some_and(|resource| resource.page.is_some());
            resources.set_page(args.handle, None);
            assert!(resources.get(args.handle).is_some_and(|resource| resource.page.is_none()));
            kept
        };
        assert!(kept(mailbox, false));
        assert!(!kept(mailbox, true));
        assert!(!kept(CreateArgs { height: 2, ..mailbox }, false));
        assert!(!kept(CreateArgs { width: 1023, ..mailbox }, false));
        assert!(!kept(CreateArgs { format: FORMAT_B8G8R8A8, ..mailbox }, false));
        assert!(!kept(CreateArgs { target: 0, ..mailbox }, false));
    }

    proptest! {
        /// Attach, detach, destroy and reuse in any order, against a set of (resource, context) pairs.
        #[test]
        fn attachments_match_a_set_of_pairs(steps in prop::collection::vec((0..5_u8, 0..4_u32, 0..4_u32), 0..200)) {
            let (mut resources, mut contexts) = (Resources::default(), Contexts::default());
            let (mut known, mut alive, mut held) = (HashSet::new(), HashSet::new(), HashSet::new());
            for (step, resource, context) in steps {
                let current = contexts.current(context);
                match step {
                    0 => {
                        resources.create(args(resource), false);
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
                    3 => if let Some(context) = current {
                        resources.attach(resource, context, |_| true);
                        if known.contains(&resource) {
                            held.insert((resource, context.id));
                        }
                    },
                    _ => if let Some(context) = current {
                        resources.detach(resource, context);
                        held.remove(&(resource, context.id));
                    },
                }
                for resource in 0..4 {
                    for context in 0..4 {
                        let holds = contexts.current(context).is_some_and(|context| {
                            resources.get(resource).is_some_and(|resource| resource.is_attached(context))
                        });
                        prop_assert_eq!(holds, held.contains(&(resource, context)));
                    }
                }
            }
        }
    }
}
