#!/bin/sh
# A sysroot: headers and libraries of dev packages for $ARCH, unpacked and never run, so that it needs no emulator. Runs as
# root; called by sysroot.rs, which says everything by environment:
#   SUITE ARCH MIRROR KEYRING APT_OPTIONS (one a line) PACKAGES (comma-separated)
#   OUT (folder for root/) OWNER (its uid:gid)
set -eu
umask 022
export LC_ALL=C.UTF-8
root=$OUT/root

set -- --mode=root --variant=extract --architectures="$ARCH" --include="$PACKAGES" --format=directory \
	--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"'
[ -z "$KEYRING" ] || set -- "$@" --keyring="$KEYRING"
while IFS= read -r option; do
	[ -z "$option" ] || set -- "$@" --aptopt="$option"
done <<END
$APT_OPTIONS
END
mmdebstrap "$@" "$SUITE" "$root" ${MIRROR:+"$MIRROR"}

# Nothing links against a GPU driver's compiler, and it is the biggest file.
rm -f "$root"/usr/lib/*/libLLVM*
find "$root" -mindepth 1 -maxdepth 1 ! -name usr ! -name lib -exec rm -rf {} +
find "$root/usr" -mindepth 1 -maxdepth 1 ! -name include ! -name lib ! -name share -exec rm -rf {} +
find "$root/usr/share" -mindepth 1 -maxdepth 1 ! -name pkgconfig -exec rm -rf {} +
[ -e "$root/lib" ] || ln -s usr/lib "$root/lib"
# Links that begin at a root begin at this one.
find "$root" -type l -lname '/*' | while read -r link; do
	ln -sfn "$root$(readlink "$link")" "$link"
	ln -sfnr "$(readlink "$link")" "$link"
done
chown -R -h "$OWNER" "$OUT"
