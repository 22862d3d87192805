#!/bin/sh
# finish.sh for a root of ARM programs, in a chroot without /proc and /sys, or with an x86 machine's. GStreamer's inference
# plugin looks there for its processor and, finding none, takes the whole listing of plugins down: no container needs it.
# Usage: finish-arm64.sh ROOT
set -eu
rm -f "$1"/usr/lib/*/gstreamer-1.0/libgstonnx.so
exec sh "$(dirname "$0")/../../../docker/common/finish.sh" "$1"
