# First process of a machine, in its own namespaces: sets up mounts and the network, then reaps orphans. The kernel ends all
# processes and mounts of the namespaces with it. Arguments: the machine's folder, the host name.
set -eu
folder=$1
hostname "$2"

# The machine's own state, at the paths that kubelet, CNI, containerd and others use by default.
for name in var/lib var/log run; do
	mkdir -p "$folder/$name"
	mount --bind "$folder/$name" "/$name"
done

# A kubelet insists on these settings. They look set here, and the host's kernel keeps its own.
mkdir -p "$folder/sysctl"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
	kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
	name=${setting%=*}
	[ -e "/proc/sys/$name" ] || continue
	file=$folder/sysctl/$(basename "$name")
	echo "${setting#*=}" >"$file"
	mount --bind "$file" "/proc/sys/$name"
done

# Volumes with mount propagation need shared mounts.
mount --make-rshared /

ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
: >"$folder/ready"

sleep infinity &
wait
