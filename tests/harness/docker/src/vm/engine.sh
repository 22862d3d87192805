#!/bin/sh
# Runs the Docker Engine of a VM of the lab. Programs, images and configuration are in the payload.
#
#   engine start            starts containerd and dockerd; returns when the engine answers
#   engine load             loads the payload's images; their content is mounted, not copied
#   engine docker ARG…      runs docker in a folder like a clone of the repository
set -eu
bin=/payload/engine
export PATH=$bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin

daemon() {
	name=$1
	shift
	setsid "$name" "$@" </dev/null >>"/var/log/$name.log" 2>&1 &
	echo $! >"/run/$name.pid"
}

# Waits up to 5 minutes. Looks rarely, as each look takes time of an emulated processor.
await() {
	name=$1
	shift
	deadline=$(($(date +%s) + 300))
	until "$@" >/dev/null 2>&1; do
		if [ "$(date +%s)" -gt $deadline ] || ! kill -0 "$(cat "/run/$name.pid")"; then
			echo "engine: $name did not come up" >&2
			tail -n 20 "/var/log/$name.log" >&2
			exit 1
		fi
		sleep 0.5
	done
}

case $1 in
start)
	modprobe -a overlay bridge br_netfilter veth nf_conntrack nft_compat xt_comment xt_mark xt_conntrack xt_nat xt_MASQUERADE xt_addrtype xt_tcpudp
	echo 1 >/proc/sys/net/ipv4/ip_forward
	# The guest has no udev, which would set groups and modes.
	until [ -c /dev/dri/renderD128 ]; do sleep 0.1; done
	chgrp 105 /dev/dri/renderD*
	chgrp 44 /dev/dri/card*
	chmod 660 /dev/dri/renderD* /dev/dri/card*
	# The guest's root disk is small, and its content need not survive.
	mkdir -p /var/lib/docker /var/lib/containerd /usr/local/lib/docker/cli-plugins
	mount -t tmpfs -o size=1g,mode=711 docker /var/lib/docker
	mount -t tmpfs -o size=1g,mode=711 containerd /var/lib/containerd
	ln -sf "$bin/compose" /usr/local/lib/docker/cli-plugins/docker-compose
	daemon containerd --config "$bin/containerd.toml"
	await containerd [ -S /run/containerd/containerd.sock ]
	daemon dockerd --config-file "$bin/daemon.json"
	await dockerd docker version
	;;
load)
	docker load --quiet --input "$bin/images.tar"
	sh "$bin/mount-layers.sh"
	;;
docker)
	shift
	. /run/engine.env
	cd /payload/desktopstream
	exec docker "$@"
	;;
*) echo "engine: unknown command $1" >&2 && exit 2 ;;
esac
