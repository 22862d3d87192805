//! One stream, brought to where it should be: gather, plan, act, say. A pass that changed something is followed
//! by another that looks at what came of it.

mod act;
pub(crate) mod address;
mod attaching;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;

use self::address::{announcement, published, url};
use self::attaching::Attaching;
use super::engine::{Engine, EngineError, Listing};
use super::machine::Machine;
use super::names::{Place, Role};
use super::observe::{self, Container, State};
use super::pulls::Pulls;
use super::refuse::{Publish, check};
use super::render::{self, Setting};
use super::state::{Folder, Record};
use super::teardown::{Keep, teardown};
use super::words;
use operator_api::{AuthKind, DesktopStream, DesktopStreamStatus, HostAgent, Phase, names};
use operator_controller::keys::Signer;
use operator_plan::facts::{Gpu, Node};
use operator_plan::kubernetes::SidecarImage;
use operator_plan::lifecycle::{self, Life};
use operator_plan::pair::{self, Candidate, Pairing};
use operator_plan::status::report::Report;
use operator_plan::status::{self, Obstacle, Seen};
use operator_plan::validate::Validated;
use operator_plan::workload;
use operator_sidecar_client;

/// A stream that is starting is looked at so often.
const STARTING: Duration = Duration::from_secs(2);
/// What can't be done now is tried again so often.
const OBSTRUCTED: Duration = Duration::from_secs(10);
/// How long after trouble a container is inspected, though it runs.
const UNSETTLED: Duration = Duration::from_secs(60);

/// What doesn't change while the operator runs.
pub struct Context {
    /// The Engine.
    pub engine: Arc<Engine>,
    /// Whose streams these are.
    pub project: String,
    /// The sidecar's image.
    pub sidecar: SidecarImage,
    /// How often a running sidecar is asked how it does.
    pub poll: Duration,
    /// How long a token for a host-agent is good.
    pub token_life: Duration,
    /// What outlives us.
    pub folder: Folder,
    /// Signs tokens.
    pub signer: Signer,
    /// GPUs.
    pub machine: Machine,
    /// Images on their way.
    pub pulls: Pulls,
    /// Held while a container of somebody else's is made anew, one at a time.
    pub in_hand: Arc<tokio::sync::Mutex<()>>,
    /// What is known and in no file.
    pub memory: Mutex<HashMap<String, Memory>>,
}

/// What is known of a stream and in no file: lost with the process, and found again.
#[derive(Debug, Default, Clone)]
pub struct Memory {
    /// What its sidecar said last.
    report: Option<(Instant, Result<Report, String>)>,
    /// Where the sidecar answered.
    address: Option<String>,
    /// The host-agent that it has.
    host_agent: Option<String>,
    /// What the sidecar was given, and which one.
    given: Option<(String, BTreeMap<String, String>)>,
    /// The token that is out: host-agent, endpoint, token, and when it is due.
    token: Option<(String, String, String, u64)>,
    /// What could not be done, for which spec, and when to try again.
    obstacle: Option<(Obstacle, i64, Instant)>,
    /// Its containers are inspected until then.
    unsettled: Option<Instant>,
    /// What was said of where it is watched.
    announced: Option<String>,
    /// The container that could not be made anew, and why: it is not tried again.
    not_anew: Option<(String, String)>,
}

/// What is there, as of one look at all of it.
#[derive(Debug, Default)]
pub struct View {
    containers: HashMap<(Place, Role), Container>,
    /// Networks, and their gateways.
    pub networks: HashMap<String, Option<String>>,
    /// Volumes, and their labels.
    pub volumes: HashMap<String, HashMap<String, String>>,
}

/// What is so besides the stream.
#[derive(Debug)]
pub struct World {
    /// What is there.
    pub view: View,
    /// GPUs.
    pub gpus: Vec<Gpu>,
    /// The machine, with the host-agents that it reaches.
    pub node: Node,
    /// Host-agents.
    pub host_agents: Vec<HostAgent>,
    /// The project's network, and the machine's address in it, once it is there: made by whoever is first.
    pub network: tokio::sync::Mutex<Option<Option<String>>>,
    /// Containers of others that want a sidecar, by the stream's name.
    pub attached: HashMap<String, Container>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Something was changed: look again at once.
    pub changed: bool,
    /// Look again after so long.
    pub again: Duration,
}

