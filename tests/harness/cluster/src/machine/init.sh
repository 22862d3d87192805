# First process of a machine, in namespaces of its own: makes it look like one, then reaps what is left to it. All
# that runs here dies with it, and all mounts go. Arguments: the machine's folder, its name.
set -eu
folder=$1
hostname "$2"

# Its own state, where programs have it without asking: kubelet, CNI, containerd, logs, locks.
for name in var/lib var/log run; do
	mkdir -p "$folder/$name"
	mount --bind "$folder/$name" "/$name"
done

# What a kubelet would set for the whole kernel, it finds set.
mkdir -p "$folder/sysctl"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
	kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
	name=${setting%=*}
	[ -e "/proc/sys/$name" ] || continue
	file=$folder/sysctl/$(basename "$name")
	echo "${setting#*=}" >"$file"
	mount --bind "$file" "/proc/sys/$name"
done

# Volumes may ask for propagation.
mount --make-rshared /

ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
: >"$folder/ready"

sleep infinity &
wait
