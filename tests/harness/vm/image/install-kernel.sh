#!/bin/sh
# Puts the modules that $MODULES lists into $ROOT, and what boot needs into $OUT/boot: vmlinuz, busybox, modules/.
set -eu
dpkg-deb -x "$KERNEL_DEB" "$WORK/kernel"
release=$(basename "$WORK"/kernel/boot/vmlinuz-* | sed 's/^vmlinuz-//')
mkdir -p "$OUT/boot/modules" "$ROOT/usr/lib/modules" "$ROOT/images" "$ROOT/payload"
cp "$WORK/kernel/boot/vmlinuz-$release" "$OUT/boot/vmlinuz"
cp "$ROOT/usr/bin/busybox" "$OUT/boot/busybox"
mv "$(dirname "$(find "$WORK/kernel" -name modules.order)")" "$ROOT/usr/lib/modules/$release"
chroot "$ROOT" depmod "$release"

# With what each depends on, in the order in which they load.
files() {
	sed -n "/^\[$1\]/,/^\[/p" "$MODULES" | grep -v '^[[#]' | grep . | while read -r module; do
		chroot "$ROOT" modprobe --set-version "$release" --show-depends "$module" |
			sed -n 's/^insmod \([^ ]*\).*/\1/p'
	done | awk '!seen[$0]++'
}
files initramfs >"$WORK/initramfs"
files root >"$WORK/root-modules"

number=10
while read -r file; do
	name=$(basename "$file" | sed 's/\.ko.*//')
	xz -dc "$ROOT$file" >"$OUT/boot/modules/$number-$name.ko"
	number=$((number + 1))
done <"$WORK/initramfs"

find "$ROOT/usr/lib/modules/$release/kernel" -name '*.ko*' | sed "s|^$ROOT||;s|^/usr/lib/|/lib/|" | sort >"$WORK/all"
sed 's|^/usr/lib/|/lib/|' "$WORK/initramfs" "$WORK/root-modules" | sort -u >"$WORK/kept"
comm -23 "$WORK/all" "$WORK/kept" | sed "s|^|$ROOT/usr|" | xargs -r -d '\n' rm
find "$ROOT/usr/lib/modules/$release" -type d -empty -delete
chroot "$ROOT" depmod "$release"