impl View {
    /// From lists.
    pub fn read(listing: Listing) -> Self {
        let gateway = |network: &bollard::models::Network| {
            let configs = network.ipam.as_ref().and_then(|ipam| ipam.config.as_ref());
            configs.into_iter().flatten().find_map(|config| config.gateway.clone())
        };
        let containers = listing.containers.iter().map(Container::read);
        Self {
            containers: containers.filter_map(|it| Some((it.place()?, it))).collect(),
            networks: listing
                .networks
                .iter()
                .map(|it| (it.name.clone().unwrap_or_default(), gateway(it)))
                .collect(),
            volumes: listing.volumes.into_iter().map(|it| (it.name, it.labels)).collect(),
        }
    }

    /// A container of a stream's.
    pub fn container(&self, place: &Place, role: Role) -> Option<&Container> {
        self.containers.get(&(place.clone(), role))
    }

    /// Whether no container is there.
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty()
    }

    /// Streams that anything here belongs to, homes that outlive them aside.
    pub fn streams(&self) -> BTreeSet<String> {
        self.containers.keys().map(|(place, _)| place.stream.clone()).collect()
    }
}

impl Context {
    fn memory(&self) -> MutexGuard<'_, HashMap<String, Memory>> {
        // Every change is one assignment: whoever panicked left whole entries.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, stream: &str) -> Memory {
        self.memory().get(stream).cloned().unwrap_or_default()
    }

    fn learn(&self, stream: &str, change: impl FnOnce(&mut Memory)) {
        change(self.memory().entry(stream.to_owned()).or_default());
    }

    /// Forgets a stream that is gone.
    pub fn forget(&self, stream: &str) {
        self.memory().remove(stream);
        self.folder.forget(stream);
    }
}

/// Reconciles one stream.
pub async fn reconcile(context: &Context, world: &World, stream: &DesktopStream) -> anyhow::Result<Outcome> {
    let name = stream.metadata.name.clone().unwrap_or_default();
    let now = Timestamp::now();
    let record = Record::of(stream, context.folder.record(&name), now)?;
    let mut stream = stream.clone();
    stream.metadata.uid = Some(record.uid.clone());
    stream.metadata.generation = Some(record.generation);
    match check(&stream, &context.project) {
        Ok(valid) => {
            let place = Place::new(&context.project, &name);
            let work = Work { context, world, stream: &stream, valid, place, record, now };
            Box::pin(work.run()).await
        }
        Err(invalid) => {
            let status = status::invalid(&record.status, Some(record.generation), &invalid, now);
            say(context, &name, &record, status)?;
            Ok(Outcome { changed: false, again: Duration::MAX })
        }
    }
}

/// Keeps the record, and tells what is new in it.
fn say(
    context: &Context,
    name: &str,
    before: &Record,
    mut status: DesktopStreamStatus,
) -> anyhow::Result<()> {
    words::translate(&mut status, name);
    let ready = |status: &DesktopStreamStatus| {
        let found = status.conditions.iter().find(|it| it.type_ == operator_api::conditions::READY);
        found.map(|it| (it.status.clone(), it.reason.clone(), it.message.clone()))
    };
    if before.status.phase != status.phase
        || ready(&before.status).map(|it| it.1) != ready(&status).map(|it| it.1)
    {
        let (_, reason, message) = ready(&status).unwrap_or_default();
        let phase = status.phase.map_or_else(String::new, |phase| format!("{phase:?}"));
        tracing::info!(stream = name, phase, reason, "{message}");
    }
    let after = Record { status, ..before.clone() };
    if context.folder.record(name).as_ref() != Some(&after) {
        context.folder.keep(name, &after)?;
    }
    Ok(())
}

/// A reconciliation under way.
struct Work<'w> {
    context: &'w Context,
    world: &'w World,
    stream: &'w DesktopStream,
    valid: Validated,
    place: Place,
    record: Record,
    now: Timestamp,
}

