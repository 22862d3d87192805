#!/bin/sh
# Last step of every image: creates the user of desktops and sidecars, and removes files that no container needs.
# Usage: finish.sh [ROOT], by default /. Idempotent.
set -eu
root=${1:-/}
root=${root%/}

# GNOME Shell and D-Bus require a passwd entry for UID 1000.
if ! grep -q '^desktop:' "$root/etc/passwd"; then
	echo 'desktop:x:1000:1000:Desktop:/home/desktop:/bin/bash' >>"$root/etc/passwd"
	echo 'desktop:x:1000:' >>"$root/etc/group"
fi
mkdir -p "$root/home/desktop" "$root/run/desktop" "$root/opt/desktopstream"
chown 1000:1000 "$root/home/desktop" "$root/run/desktop"
chmod 700 "$root/run/desktop"

# Xwayland, which runs as the user, creates the folder of its sockets.
rm -rf "$root/tmp/.X11-unix"

# Compile the GSettings overrides among our files.
for compiler in "$root"/usr/lib/*/glib-2.0/glib-compile-schemas; do
	[ ! -x "$compiler" ] || chroot "${root:-/}" "${compiler#"$root"}" --strict /usr/share/glib-2.0/schemas
done

# GStreamer plugin registry, for GST_REGISTRY: a scan takes a minute under emulation, and the user's home folder may be
# read-only.
if [ -x "$root/usr/bin/gst-inspect-1.0" ]; then
	mkdir -p "$root/usr/share/desktopstream"
	chroot "${root:-/}" env GST_REGISTRY=/usr/share/desktopstream/gstreamer-registry.bin GST_REGISTRY_FORK=no \
		/usr/bin/gst-inspect-1.0 >/dev/null 2>&1
	# gst-inspect creates it with mode 0600.
	chmod 644 "$root/usr/share/desktopstream/gstreamer-registry.bin"
fi

# Copyright files are kept, as the licences require.
find "$root/usr/share/doc" -mindepth 1 ! -name copyright ! -type d -delete 2>/dev/null || true
for junk in usr/share/man usr/share/info usr/share/locale usr/share/lintian usr/share/bug usr/share/gtk-doc \
	usr/share/help usr/share/i18n usr/share/plymouth usr/share/desktop-base \
	var/lib/apt/lists var/cache/apt var/cache/debconf var/log; do
	[ ! -d "$root/$junk" ] || find "$root/$junk" -mindepth 1 -delete
done
# Configuration of the build environment.
rm -f "$root/etc/apt/sources.list" "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/resolv.conf" "$root/etc/hostname"
: >"$root/etc/machine-id"
