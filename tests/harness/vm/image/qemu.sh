#!/bin/sh
# A newer Debian's QEMU with all that it loads, unpacked into a folder. Runs as root; called by emulator.rs, which says
# everything by environment:
#   SUITE ARCH MIRROR KEYRING APT_OPTIONS (one a line) PACKAGES (comma-separated)
#   OUT (folder for root/) OWNER (its uid:gid)
set -eu
umask 022
export LC_ALL=C.UTF-8

set -- --mode=root --variant=extract --architectures="$ARCH" --include="$PACKAGES" --format=directory \
	--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"'
[ -z "$KEYRING" ] || set -- "$@" --keyring="$KEYRING"
while IFS= read -r option; do
	[ -z "$option" ] || set -- "$@" --aptopt="$option"
done <<END
$APT_OPTIONS
END
mmdebstrap "$@" "$SUITE" "$OUT/root" ${MIRROR:+"$MIRROR"}
rm -rf "$OUT"/root/usr/share/doc "$OUT"/root/usr/share/locale "$OUT"/root/var
chown -R -h "$OWNER" "$OUT"
