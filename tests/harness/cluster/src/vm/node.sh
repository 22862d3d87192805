#!/bin/sh
# Runs the daemons of a Kubernetes node in a VM. Programs and images are in the payload, configuration files beside this script.
#
#   node network MAC ADDRESS/PREFIX GATEWAY   configures the interface to the cluster's network, and the GPU's device files
#   node start|stop containerd|kubelet|kube-proxy
#   node import                               imports the payload's images; their content is mounted, not copied
set -eu
bin=/payload/node
here=${0%/*}
export PATH=$bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
socket=/run/containerd/containerd.sock

command_of() {
	case $1 in
	containerd) echo "containerd --config=$here/containerd.toml" ;;
	kubelet) echo "kubelet --kubeconfig=$here/kubelet.kubeconfig --config=$here/kubelet.json --node-ip=$(cat "$here/address") --hostname-override=$(cat "$here/name")" ;;
	kube-proxy) echo "kube-proxy --config=$here/kube-proxy.json" ;;
	*) echo "node: unknown daemon $1" >&2 && exit 2 ;;
	esac
}

case $1 in
network)
	for link in /sys/class/net/*; do
		[ "$(cat "$link/address")" = "$2" ] && name=${link##*/}
	done
	ip address add "$3" dev "${name:?no interface has that hardware address}"
	ip link set "$name" up
	# The lab connects through the other interface, whose peers are on the same link and need no route.
	ip route replace default via "$4"
	modprobe -a overlay br_netfilter veth nf_conntrack nft_compat xt_comment xt_mark xt_conntrack xt_nat xt_MASQUERADE xt_statistic xt_addrtype
	echo 1 >/proc/sys/net/ipv4/ip_forward
	hostname "$(cat "$here/name")"
	# The guest has no udev, which would set groups and modes.
	until [ -c /dev/dri/renderD128 ]; do sleep 0.1; done
	chgrp 105 /dev/dri/renderD*
	chgrp 44 /dev/dri/card*
	chmod 660 /dev/dri/renderD* /dev/dri/card*
	mkdir -p /var/lib/kubelet /var/lib/containerd
	mount --bind /var/lib/kubelet /var/lib/kubelet
	mount --make-rshared /
	;;
start)
	# shellcheck disable=SC2046 # the command line is split into words on purpose
	setsid $(command_of "$2") </dev/null >>"/var/log/$2.log" 2>&1 &
	echo $! >"/run/$2.pid"
	;;
stop)
	pid=$(cat "/run/$2.pid")
	kill "$pid"
	while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
	;;
import)
	ctr --address $socket -n k8s.io images import "$bin/images.tar" >/dev/null
	sh "$bin/mount-layers.sh"
	;;
esac
