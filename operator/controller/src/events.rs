//! Events about streams and host-agents.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::runtime::events::{Event, EventType};
use operator_api::conditions::{self, READY};
use operator_api::{DesktopStream, DesktopStreamStatus};

use super::context::Context;

/// An Event to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// True for a Warning, false for a Normal Event.
    pub is_warning: bool,
    /// Reason of the Event.
    pub reason: String,
    /// Message of the Event.
    pub note: String,
}

impl News {
    /// A Normal Event.
    pub fn normal(reason: &str, note: impl Into<String>) -> Self {
        Self { is_warning: false, reason: reason.to_owned(), note: note.into() }
    }
}

/// Publishes an Event about a stream. Failures are logged.
pub async fn publish(context: &Context, stream: &DesktopStream, news: News) {
    publish_about(context, &stream.object_ref(&()), news).await;
}

/// Publishes an Event about any object. Failures are logged.
pub async fn publish_about(context: &Context, object: &ObjectReference, news: News) {
    let News { is_warning, reason, note } = news;
    let event = Event {
        type_: if is_warning { EventType::Warning } else { EventType::Normal },
        reason,
        note: Some(note),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, object).await {
        tracing::debug!(%error, "event not written");
    }
}

/// Events for the difference between two statuses.
pub fn news(before: &DesktopStreamStatus, after: &DesktopStreamStatus) -> Vec<News> {
    let mut news = Vec::new();
    for condition in &after.conditions {
        let old = before.conditions.iter().find(|old| old.type_ == condition.type_);
        let is_same = old.is_some_and(|old| old.status == condition.status && old.reason == condition.reason);
        let is_failing = condition.reason == conditions::reasons::RECONCILE_FAILS.name;
        // A false Ready repeats the condition that causes it, unless requests fail. A true condition is reported for Ready,
        // and for others when they were false before.
        let is_worth_reporting = match condition.status.as_str() {
            "False" => condition.type_ != READY || is_failing,
            "True" => condition.type_ == READY || old.is_some_and(|old| old.status == "False"),
            _ => false,
        };
        let is_waiting = condition.reason == conditions::reasons::WAITING.name;
        if !is_same && is_worth_reporting && !is_waiting {
            let has_message = !condition.message.is_empty();
            let note = if has_message { condition.message.clone() } else { condition.type_.clone() };
            let is_warning = condition.status == "False";
            news.push(News { is_warning, reason: condition.reason.clone(), note });
        }
    }
    if let (Some(old), Some(new)) = (&before.host_agent_name, &after.host_agent_name)
        && old != new
    {
        news.push(News::normal("HostAgentChanged", format!("paired with host-agent {new} instead of {old}")));
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;
    use operator_api::conditions::{Engine, PAIRED, Subject, reasons};

    fn status(holds: Option<bool>, reason: conditions::Reason) -> DesktopStreamStatus {
        let subject = Subject { engine: Engine::Kubernetes, name: "desk", generation: None };
        let conditions = [PAIRED, READY].map(|kind| subject.condition(kind, holds, reason, "x")).to_vec();
        DesktopStreamStatus { conditions, ..DesktopStreamStatus::default() }
    }

    #[test]
    fn changed_condition_is_one_event_and_waiting_is_none() {
        let none = DesktopStreamStatus::default();
        let bad = status(Some(false), reasons::NO_HOST_AGENT);
        let events = news(&none, &bad);
        assert_eq!(events.len(), 1);
        assert!(events[0].is_warning && events[0].reason == "NoHostAgent");
        assert!(news(&bad, &bad).is_empty());
        assert!(news(&none, &status(None, reasons::WAITING)).is_empty());
        let good = news(&bad, &status(Some(true), reasons::PAIRED));
        assert_eq!(good.len(), 2, "Paired and Ready");
        assert!(good.iter().all(|news| !news.is_warning));
    }

    #[test]
    fn failing_reconciliation_is_one_event() {
        let good = status(Some(true), reasons::PAIRED);
        let subject = Subject { engine: Engine::Kubernetes, name: "desk", generation: None };
        let failing = |error: &str| {
            operator_plan::status::failing(subject, &good, error, k8s_openapi::jiff::Timestamp::UNIX_EPOCH)
        };
        let events = news(&good, &failing("x"));
        assert_eq!(events.iter().map(|it| it.reason.as_str()).collect::<Vec<_>>(), ["ReconcileFails"]);
        assert!(news(&failing("x"), &failing("y")).is_empty());
    }

    #[test]
    fn changed_host_agent_is_an_event() {
        let with = |name: &str| DesktopStreamStatus {
            host_agent_name: Some(name.to_owned()),
            ..DesktopStreamStatus::default()
        };
        let events = news(&with("a"), &with("b"));
        assert_eq!(events, [News::normal("HostAgentChanged", "paired with host-agent b instead of a")]);
    }
}
