//! Recorded state of the VM: resources, contexts, and which context holds which resource.
//!
//! Bounded for any guest: an object beyond the limits is not recorded, and requests for objects that are
//! not recorded are refused. Only resources that can be read are recorded, which mailboxes can, and each is
//! counted against its owner, the first context that holds it, so a context that creates many loses its
//! own resources and leaves those of others readable. Nor do many contexts that fill the table together: the
//! owner with the most then loses half of what it owns. Attachments name a context with its generation, so
//! those of a destroyed context are void without a walk over all resources.
//!
//! The maps use the standard library's hasher: the guest chooses the keys, so the hash must be keyed with
//! a secret.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use protocol::link::Context;
use protocol::mailbox;
use protocol::rate::TokenBucket;

use crate::abi::CreateArgs;
use crate::access::{self, is_readable};
use crate::binding::Attachment;
use crate::budget::ContextBudget;
use crate::memory::Page;

/// Largest number of recorded resources. A record takes about 150 bytes.
pub const MAX_RESOURCES: usize = 262_144;
/// Largest number of recorded resources of one owner. A desktop has some hundred textures of these formats.
pub const MAX_OWNED: usize = 4096;
/// Largest number of recorded resources whose owner was destroyed. A process may pass a buffer on and exit.
pub const MAX_ORPHANS: usize = 4096;
/// Largest number of recorded contexts. A record takes about 300 bytes; virglrenderer needs more for each.
pub const MAX_CONTEXTS: usize = 65_536;
/// Largest number of recorded attachments per resource. A scan-out buffer has three or four.
pub const MAX_ATTACHED: usize = 32;

/// A recorded resource.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Arguments of its creation.
    pub args: CreateArgs,
    /// Its guest memory, if it has the shape of a mailbox.
    pub page: Option<Page>,
    /// The context that it is counted against: the first one that was attached.
    owner: Option<Context>,
    /// Its owner was destroyed.
    orphan: bool,
    attached: Vec<Context>,
}

impl Resource {
    /// True if it is attached to `context`.
    pub fn is_attached(&self, context: Context) -> bool {
        self.attached.contains(&context)
    }
}

/// True if a resource has the shape of a mailbox.
fn is_mailbox(args: &CreateArgs) -> bool {
    is_readable(args)
        && args.format == mailbox::VIRGL_FORMAT
        && (args.width, args.height) == (mailbox::WIDTH, 1)
}

/// All recorded resources by ID.
#[derive(Debug, Default)]
pub struct Resources {
    map: HashMap<u32, Resource>,
    owned: HashMap<Context, HashSet<u32>>,
    /// IDs of resources whose owner was destroyed, oldest first. Some have another owner by now.
    orphans: VecDeque<u32>,
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

    /// Records a new resource, if it can be read. It replaces one of the same ID.
    pub fn create(&mut self, args: CreateArgs) {
        self.remove(args.handle);
        if !is_readable(&args) {
            return;
        }
        if self.map.len() >= MAX_RESOURCES {
            self.make_room();
        }
        if self.map.len() < MAX_RESOURCES {
            let resource = Resource { args, page: None, owner: None, orphan: false, attached: Vec::new() };
            self.map.insert(args.handle, resource);
        }
    }

    /// Removes a resource.
    pub fn remove(&mut self, id: u32) {
        if let Some(owner) = self.map.remove(&id).and_then(|resource| resource.owner) {
            self.disown(owner, id);
        }
    }

    /// Forgets half of the resources of the owner with the most, first those that no other context holds.
    fn make_room(&mut self) {
        let Some(largest) = self.owned.values().max_by_key(|owned| owned.len()) else { return };
        let is_shared = |id: &u32| self.map.get(id).is_some_and(|resource| resource.attached.len() > 1);
        let (shared, own): (Vec<u32>, Vec<u32>) = largest.iter().copied().partition(is_shared);
        let half = largest.len().div_ceil(2);
        own.into_iter().chain(shared).take(half).for_each(|id| self.remove(id));
    }

    fn disown(&mut self, owner: Context, id: u32) {
        if let Some(owned) = self.owned.get_mut(&owner) {
            owned.remove(&id);
            if owned.is_empty() {
                self.owned.remove(&owner);
            }
        }
    }

    /// Removes all resources.
    pub fn clear(&mut self) {
        self.map.clear();
        self.owned.clear();
        self.orphans.clear();
    }

    /// Records a resource's guest memory. The page is kept only for a mailbox.
    pub fn set_page(&mut self, id: u32, page: Option<Page>) {
        if let Some(resource) = self.map.get_mut(&id) {
            resource.page = page.filter(|_| is_mailbox(&resource.args));
        }
    }

    /// Attaches a resource to a context. A resource without an owner is counted against the context, or
    /// forgotten if the context owns [`MAX_OWNED`]. If the resource has too many attachments, those for
    /// which `exists` is false are removed first.
    pub fn attach(&mut self, id: u32, context: Context, exists: impl Fn(Context) -> bool) {
        let Some(resource) = self.map.get_mut(&id) else { return };
        if resource.is_attached(context) {
            return;
        }
        if resource.owner.is_none() {
            let owned = self.owned.entry(context).or_default();
            if owned.len() >= MAX_OWNED {
                self.map.remove(&id);
                return;
            }
            owned.insert(id);
            resource.owner = Some(context);
            resource.orphan = false;
        }
        if resource.attached.len() >= MAX_ATTACHED {
            resource.attached.retain(|context| exists(*context));
        }
        if resource.attached.len() < MAX_ATTACHED {
            resource.attached.push(context);
        }
    }

    /// Detaches a resource from a context. It is still counted against its owner, because another context
    /// may import it later.
    pub fn detach(&mut self, id: u32, context: Context) {
        if let Some(resource) = self.map.get_mut(&id) {
            resource.attached.retain(|other| *other != context);
        }
    }

    /// Disowns the resources of a destroyed context. They pass to another context that holds them
    /// (`exists`); without one, the newest [`MAX_ORPHANS`] are kept until another context imports them.
    pub fn release(&mut self, context: Context, exists: impl Fn(Context) -> bool) {
        for id in self.owned.remove(&context).into_iter().flatten() {
            let Some(resource) = self.map.get_mut(&id) else { continue };
            resource.attached.retain(|other| *other != context && exists(*other));
            let owned = &self.owned;
            let has_space = |other: &Context| owned.get(other).is_none_or(|owned| owned.len() < MAX_OWNED);
            resource.owner = resource.attached.iter().copied().find(has_space);
            if let Some(heir) = resource.owner {
                self.owned.entry(heir).or_default().insert(id);
            } else {
                resource.orphan = true;
                self.orphans.push_back(id);
            }
        }
        while self.orphans.len() > MAX_ORPHANS {
            let Some(id) = self.orphans.pop_front() else { return };
            if self.map.get(&id).is_some_and(|resource| resource.orphan) {
                self.map.remove(&id);
            }
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
    pub attachment: Option<Arc<Attachment>>,
    /// Time of the VMM's thread that its requests take.
    pub budget: ContextBudget,
    /// Limit of frame requests.
    pub frames: TokenBucket,
    /// Limit of bind requests with the nonce of a session.
    pub binds: TokenBucket,
    /// Limit of other bind requests.
    pub guesses: TokenBucket,
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
            attachment: None,
            budget: ContextBudget::default(),
            frames: TokenBucket::new(access::FRAMES),
            binds: TokenBucket::new(access::BINDS),
            guesses: TokenBucket::new(access::GUESSES),
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
}

#[cfg(test)]
mod tests;
