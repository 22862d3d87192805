//! Answers of the apiserver that need user action.

use kube::Resource;
use kube::core::Status;
use operator_api::conditions::reasons;
use operator_plan::status::Obstacle;

/// Cause of a refusal in a namespace that is being deleted (`v1.NamespaceTerminatingCause`).
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// The obstacle that an API error reports; `None` if the request can succeed later.
pub fn obstacle<K: Resource<DynamicType = ()>>(name: &str, error: &kube::Error) -> Option<Obstacle> {
    let kube::Error::Api(status) = error else { return None };
    let reason = match status.code {
        // The stream is deleted with its namespace.
        403 if has_cause(status, NAMESPACE_TERMINATING) => return None,
        // The quota admission plugin names itself only in the message.
        403 if status.message.contains("exceeded quota") || status.message.contains("failed quota") => {
            reasons::QUOTA
        }
        400 | 403 | 422 => reasons::REFUSED,
        _ => return None,
    };
    Some(Obstacle { reason, text: format!("{} {name}: {}", K::kind(&()), status.message) })
}

fn has_cause(status: &Status, reason: &str) -> bool {
    status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == reason)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    /// Reason of the obstacle that an API error with this body reports.
    fn reason(status: &Value) -> Option<&'static str> {
        let status: Status = serde_json::from_value(status.clone()).expect("a status");
        obstacle::<Pod>("p", &kube::Error::Api(status.boxed())).map(|obstacle| obstacle.reason.name)
    }

    #[test]
    fn api_error_that_needs_user_action_is_an_obstacle() {
        let quota = "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1";
        assert_eq!(reason(&json!({"code": 403, "message": quota})), Some("QuotaExceeded"));
        let security = "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\"";
        assert_eq!(reason(&json!({"code": 403, "message": security})), Some("ObjectRefused"));
        assert_eq!(reason(&json!({"code": 422, "message": "Pod \"p\" is invalid"})), Some("ObjectRefused"));
    }

    #[test]
    fn api_error_that_passes_by_itself_is_not_an_obstacle() {
        for code in [409, 500, 503, 404] {
            assert_eq!(reason(&json!({"code": code, "message": "the object has been modified"})), None);
        }
        let terminating = json!({"causes": [{"reason": "NamespaceTerminating", "message": "m"}]});
        assert_eq!(reason(&json!({"code": 403, "message": "m", "details": terminating})), None);
    }
}
