#!/bin/sh
# Second half of an image: a root from root.sh, our files over it, an ext4 file of it. Runs as root; called by image.rs,
# which says everything by environment:
#   ROOT_TAR OVERLAYS (folders, one a line) FINISH (script) OUT (folder for the results) OWNER (their uid:gid)
#   KERNEL_DEB, MODULES (guest only: from root.sh, and the list of modules to keep)
set -eu
umask 022
export LC_ALL=C.UTF-8 PATH="$PATH:/usr/sbin:/sbin"
here=$(dirname "$(readlink -f "$0")")
work=$(mktemp -d "$OUT/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir "$root"

zstd -q -dc "$ROOT_TAR" | tar -C "$root" --numeric-owner --xattrs -xf -
while IFS= read -r overlay; do
	[ ! -d "$overlay" ] || tar --owner=0 --group=0 -C "$overlay" -cf - . | tar -C "$root" -xf -
done <<EOF
$OVERLAYS
EOF
sh "$FINISH" "$root"
dpkg-query --admindir="$root/var/lib/dpkg" -W >"$OUT/packages.txt"
[ -z "${KERNEL_DEB:-}" ] || ROOT=$root WORK=$work "$here/install-kernel.sh"

# Sized by what is in it; a guest's root with room to write, the others cut to the blocks in use.
kilobytes=$(du -sk "$root" | cut -f1)
inodes=$(find "$root" | wc -l)
mke2fs -q -t ext4 -O ^has_journal -m 0 -N $((inodes + inodes / 10 + 1000)) -d "$root" "$OUT/disk.ext4" \
	$((kilobytes + kilobytes / 8 + 65536))k
[ -n "${KERNEL_DEB:-}" ] || resize2fs -M "$OUT/disk.ext4" >/dev/null 2>&1
rm -rf "$work"
chown -R "$OWNER" "$OUT"
