#!/bin/sh
# Builds an image from its folder, as the lab builds its disks: installs packages, copies our files, runs finish.sh.
# Usage: install.sh NAME. Needs no network if the base image has all packages.
set -eu
here=$(dirname "$(dirname "$(readlink -f "$0")")")
list=$here/$1/packages
[ -e "$list" ] || list=$here/$1.packages
# A variant has the packages and files of another image, too.
base=
[ ! -e "$here/$1/base" ] || base=$(cat "$here/$1/base")

lacking=
for package in $(cat ${base:+"$here/$base/packages"} "$list" | sed 's/#.*//'); do
	case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
	installed) ;;
	*) lacking="$lacking $package" ;;
	esac
done
if [ -n "$lacking" ]; then
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2086 # word splitting is intended
	apt-get update && apt-get install -y --no-install-recommends $lacking || {
		echo "install.sh: cannot install$lacking; check the network, or set --build-arg BASE to an image that has them" >&2
		exit 1
	}
fi

for root in "$here/common/root" ${base:+"$here/$base/root"} "$here/$1/root"; do
	[ ! -d "$root" ] || cp -R "$root/." /
done
# During a build, /etc/resolv.conf is a mount: it cannot be removed and is not part of the image.
sed '/^rm -f/s| "$root/etc/resolv.conf"||' "$here/common/finish.sh" | sh -s /
