#!/bin/sh
# Mounts folders over the placeholder layers in containerd's snapshots. Run in a VM after the import of the images.tar beside
# this script (image.rs, write_for_vm).
set -eu
for marker in /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs/.mounted-from; do
	[ -e "$marker" ] || continue
	mount --bind "$(cat "$marker")" "${marker%/*}"
done
