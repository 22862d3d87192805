#!/bin/sh
# enter.sh ROOT PROGRAM ARG…: the programs and libraries of ROOT, everything else of this machine's and where it was.
# Called in a mount namespace of its own. What is to be preloaded into PROGRAM, and only there, is in QEMU_PRELOAD.
set -eu
root=$1
shift
for folder in /*; do
	case $folder in
	/bin | /sbin | /usr | /lib* | /etc | /var | /boot) continue ;;
	esac
	[ -d "$folder" ] && [ ! -L "$folder" ] || continue
	mkdir -p "$root$folder"
	mount --rbind "$folder" "$root$folder"
done
preload=${QEMU_PRELOAD:-}
unset QEMU_PRELOAD
exec chroot "$root" env --chdir="$PWD" ${preload:+LD_PRELOAD="$preload"} "$@"
