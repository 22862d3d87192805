#!/bin/sh
# Mounts the folders that layers only name over them, in containerd's snapshots; run in a VM that has imported the images.tar
# beside it (image.rs: write_for_vm).
set -eu
for marker in /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs/.mounted-from; do
	[ -e "$marker" ] || continue
	mount --bind "$(cat "$marker")" "${marker%/*}"
done
