#!/bin/sh
# What a Dockerfile makes of an image's folder, as the lab makes its disk: packages, our files over them, finish.sh.
# Usage: install.sh NAME. A base that has all packages already needs no network.
set -eu
here=$(dirname "$(dirname "$(readlink -f "$0")")")
list=$here/$1/packages
[ -e "$list" ] || list=$here/$1.packages

lacking=
for package in $(sed 's/#.*//' "$list"); do
	case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
	installed) ;;
	*) lacking="$lacking $package" ;;
	esac
done
if [ -n "$lacking" ]; then
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2086 # a list of words is what is meant
	apt-get update && apt-get install -y --no-install-recommends $lacking || {
		echo "install.sh: this base lacks$lacking, and no mirror can be reached: take another --build-arg BASE" >&2
		exit 1
	}
fi

for root in "$here/common/root" "$here/$1/root"; do
	[ ! -d "$root" ] || cp -R "$root/." /
done
# While an image is built its /etc/resolv.conf is a mount, which can't be removed and stays out of the image.
sed '/^rm -f/s| "$root/etc/resolv.conf"||' "$here/common/finish.sh" | sh -s /
