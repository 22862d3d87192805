//! Monitors of GNOME Shell, by `org.gnome.Mutter.DisplayConfig`.

use std::collections::HashMap;

use desktop_session::bus::{self, Target, call};
use zbus::{Connection, OwnedVariant, Variant};

const DISPLAY: &str = "org.gnome.Mutter.DisplayConfig";
const TARGET: Target<'static> = Target { service: DISPLAY, path: bus::DISPLAY_CONFIG, interface: DISPLAY };
/// Monitor of `gnome-shell --headless --virtual-monitor`, used if DisplayConfig lists none.
const HEADLESS_MONITOR: &str = "Meta-0";
/// Method of `ApplyMonitorsConfig`: until the next change, without a confirmation by the user.
const TEMPORARY: u32 = 1;

// Types of `GetCurrentState` and `ApplyMonitorsConfig` (data/dbus-interfaces/org.gnome.Mutter.DisplayConfig.xml).
type MonitorId = (String, String, String, String);
type Mode = (String, i32, i32, f64, f64, Vec<f64>, HashMap<String, OwnedVariant>);
type Monitor = (MonitorId, Vec<Mode>, HashMap<String, OwnedVariant>);
type Logical = (i32, i32, f64, u32, bool, Vec<MonitorId>, HashMap<String, OwnedVariant>);
type DisplayState = (u32, Vec<Monitor>, Vec<Logical>, HashMap<String, OwnedVariant>);
type Properties = HashMap<&'static str, Variant<'static>>;
type NewLogical = (i32, i32, f64, u32, bool, Vec<(String, String, Properties)>);

async fn current_state(connection: &Connection) -> zbus::Result<DisplayState> {
    call(connection, TARGET, "GetCurrentState", &()).await?.body().deserialize()
}

/// True if the shell has a monitor. False if it lists none, or does not reply.
pub async fn has_monitors(connection: &Connection) -> bool {
    current_state(connection).await.is_ok_and(|(_, monitors, ..)| !monitors.is_empty())
}

/// Connector to record: the primary monitor's, else the first monitor's, else [`HEADLESS_MONITOR`].
pub async fn primary_monitor(connection: &Connection) -> String {
    match current_state(connection).await {
        Ok((_, monitors, logical, _)) => choose_connector(&monitors, &logical),
        Err(error) => {
            tracing::debug!(%error, monitor = HEADLESS_MONITOR, "no monitor list, using the default monitor");
            None
        }
    }
    .unwrap_or_else(|| HEADLESS_MONITOR.to_owned())
}

fn choose_connector(monitors: &[Monitor], logical: &[Logical]) -> Option<String> {
    let primary = logical.iter().find(|monitor| monitor.4).or_else(|| logical.first());
    let id =
        primary.and_then(|monitor| monitor.5.first()).or_else(|| monitors.first().map(|monitor| &monitor.0));
    id.map(|id| id.0.clone())
}

/// Gives the desktop's only monitor the supported scale that is closest to `scale`. Without effect if there are several
/// monitors, or if Mutter refuses; a change of monitors that came between is followed by its signal.
pub async fn set_scale(connection: &Connection, scale: f64) {
    let state = match current_state(connection).await {
        Ok(state) => state,
        Err(error) => {
            tracing::debug!(%error, "the scale is not set: no monitor list");
            return;
        }
    };
    let Some(logical) = scaled(&state, scale) else { return };
    let no_properties = Properties::new();
    let body = (state.0, TEMPORARY, vec![logical], no_properties);
    if let Err(error) = call(connection, TARGET, "ApplyMonitorsConfig", &body).await {
        tracing::debug!(%error, scale, "the scale is not set");
    }
}

/// Configuration of the only monitor at the supported scale that is closest to `scale`; `None` if it has that scale.
fn scaled((_, monitors, logical, _): &DisplayState, scale: f64) -> Option<NewLogical> {
    let ([(id, modes, _)], [current]) = (monitors.as_slice(), logical.as_slice()) else { return None };
    let is_current =
        |mode: &&Mode| mode.6.get("is-current").and_then(|value| bool::try_from(value).ok()).unwrap_or(false);
    let (mode, .., supported, _) = modes.iter().find(is_current)?;
    let distance = |other: &f64| (other - scale).abs();
    let closest = supported.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
    if closest.to_bits() == current.2.to_bits() {
        return None;
    }
    let monitor = (id.0.clone(), mode.clone(), Properties::new());
    Some((current.0, current.1, closest, current.3, current.4, vec![monitor]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(connector: &str) -> MonitorId {
        (connector.to_owned(), "vendor".to_owned(), "product".to_owned(), "serial".to_owned())
    }

    #[test]
    fn connector_unspecified_is_the_primary_monitors() {
        let monitor = |name| (id(name), Vec::new(), HashMap::new());
        let logical = |name, primary| (0, 0, 1.0, 0, primary, vec![id(name)], HashMap::new());
        let monitors = [monitor("Meta-0"), monitor("Meta-1")];
        let two = [logical("Meta-0", false), logical("Meta-1", true)];
        assert_eq!(choose_connector(&monitors, &two).as_deref(), Some("Meta-1"));
        assert_eq!(choose_connector(&monitors, &two[..1]).as_deref(), Some("Meta-0"));
        assert_eq!(choose_connector(&monitors, &[]).as_deref(), Some("Meta-0"));
        assert_eq!(choose_connector(&[], &[]), None);
    }

    fn state(monitors: usize, scale: f64) -> DisplayState {
        let mode = |name: &str, is_current: bool| {
            let current = OwnedVariant::from(is_current);
            let properties = HashMap::from([("is-current".to_owned(), current)]);
            (name.to_owned(), 1920, 1080, 60.0, 1.0, vec![1.0, 1.496_124, 2.0], properties)
        };
        let modes = || vec![mode("other", false), mode("current", true)];
        let all = (0..monitors).map(|index| (id(&format!("Meta-{index}")), modes(), HashMap::new()));
        let logical = (0..monitors).map(|_| (0, 0, scale, 0, true, vec![id("Meta-0")], HashMap::new()));
        (7, all.collect(), logical.collect(), HashMap::new())
    }

    #[test]
    fn scale_is_the_closest_supported_one_of_the_current_mode() {
        let (_, _, scale, _, primary, monitors) = scaled(&state(1, 1.0), 1.5).expect("a change");
        assert_eq!((scale.to_bits(), primary), (1.496_124_f64.to_bits(), true));
        assert_eq!((monitors[0].0.as_str(), monitors[0].1.as_str()), ("Meta-0", "current"));
        assert!(scaled(&state(1, 1.0), 1.2).is_none(), "it has the closest scale");
        assert!(scaled(&state(1, 2.0), 9.0).is_none(), "it has the largest scale");
    }

    #[test]
    fn several_monitors_or_none_are_left_alone() {
        assert!(scaled(&state(2, 1.0), 2.0).is_none());
        assert!(scaled(&state(0, 1.0), 2.0).is_none());
    }
}
