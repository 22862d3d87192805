#!/bin/sh
# First half of an image: its packages, as a tar of a Debian root. Takes minutes, so it is kept apart from what changes often.
# Runs as root; called by image.rs, which says everything by environment:
#   SUITE ARCH MIRROR KEYRING APT_OPTIONS (one a line) PACKAGES (comma-separated)
#   OUT (folder for root.tar.zst) OWNER (its uid:gid)
#   KERNEL (guest only: a kernel package, for kernel.deb)
set -eu
umask 022
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 OUT KERNEL="${KERNEL:-}"
here=$(dirname "$(readlink -f "$0")")

# No man pages, no translations, and no fsync: an incomplete image is discarded.
set -- --mode=root --variant=essential --architectures="$ARCH" --include="$PACKAGES" \
	--dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"'
[ -z "$KEYRING" ] || set -- "$@" --keyring="$KEYRING"
while IFS= read -r option; do
	[ -z "$option" ] || set -- "$@" --aptopt="$option"
done <<EOF
$APT_OPTIONS
EOF
[ -z "$KERNEL" ] || set -- "$@" --customize-hook="$here/fetch-kernel.sh"
mmdebstrap "$@" "$SUITE" "$OUT/root.tar" ${MIRROR:+"$MIRROR"}
zstd -q -1 -T0 --rm "$OUT/root.tar"
chown -R "$OWNER" "$OUT"