impl Work<'_> {
    async fn run(mut self) -> anyhow::Result<Outcome> {
        let (context, world) = (self.context, self.world);
        let name = self.place.stream.clone();
        let theirs = world.attached.get(&name).filter(|_| self.valid.spec.attach.is_some());
        let desktop = match theirs {
            Some(theirs) => self.look(theirs).await?,
            None => self.seen(Role::Desktop).await?,
        };
        let sidecar = self.seen(Role::Sidecar).await?;
        let report = self.report(sidecar.as_ref()).await;
        let outcome = lifecycle::lifecycle(
            &self.valid,
            lifecycle::Known {
                created: Some(self.record.created),
                wake: self.annotation(names::WAKE),
                before: &self.record.status,
                viewers: report.as_ref().and_then(|it| it.as_ref().ok()).map(|report| report.viewers),
                now: self.now,
            },
        );
        self.record.ended |= outcome.life == Life::Expired;
        let nodes = std::slice::from_ref(&world.node);
        let pairing = self.pair(nodes, outcome.life != Life::Run);
        let devices = context.machine.devices(&self.valid, &world.gpus);
        let (mut changed, mut obstacle) = (false, None);
        let runs = outcome.life == Life::Run;
        let mut attached = None;
        if runs && let (Some(theirs), Some(devices)) = (theirs, &devices) {
            match self.attach(theirs, devices).await? {
                Attaching::Fits(it) => attached = Some(it),
                Attaching::Changed => changed = true,
                Attaching::Lacks(why) => obstacle = Some(why),
            }
        }
        let nobody = self.valid.spec.attach.is_some() && attached.is_none();
        if !runs || nobody && !changed {
            // It rests, or there is nothing that it could be attached to.
            changed |= teardown(&context.engine, &world.view, &self.place, Keep::Home).await?;
        } else if let Some(devices) = devices.as_ref().filter(|_| !nobody) {
            let gid = devices.first().and_then(|device| device.gids.first().copied());
            let workload = workload::workload(&self.valid, gid);
            let setting = Setting {
                place: &self.place,
                sidecar: &context.sidecar,
                devices,
                publish: &Publish::of(self.stream),
                pairing: &pairing,
                attached: attached.as_ref(),
            };
            let objects = render::objects(&self.valid, &workload, setting);
            let done = Box::pin(self.act(objects, &workload, &pairing)).await?;
            (changed, obstacle) = (done.changed, done.obstacle);
        }
        let again = self.again(obstacle.is_some(), report.as_ref(), outcome.look_again);
        if changed && obstacle.is_none() {
            // What came of it is seen in the next pass.
            let status = self.record.status.clone();
            say(context, &name, &self.record, status)?;
            return Ok(Outcome { changed, again });
        }
        let missing = devices.is_none().then(|| observe::unplaced(&name, "too few GPUs"));
        let unmade = || obstacle.is_some().then(|| observe::unmade(&name, &world.node.name));
        let pod = missing
            .or_else(|| observe::pod(&world.node.name, desktop.as_ref(), sidecar.as_ref()))
            .or_else(unmade);
        let seen = Seen {
            pod: pod.as_ref().filter(|_| runs),
            obstacle: obstacle.as_ref(),
            claim: None,
            nodes,
            pairing: &pairing,
            report: report.as_ref().map(|it| it.as_ref().map_err(String::as_str)),
            outcome: &outcome,
            before: &self.record.status,
            now: self.now,
        };
        let mut status = status::status(&self.valid, seen);
        status.viewer_url = sidecar.as_ref().and_then(url);
        let asks = self.valid.spec.viewers.auth.kind == AuthKind::Token;
        status.viewer_secret = asks.then(|| context.folder.viewer_token_file(&name).display().to_string());
        let streams = status.phase == Some(Phase::Streaming);
        say(context, &name, &self.record, status)?;
        if streams && let Some(sidecar) = &sidecar {
            self.announce(sidecar);
        }
        Ok(Outcome { changed, again })
    }

    /// Tells where it is watched, on stdout, as that is what people wait for: once, and again when it is elsewhere.
    fn announce(&self, sidecar: &Container) {
        let (context, name) = (self.context, &self.place.stream);
        let Some(said) = announcement(name, sidecar, context.folder.viewer_token(name).as_deref()) else {
            return;
        };
        if context.known(name).announced.as_ref() != Some(&said) {
            // Whoever reads it may have gone; the operator stays.
            drop(writeln!(std::io::stdout(), "{said}"));
            context.learn(name, |known| known.announced = Some(said));
        }
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.stream.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// A container, inspected where a list doesn't tell enough.
    async fn seen(&self, role: Role) -> Result<Option<Container>, EngineError> {
        match self.world.view.container(&self.place, role) {
            Some(container) => self.look(container).await,
            None => Ok(None),
        }
    }

    async fn look(&self, container: &Container) -> Result<Option<Container>, EngineError> {
        let mut container = container.clone();
        let troubled = container.state != State::Running;
        if troubled {
            let until = Instant::now() + UNSETTLED;
            self.context.learn(&self.place.stream, |known| known.unsettled = Some(until));
        }
        let unsettled =
            self.context.known(&self.place.stream).unsettled.is_some_and(|it| it > Instant::now());
        if troubled || unsettled {
            match self.context.engine.inspect(&container.id).await {
                Ok(found) => container.detail = Some(observe::Detail::read(&found)),
                Err(error) if error.is_missing() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(container))
    }

    /// What the sidecar says, asked at a modest rate: where it is in its network, or where it is published,
    /// whichever can be reached from here.
    async fn report(&self, sidecar: Option<&Container>) -> Option<Result<Report, String>> {
        let (context, name) = (self.context, &self.place.stream);
        let Some(sidecar) = sidecar.filter(|it| it.state == State::Running) else {
            context.learn(name, |known| known.report = None);
            return None;
        };
        let known = context.known(name);
        let steady = matches!(&known.report, Some((_, Ok(report))) if report.frames.encoded > 0);
        let fresh = if steady { context.poll } else { Duration::from_secs(1) };
        if let Some((at, report)) = known.report
            && at.elapsed() < fresh
        {
            return Some(report);
        }
        let inside = sidecar.networks.get(&self.place.object(Role::Network)).filter(|ip| !ip.is_empty());
        let mut addresses: Vec<String> = known.address.into_iter().collect();
        addresses.extend(published(sidecar));
        addresses.extend(inside.map(|ip| format!("{ip}:{}", names::VIEWER_PORT)));
        let token = context.folder.viewer_token(name);
        let mut report = Err("it has no address".to_owned());
        for address in addresses {
            report = sidecar::ask(&address, token.as_deref()).await;
            if report.is_ok() {
                context.learn(name, |known| known.address = Some(address));
                break;
            }
        }
        context.learn(name, |known| {
            if report.is_err() {
                known.address = None;
            }
            known.report = Some((Instant::now(), report.clone()));
        });
        Some(report)
    }

    /// Chooses while nobody else chooses.
    fn pair(&self, nodes: &[Node], rests: bool) -> Pairing {
        let name = &self.place.stream;
        let mut memory = self.context.memory();
        let load = |agent: &str| {
            memory
                .iter()
                .filter(|(other, it)| *other != name && it.host_agent.as_deref() == Some(agent))
                .count()
        };
        let candidates: Vec<Candidate> = self
            .world
            .host_agents
            .iter()
            .map(|agent| {
                let name = agent.metadata.name.clone().unwrap_or_default();
                Candidate {
                    load: load(&name) as u32,
                    labels: agent.metadata.labels.clone().unwrap_or_default(),
                    node_selector: agent.spec.node_selector.clone(),
                    capacity: agent.spec.capacity,
                    name,
                }
            })
            .collect();
        let node = Some(self.world.node.name.as_str());
        let before = self.record.status.host_agent.as_deref();
        let pairing = pair::pair(&self.valid, &candidates, nodes, node, before);
        let held = pairing.host_agent().map(ToOwned::to_owned).filter(|_| !rests);
        memory.entry(name.clone()).or_default().host_agent = held;
        pairing
    }

    fn again(
        &self,
        obstructed: bool,
        report: Option<&Result<Report, String>>,
        look_again: Option<Duration>,
    ) -> Duration {
        let mut wait = look_again.unwrap_or(Duration::MAX);
        if obstructed {
            wait = wait.min(OBSTRUCTED);
        }
        if let Some(report) = report {
            let steady = report.as_ref().is_ok_and(|report| report.frames.encoded > 0);
            wait = wait.min(if steady { self.context.poll } else { STARTING });
        }
        wait.min(self.context.token_life / 4)
    }
}
