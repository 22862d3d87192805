#!/bin/sh
# Makes a VM a node: what runs in it, by name. The programs are the payload's, the files come with this one.
#
#   node cable MAC ADDRESS/PREFIX GATEWAY   its place in the cluster's network
#   node start|stop containerd|kubelet|kube-proxy
#   node import                             the payload's images; what they are made of is mounted, not copied
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
	*) echo "node: no daemon $1" >&2 && exit 2 ;;
	esac
}

case $1 in
cable)
	for link in /sys/class/net/*; do
		[ "$(cat "$link/address")" = "$2" ] && name=${link##*/}
	done
	ip address add "$3" dev "${name:?no interface has that hardware address}"
	ip link set "$name" up
	# The lab's own commands come over the other cable, whose peers need no route.
	ip route replace default via "$4"
	modprobe -a overlay br_netfilter veth nf_conntrack nft_compat xt_comment xt_mark xt_conntrack xt_nat xt_MASQUERADE xt_statistic xt_addrtype
	echo 1 >/proc/sys/net/ipv4/ip_forward
	hostname "$(cat "$here/name")"
	# As udev does, which is not here.
	until [ -c /dev/dri/renderD128 ]; do sleep 0.1; done
	chgrp 105 /dev/dri/renderD*
	chgrp 44 /dev/dri/card*
	chmod 660 /dev/dri/renderD* /dev/dri/card*
	mkdir -p /var/lib/kubelet /var/lib/containerd
	mount --bind /var/lib/kubelet /var/lib/kubelet
	mount --make-rshared /
	;;
start)
	# shellcheck disable=SC2046 # words are what is meant
	setsid $(command_of "$2") </dev/null >>"/var/log/$2.log" 2>&1 &
	echo $! >"/run/$2.pid"
	;;
stop)
	kill "$(cat "/run/$2.pid")"
	;;
import)
	ctr --address $socket -n k8s.io images import "$bin/images.tar" >/dev/null
	sh "$bin/mount-layers.sh"
	;;
esac
