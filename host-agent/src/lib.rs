//! Pairs sessions with VMs, encodes their pictures.
