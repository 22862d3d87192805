//! The shared-memory ring of pictures between tap and host-agent.
