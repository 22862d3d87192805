//! Validates DesktopStreams.

use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};

use operator_api::DesktopStream;
use operator_plan::rights;
use operator_plan::validate::{Invalid, validate, validate_update};

use super::admission::Validator;
use super::authorize::{Refusal, authorize};

/// Reviews a DesktopStream.
///
/// # Errors
/// The author's rights cannot be checked.
pub async fn review(
    validator: &Validator,
    request: &AdmissionRequest<DynamicObject>,
) -> Result<AdmissionResponse, String> {
    let response = AdmissionResponse::from(request);
    match check(validator, request).await {
        Ok(()) => Ok(response),
        Err(Refusal::Denied(why)) => Ok(response.deny(why)),
        Err(Refusal::Unavailable(why)) => Err(why),
    }
}

async fn check(validator: &Validator, request: &AdmissionRequest<DynamicObject>) -> Result<(), Refusal> {
    let Some(object) = &request.object else { return Ok(()) };
    let mut new: DesktopStream = read(object)?;
    // A stream that is being deleted is not validated: one from before a rule could never be deleted.
    if new.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    // With generateName there is no name yet; the rules of the schema check the generated one.
    new.metadata.name.get_or_insert_with(|| "generated".to_owned());
    let message = |invalid: Invalid| invalid.to_string();
    let mut is_authored = true;
    if request.operation == Operation::Update
        && let Some(old) = request.old_object.as_ref().and_then(|old| read(old).ok())
    {
        // The metadata of a stream from before a rule can change, by the operator and by controllers without other rights.
        if old.spec == new.spec {
            return Ok(());
        }
        validate_update(&old, &new).map_err(message)?;
        is_authored = rights::is_authored(&old.spec, &new.spec);
    }
    validate(&new).and_then(|valid| validator.policy.admit(valid)).map_err(message)?;
    if is_authored {
        let namespace = request.namespace.as_deref().unwrap_or_default();
        authorize(&validator.client, &request.user_info, namespace, &new.spec).await?;
    }
    Ok(())
}

fn read(object: &DynamicObject) -> Result<DesktopStream, String> {
    let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    serde_json::from_value(value)
        .map_err(|error| format!("the spec is not readable: {error}; see kubectl explain desktopstream.spec"))
}

#[cfg(test)]
mod tests;
