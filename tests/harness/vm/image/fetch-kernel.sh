#!/bin/sh
# mmdebstrap hook: downloads the kernel that the package $KERNEL depends on, to $OUT/kernel.deb. Not installed as a package:
# that would bring initramfs-tools, and minutes of building an initramfs under emulation, and ours is a different one.
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$OUT"
package=$(apt-cache depends "$KERNEL" | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
apt-get -qq -o APT::Sandbox::User=root download "$package"
mv linux-image-*.deb kernel.deb
