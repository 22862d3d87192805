#!/bin/sh
# Makes one image's disk: a Debian root, our files over it, an ext4 file of it. Runs as root; called by image.rs,
# which says everything by environment:
#   SUITE ARCH MIRROR KEYRING APT_OPTIONS (one a line) PACKAGES (comma-separated)
#   OVERLAYS (folders, one a line) FINISH (script) OUT (folder for the results) OWNER (uid:gid of the results)
#   KERNEL, MODULES (guest only: kernel package, file that lists modules)
set -eu
umask 022
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
here=$(dirname "$(readlink -f "$0")")
work=$(mktemp -d "$OUT/work.XXXXXX")
root=$work/root
mkdir "$root"
trap 'rm -rf "$work"' EXIT

# No man pages, no translations, no fsync: nobody reads them, and a half-made image is thrown away.
set -- --mode=root --format=directory --variant=essential --architectures="$ARCH" --include="$PACKAGES" \
	--dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"'
[ -z "$KEYRING" ] || set -- "$@" --keyring="$KEYRING"
while IFS= read -r option; do
	[ -z "$option" ] || set -- "$@" --aptopt="$option"
done <<EOF
$APT_OPTIONS
EOF
if [ -n "${KERNEL:-}" ]; then
	export KERNEL WORK="$work"
	set -- "$@" --customize-hook="$here/fetch-kernel.sh"
fi
mmdebstrap "$@" "$SUITE" "$root" ${MIRROR:+"$MIRROR"}

while IFS= read -r overlay; do
	[ ! -d "$overlay" ] || tar --owner=0 --group=0 -C "$overlay" -cf - . | tar -C "$root" -xf -
done <<EOF
$OVERLAYS
EOF
sh "$FINISH" "$root"
dpkg-query --admindir="$root/var/lib/dpkg" -W >"$OUT/packages.txt"
[ -z "${KERNEL:-}" ] || ROOT=$root WORK=$work "$here/install-kernel.sh"

# Sized by what is in it, some room for the guest's own writes; then cut to the blocks in use.
kilobytes=$(du -sk "$root" | cut -f1)
inodes=$(find "$root" | wc -l)
mke2fs -q -t ext4 -O ^has_journal -m 0 -N $((inodes + inodes / 10 + 1000)) -d "$root" "$OUT/disk.ext4" \
	$((kilobytes + kilobytes / 8 + 65536))k
if [ -z "${KERNEL:-}" ]; then
	resize2fs -M "$OUT/disk.ext4" >/dev/null 2>&1
fi
rm -rf "$work"
chown -R "$OWNER" "$OUT"
