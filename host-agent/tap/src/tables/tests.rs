use super::*;
use crate::abi::{FORMAT_B8G8R8A8, FORMAT_B8G8R8X8, PIPE_TEXTURE_2D};
use proptest::prelude::*;

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
    (0..2 * MAX_RESOURCES as u32).for_each(|id| resources.create(args(id)));
    assert_eq!(resources.len(), MAX_RESOURCES);
    resources.remove(0);
    resources.create(args(u32::MAX));
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
    resources.create(args(1));
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
    resources.create(args(1));
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
    let mailbox = CreateArgs { format: mailbox::VIRGL_FORMAT, width: mailbox::WIDTH, height: 1, ..args(1) };
    let kept = |args: CreateArgs| {
        let mut resources = Resources::default();
        resources.create(args);
        resources.set_page(args.handle, Some(page));
        let kept = resources.get(args.handle).is_some_and(|resource| resource.page.is_some());
        resources.set_page(args.handle, None);
        assert!(resources.get(args.handle).is_none_or(|resource| resource.page.is_none()));
        kept
    };
    assert!(kept(mailbox));
    assert!(!kept(CreateArgs { height: 2, ..mailbox }));
    assert!(!kept(CreateArgs { width: 1023, ..mailbox }));
    assert!(!kept(CreateArgs { format: FORMAT_B8G8R8A8, ..mailbox }));
    assert!(!kept(CreateArgs { target: 0, ..mailbox }));
}

#[test]
fn resource_that_cannot_be_read_is_not_recorded() {
    let mut resources = Resources::default();
    for unreadable in [
        CreateArgs { target: 0, ..args(1) },
        CreateArgs { format: 64, ..args(1) },
        CreateArgs { nr_samples: 4, ..args(1) },
        CreateArgs { array_size: 6, ..args(1) },
        CreateArgs { height: 0, ..args(1) },
    ] {
        resources.create(args(1));
        resources.create(unreadable);
        assert!(resources.is_empty(), "the ID has another meaning now: {unreadable:?}");
    }
}

#[test]
fn context_with_many_resources_takes_none_from_others() {
    let (greedy, other) = (Context { id: 1, generation: 1 }, Context { id: 2, generation: 2 });
    let mut resources = Resources::default();
    for id in 0..2 * MAX_OWNED as u32 {
        resources.create(args(id));
        resources.attach(id, greedy, |_| true);
    }
    assert_eq!(resources.len(), MAX_OWNED);
    assert!(resources.get(MAX_OWNED as u32).is_none(), "its own newest ones are forgotten");
    // Detaching does not make room: the resource exists, and may be imported again.
    resources.detach(0, greedy);
    let new = u32::MAX;
    resources.create(args(new));
    resources.attach(new, greedy, |_| true);
    assert!(resources.get(new).is_none());
    resources.create(args(new));
    resources.attach(new, other, |_| true);
    resources.attach(new, greedy, |_| true);
    assert!(
        resources.get(new).is_some_and(|resource| resource.is_attached(greedy)),
        "counted against its owner"
    );
    resources.remove(1);
    resources.create(args(1));
    resources.attach(1, greedy, |_| true);
    assert!(resources.get(1).is_some(), "a destroyed resource makes room");
}

#[test]
fn contexts_that_fill_the_table_together_take_nothing_from_others() {
    let (desktop, sidecar) = (Context { id: 1, generation: 1 }, Context { id: 2, generation: 2 });
    let mut resources = Resources::default();
    let create = |resources: &mut Resources, context: Context, count: u32| {
        let first = resources.map.keys().max().map_or(0, |id| id + 1);
        for id in first..first + count {
            resources.create(args(id));
            resources.attach(id, context, |_| true);
        }
        first..first + count
    };
    let old = create(&mut resources, desktop, 300);
    for id in old.clone() {
        resources.attach(id, sidecar, |_| true);
    }
    for context in 10..80 {
        create(&mut resources, Context { id: context, generation: context.into() }, MAX_OWNED as u32);
        assert!(resources.len() <= MAX_RESOURCES);
    }
    let new = create(&mut resources, desktop, 300);
    for id in old.chain(new) {
        assert!(resources.get(id).is_some_and(|resource| resource.is_attached(desktop)), "{id}");
    }
    assert!(resources.len() > MAX_RESOURCES - MAX_OWNED, "no more is forgotten than necessary");
    let owned: usize = resources.owned.values().map(HashSet::len).sum();
    assert_eq!(owned, resources.len());
}

#[test]
fn resources_held_by_several_contexts_are_forgotten_last() {
    let (largest, other) = (Context { id: 1, generation: 1 }, Context { id: 2, generation: 2 });
    let mut resources = Resources::default();
    for id in 0..100 {
        resources.create(args(id));
        resources.attach(id, largest, |_| true);
    }
    (50..100).for_each(|id| resources.attach(id, other, |_| true));
    resources.make_room();
    assert_eq!(resources.len(), 50);
    assert!((50..100).all(|id| resources.get(id).is_some()));
}

#[test]
fn resources_of_a_destroyed_context_pass_to_another_holder() {
    let (first, second) = (Context { id: 1, generation: 1 }, Context { id: 2, generation: 2 });
    let mut resources = Resources::default();
    for id in [3, 4] {
        resources.create(args(id));
        resources.attach(id, first, |_| true);
    }
    resources.attach(3, second, |_| true);
    resources.release(first, |context| context == second);
    assert!(resources.get(3).is_some_and(|resource| resource.is_attached(second)));
    assert_eq!(resources.owned[&second].len(), 1);
    // The other one has no holder, and may be imported.
    resources.attach(4, second, |_| true);
    assert!(resources.get(4).is_some_and(|resource| resource.is_attached(second)));
    assert_eq!(resources.owned[&second].len(), 2);
}

#[test]
fn resources_without_owner_are_bounded() {
    let mut resources = Resources::default();
    let mut id = 0;
    for generation in 0..5 {
        let context = Context { id: 1, generation };
        for _ in 0..MAX_OWNED {
            id += 1;
            resources.create(args(id));
            resources.attach(id, context, |_| true);
        }
        resources.release(context, |_| false);
    }
    assert_eq!(resources.len(), MAX_ORPHANS);
    // An ID that is in use again is not an orphan.
    let heir = Context { id: 2, generation: 9 };
    for last in 0..MAX_ORPHANS as u32 {
        resources.create(args(id - last));
        resources.attach(id - last, heir, |_| true);
    }
    let context = Context { id: 3, generation: 10 };
    for other in 0..MAX_OWNED as u32 {
        resources.create(args(1_000_000 + other));
        resources.attach(1_000_000 + other, context, |_| true);
    }
    resources.release(context, |context| context == heir);
    assert!((0..MAX_ORPHANS as u32).all(|last| resources.get(id - last).is_some()));
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
                    resources.create(args(resource));
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
                        let current = contexts.current(context).expect("alive");
                        contexts.remove(context);
                        resources.release(current, |context| contexts.exists(context));
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
