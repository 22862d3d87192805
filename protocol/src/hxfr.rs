//! HXFR v1, the predecessor's protocol. Placeholder doc until the module is written.
