use super::*;

const UP: Connection = Connection::Up { max_pixels: u32::MAX };
const GPU: Candidate = Candidate { by_resource_id: Ok(()), pixels: 1920 * 1080 };
const SHM: Candidate = Candidate { by_resource_id: Err(NoResourceId::SharedMemory), pixels: 1920 * 1080 };

fn fallback(connection: Connection, binding: Binding) -> Fallback {
    Fallback { only: None, connection, binding, refused: None, no_encoder: None }
}

fn down(since: Instant) -> Connection {
    Connection::Down { since, error: "x".into() }
}

fn failed(at: Instant) -> Binding {
    Binding::Failed { at, error: "x".into() }
}

fn path(decision: &Decision) -> Option<FramePath> {
    match decision {
        Decision::Use(path, _) => Some(*path),
        Decision::Wait(_) => None,
    }
}

#[test]
fn best_available_path_is_chosen() {
    let start = Instant::now();
    let late = start + 2 * GRACE;
    let cases = [
        (fallback(Connection::Absent, Binding::Untried), GPU, Some(FramePath::Local)),
        (fallback(down(start), Binding::Bound), GPU, Some(FramePath::Local)),
        (fallback(down(late), Binding::Bound), GPU, None),
        (fallback(UP, Binding::Untried), GPU, None),
        (fallback(UP, Binding::Untried), SHM, Some(FramePath::Pixels)),
        (fallback(UP, Binding::Requested(start)), GPU, Some(FramePath::Pixels)),
        (fallback(UP, Binding::Requested(late)), GPU, None),
        (fallback(UP, failed(start)), GPU, Some(FramePath::Pixels)),
        (fallback(UP, Binding::Unavailable("x".into())), GPU, Some(FramePath::Pixels)),
        (fallback(UP, Binding::Bound), SHM, Some(FramePath::Pixels)),
        (fallback(UP, Binding::Bound), GPU, Some(FramePath::ResourceId)),
    ];
    for (fallback, frame, expected) in cases {
        let decision = fallback.choose(frame, late);
        assert_eq!(path(&decision), expected, "{fallback:?}");
        if let Decision::Use(path, reason) = decision {
            assert_eq!(reason.is_none(), path == FramePath::ResourceId, "{fallback:?}: {reason:?}");
        }
    }
}

#[test]
fn only_path_is_the_only_one_used() {
    let now = Instant::now();
    let mut it = fallback(UP, Binding::Unavailable("no virgl".into()));
    it.only = Some(FramePath::ResourceId);
    assert_eq!(it.choose(GPU, now), Decision::Wait(WaitFor::RequiredPath));
    it.only = Some(FramePath::Local);
    assert_eq!(path(&it.choose(GPU, now)), Some(FramePath::Local));
    it.binding = Binding::Bound;
    it.only = Some(FramePath::Pixels);
    assert_eq!(path(&it.choose(GPU, now)), Some(FramePath::Pixels));
    it.connection = Connection::Absent;
    assert_eq!(path(&it.choose(GPU, now)), None);
}

#[test]
fn picture_above_the_host_agents_limit_is_encoded_locally() {
    let now = Instant::now();
    let limit = 1920 * 1080;
    let mut it = fallback(Connection::Up { max_pixels: limit }, Binding::Bound);
    assert_eq!(it.choose(GPU, now), Decision::Use(FramePath::ResourceId, None), "at the limit");
    let large = Candidate { pixels: u64::from(limit) + 1, ..GPU };
    let reason = Reason::PictureTooLarge { pixels: u64::from(limit) + 1, limit };
    assert_eq!(it.choose(large, now), Decision::Use(FramePath::Local, Some(reason)));
    for only in [FramePath::ResourceId, FramePath::Pixels] {
        it.only = Some(only);
        assert_eq!(it.choose(large, now), Decision::Wait(WaitFor::RequiredPath), "{only}");
    }
}

#[test]
fn refused_frame_falls_back_to_pixels_for_the_retry_interval() {
    let now = Instant::now();
    let mut it = fallback(UP, Binding::Bound);
    it.refused = Some((now, Reason::Refused(protocol::mailbox::Status::BadFormat)));
    assert_eq!(path(&it.choose(GPU, now)), Some(FramePath::Pixels));
    assert_eq!(path(&it.choose(GPU, now + RETRY_INTERVAL)), Some(FramePath::ResourceId));
}

#[test]
fn binding_is_requested_at_once_and_again_after_the_retry_interval() {
    let now = Instant::now();
    assert!(fallback(UP, Binding::Untried).should_bind(now));
    assert!(!fallback(Connection::Absent, Binding::Untried).should_bind(now));
    let failed = fallback(UP, failed(now));
    assert!(!failed.should_bind(now));
    assert!(failed.should_bind(now + RETRY_INTERVAL));
    assert!(!fallback(UP, Binding::Bound).should_bind(now + RETRY_INTERVAL));
}
