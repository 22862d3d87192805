#!/bin/sh
# Sees to it that this machine runs programs of $ARCH, by an emulator that the kernel calls for them: images of another
# processor need it for their packages' scripts. Runs as root before the other scripts; called by image.rs. Does nothing when
# they run already.
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
die() {
	echo "emulate: $*" >&2
	exit 1
}

command -v arch-test >/dev/null || die "no arch-test: ./x installs it when its arguments name --arch $ARCH"
! arch-test "$ARCH" >/dev/null 2>&1 || exit 0
case $ARCH in
amd64) format=qemu-x86_64 ;;
arm64) format=qemu-aarch64 ;;
*) die "no emulator known for $ARCH" ;;
esac
registered=/proc/sys/fs/binfmt_misc
if [ ! -e "$registered/register" ]; then
	modprobe -q binfmt_misc 2>/dev/null || true
	mount -t binfmt_misc binfmt_misc "$registered" ||
		die "can't mount binfmt_misc, which $ARCH programs need: in a container, run" \
			"'mount -t binfmt_misc binfmt_misc $registered' on its host; else use a kernel with CONFIG_BINFMT_MISC"
fi
[ -e "$registered/$format" ] || update-binfmts --enable "$format" ||
	die "can't register $format: ./x installs qemu-user-static and binfmt-support when its arguments name --arch $ARCH"
arch-test "$ARCH" >/dev/null || die "$format is registered, yet this machine doesn't run $ARCH programs:" \
	"look at $registered/$format and at 'update-binfmts --display $format'"
