//! Mark of a project's operator on the Engine: an empty volume with the ID of the operator's state folder.
//!
//! The lock of a state folder keeps two operators with that folder apart; this one keeps apart operators with different
//! folders, whose tokens and statuses would contradict each other. An operator removes its mark when it ends. After one that
//! was killed, the next one with the same folder takes over, as it has the folder's lock; so does any operator of the same
//! machine after a reboot.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use bollard::models::VolumeCreateRequest;

use crate::engine::{Engine, EngineError};
use crate::names::{BOOT, HOLDER, HOST, Project, Role, STATE};

type Labels = HashMap<String, String>;

/// The mark of this operator.
#[derive(Debug)]
pub struct ProjectLock {
    project: Project,
    ours: Holder,
    is_held: bool,
}

/// Operator that holds a mark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// ID of its state folder.
    pub state: String,
    /// Host name of its machine, and its state folder, for people.
    pub description: String,
    /// Host name of its machine.
    pub host: String,
    /// Boot ID of its machine; empty if unknown.
    pub boot: String,
}

/// Another operator runs the project.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Taken {
    project: Project,
    /// Description of the holder; empty if the volume is not an operator's.
    holder: String,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { project, holder } = self;
        let volume = project.object(Role::Operator);
        if holder.is_empty() {
            return write!(
                f,
                "volume {volume} exists and marks no operator: remove it, or choose another --project"
            );
        }
        write!(
            f,
            "project {project} is run by another `operator docker` ({holder}): stop it, use its folder with --state, or \
             choose another --project; if it no longer runs, run `docker volume rm {volume}`"
        )
    }
}

/// Failure to take the mark.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another operator has it.
    #[error(transparent)]
    Taken(#[from] Taken),
    /// The Engine does not answer, or refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// State of the mark.
#[derive(Debug, PartialEq, Eq)]
enum Mark {
    Missing,
    Ours,
    /// Of an operator that cannot run any more.
    Stale,
    Taken,
}

impl Holder {
    /// This operator. `proc` is the machine's `/proc`.
    pub fn new(state: String, folder: &Path, host: &str, proc: &Path) -> Self {
        let boot = std::fs::read_to_string(proc.join("sys/kernel/random/boot_id")).unwrap_or_default();
        Self {
            state,
            description: format!("on {host}, --state {}", folder.display()),
            host: host.to_owned(),
            boot: boot.trim().to_owned(),
        }
    }

    fn labels(&self) -> [(&'static str, &String); 4] {
        [(STATE, &self.state), (HOLDER, &self.description), (HOST, &self.host), (BOOT, &self.boot)]
    }

    fn from_labels(labels: &Labels) -> Self {
        let get = |key: &str| labels.get(key).cloned().unwrap_or_default();
        Self { state: get(STATE), description: get(HOLDER), host: get(HOST), boot: get(BOOT) }
    }

    /// The mark that `labels` are.
    fn judge(&self, labels: Option<&Labels>) -> Mark {
        let Some(labels) = labels else { return Mark::Missing };
        let found = Self::from_labels(labels);
        let was_rebooted = found.host == self.host
            && !found.boot.is_empty()
            && !self.boot.is_empty()
            && found.boot != self.boot;
        if !found.state.is_empty() && found.state == self.state {
            Mark::Ours
        } else if !found.state.is_empty() && was_rebooted {
            Mark::Stale
        } else {
            Mark::Taken
        }
    }
}

impl ProjectLock {
    /// The mark of the project, not taken yet.
    pub fn new(project: Project, ours: Holder) -> Self {
        Self { project, ours, is_held: false }
    }

    /// Whether the last call of [`Self::hold`] succeeded.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Takes the mark unless we have it, given the labels of the project's volumes by name.
    ///
    /// # Errors
    ///
    /// If another operator has it, or if the Engine does not answer.
    pub async fn hold(
        &mut self,
        engine: &Engine,
        volumes: &HashMap<String, Labels>,
    ) -> Result<(), LockError> {
        let name = self.project.object(Role::Operator);
        let listed = volumes.get(&name);
        match self.ours.judge(listed) {
            Mark::Ours => {
                self.is_held = true;
                return Ok(());
            }
            Mark::Taken => return Err(self.taken(listed)),
            Mark::Stale => engine.remove_volume(&name).await?,
            Mark::Missing => {}
        }
        self.is_held = false;
        let mut labels = self.project.labels(Role::Operator);
        labels.extend(self.ours.labels().map(|(key, value)| (key.to_owned(), value.clone())));
        engine
            .create_volume(VolumeCreateRequest {
                name: Some(name.clone()),
                driver: Some("local".to_owned()),
                labels: Some(labels),
                ..VolumeCreateRequest::default()
            })
            .await?;
        // The Engine answers success for a volume that exists, too; the labels tell who was first.
        let labels = engine.volume_labels(&name).await?;
        if self.ours.judge(Some(&labels)) != Mark::Ours {
            return Err(self.taken(Some(&labels)));
        }
        self.is_held = true;
        Ok(())
    }

    fn taken(&mut self, labels: Option<&Labels>) -> LockError {
        self.is_held = false;
        let holder = labels.map(Holder::from_labels).unwrap_or_default();
        Taken { project: self.project.clone(), holder: holder.description }.into()
    }

    /// Removes the mark if we have it.
    ///
    /// # Errors
    ///
    /// If the Engine does not answer, or refuses.
    pub async fn release(&mut self, engine: &Engine) -> Result<(), EngineError> {
        if std::mem::take(&mut self.is_held) {
            engine.remove_volume(&self.project.object(Role::Operator)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(state: &str, host: &str, boot: &str) -> Holder {
        let text = |text: &str| text.to_owned();
        Holder { state: text(state), description: text("d"), host: text(host), boot: text(boot) }
    }

    fn labels(holder: &Holder) -> Labels {
        holder.labels().map(|(key, value)| (key.to_owned(), value.clone())).into()
    }

    #[test]
    fn mark_of_another_state_folder_is_taken_until_the_machine_was_rebooted() {
        let ours = holder("a", "h", "1");
        let judge = |found: &Holder| ours.judge(Some(&labels(found)));
        assert_eq!(ours.judge(None), Mark::Missing);
        assert_eq!(judge(&ours), Mark::Ours);
        assert_eq!(judge(&holder("a", "other", "2")), Mark::Ours, "we have the folder's lock");
        assert_eq!(judge(&holder("b", "h", "1")), Mark::Taken);
        assert_eq!(judge(&holder("b", "h", "2")), Mark::Stale);
        assert_eq!(judge(&holder("b", "other", "2")), Mark::Taken, "boot IDs of two machines differ");
        assert_eq!(judge(&holder("b", "h", "")), Mark::Taken);
        assert_eq!(ours.judge(Some(&Labels::new())), Mark::Taken, "a volume that is not an operator's");
    }

    #[test]
    fn refusal_names_the_holder_and_the_ways_out() {
        let mut lock = ProjectLock::new("p".parse().expect("a project"), holder("a", "h", "1"));
        let text = lock.taken(Some(&labels(&holder("b", "h", "1")))).to_string();
        for part in ["project p", "(d)", "--state", "--project", "docker volume rm p_operator"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = lock.taken(None).to_string();
        assert!(text.contains("p_operator") && text.contains("remove it"), "{text}");
    }
}
