//! The session bus of a desktop, and calls of GNOME Shell's interfaces on it.

use std::path::Path;
use std::time::Duration;

use zbus::message::Type;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedVariant};

/// Time limit for connecting to the bus.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for one reply from the shell. GNOME Shell owns its bus names long before it processes calls, because
/// it loads its own code on the same thread; earlier retries would only queue more calls.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(90);

/// Destination of a D-Bus call.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Bus name.
    pub service: &'a str,
    /// Path of the object.
    pub path: &'a str,
    /// Interface of the object.
    pub interface: &'a str,
}

const BUS: Target<'static> = Target {
    service: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// Address of the session bus: `bus` in the runtime directory, else the environment's.
pub fn address(runtime_dir: &Path) -> String {
    let socket = runtime_dir.join("bus");
    let environment = std::env::var("DBUS_SESSION_BUS_ADDRESS").ok();
    default_address(&socket, socket.exists(), environment)
}

fn default_address(socket: &Path, exists: bool, environment: Option<String>) -> String {
    match environment {
        Some(address) if !exists => address,
        _ => format!("unix:path={}", socket.display()),
    }
}

/// Connects to the bus at `address`.
///
/// # Errors
/// The reason, if the bus does not answer, or if no program owns the name `service`.
pub async fn connect(address: &str, service: &str) -> Result<Connection, String> {
    let connecting = zbus::connection::Builder::address(address).method_timeout(REPLY_TIMEOUT).build();
    let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| format!("no reply from the bus within {CONNECT_TIMEOUT:?}"))?
        .map_err(|error| error.to_string())?;
    let owned: bool = call(&connection, BUS, "NameHasOwner", &(service,))
        .await
        .and_then(|reply| reply.body().deserialize())
        .map_err(|error| error.to_string())?;
    if owned { Ok(connection) } else { Err("the bus name has no owner".to_owned()) }
}

/// Calls a method and waits for its reply.
///
/// # Errors
/// The reply is an error, or takes longer than [`REPLY_TIMEOUT`].
pub async fn call<B>(
    connection: &Connection,
    target: Target<'_>,
    method: &str,
    body: &B,
) -> zbus::Result<Message>
where
    B: serde::Serialize + zbus::DynamicType,
{
    connection.call_method(Some(target.service), target.path, Some(target.interface), method, body).await
}

/// Reads a property.
///
/// # Errors
/// Those of [`call`].
pub async fn property(connection: &Connection, target: Target<'_>, name: &str) -> zbus::Result<OwnedVariant> {
    let properties = Target { interface: "org.freedesktop.DBus.Properties", ..target };
    call(connection, properties, "Get", &(target.interface, name))
        .await
        .and_then(|reply| reply.body().deserialize())
}

/// Subscribes to all signals of `service`.
///
/// # Errors
/// The bus refuses the match rule.
pub async fn signals(connection: &Connection, service: &str) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder().msg_type(Type::Signal).sender(service).build()?;
    MessageStream::for_match_rule(rule, connection, None).await
}

/// True for a signal `member` of the object at `path`.
pub fn is_signal(message: &Message, path: &str, member: &str) -> bool {
    let header = message.header();
    header.path().is_some_and(|found| found.as_str() == path)
        && header.member().is_some_and(|found| found.as_str() == member)
}

/// Path of `org.gnome.Mutter.DisplayConfig`.
pub const DISPLAY_CONFIG: &str = "/org/gnome/Mutter/DisplayConfig";

/// True for GNOME Shell's signal of a change of monitors.
pub fn is_monitor_change(message: &Message) -> bool {
    is_signal(message, DISPLAY_CONFIG, "MonitorsChanged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_bus_of_the_runtime_directory_precedes_the_environments() {
        let bus = Path::new("/run/desktop/bus");
        let environment = Some("unix:path=/elsewhere".to_owned());
        assert_eq!(default_address(bus, true, environment.clone()), "unix:path=/run/desktop/bus");
        assert_eq!(default_address(bus, false, environment), "unix:path=/elsewhere");
        assert_eq!(default_address(bus, false, None), "unix:path=/run/desktop/bus");
    }
}
