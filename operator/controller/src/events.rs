//! Events: what a person would want to know of a stream, once each.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::runtime::events::{Event, EventType};

use super::context::Context;
use operator_api::conditions::{self, READY};
use operator_api::{DesktopStream, DesktopStreamStatus};

/// Says something of a stream. That an Event can't be written is logged and no reason to fail.
pub async fn say(context: &Context, stream: &DesktopStream, warning: bool, reason: &str, note: String) {
    say_of(context, &stream.object_ref(&()), warning, reason, note).await;
}

/// Says something of any object.
pub async fn say_of(context: &Context, about: &ObjectReference, warning: bool, reason: &str, note: String) {
    let event = Event {
        type_: if warning { EventType::Warning } else { EventType::Normal },
        reason: reason.to_owned(),
        note: Some(note),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, about).await {
        tracing::debug!(%error, "an Event can't be written");
    }
}

/// What changed between two statuses that is worth an Event: warning, reason, note.
pub fn news(before: &DesktopStreamStatus, after: &DesktopStreamStatus) -> Vec<(bool, String, String)> {
    let mut news = Vec::new();
    for condition in &after.conditions {
        let old = before.conditions.iter().find(|old| old.type_ == condition.type_);
        let same = old.is_some_and(|old| old.status == condition.status && old.reason == condition.reason);
        // Ready repeats the first obstacle, which has its own Event; that all is well is only Ready's to say.
        let worth = match condition.status.as_str() {
            "False" => condition.type_ != READY,
            "True" => condition.type_ == READY || old.is_some_and(|old| old.status == "False"),
            _ => false,
        };
        let waits = condition.reason == conditions::reasons::WAITING.name;
        if !same && worth && !waits {
            let warning = condition.status == "False";
            let note = if condition.message.is_empty() {
                condition.type_.clone()
            } else {
                condition.message.clone()
            };
            news.push((warning, condition.reason.clone(), note));
        }
    }
    if after.host_agent != before.host_agent
        && let (Some(old), Some(new)) = (&before.host_agent, &after.host_agent)
    {
        news.push((false, "PairedAnew".to_owned(), format!("host-agent {new} instead of {old}")));
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;
    use operator_api::conditions::{PAIRED, condition, reasons};

    fn status(holds: Option<bool>, reason: conditions::Reason) -> DesktopStreamStatus {
        let conditions =
            vec![condition(PAIRED, holds, reason, "x", None), condition(READY, holds, reason, "x", None)];
        DesktopStreamStatus { conditions, ..DesktopStreamStatus::default() }
    }

    #[test]
    fn a_change_is_told_once_and_a_wait_is_none() {
        let none = DesktopStreamStatus::default();
        let bad = status(Some(false), reasons::NO_HOST_AGENT);
        let told = news(&none, &bad);
        assert_eq!(told.len(), 1);
        assert!(told[0].0 && told[0].1 == "NoHostAgent");
        assert!(news(&bad, &bad).is_empty());
        assert!(news(&none, &status(None, reasons::WAITING)).is_empty());
        let good = news(&bad, &status(Some(true), reasons::PAIRED));
        assert_eq!(good.len(), 2, "Paired again, and Ready");
        assert!(good.iter().all(|(warning, ..)| !warning));
    }
}
