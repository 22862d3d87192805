//! Preloaded into the VMM: reads virglrenderer's resources for their owners.
