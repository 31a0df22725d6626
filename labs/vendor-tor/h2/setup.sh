#!/bin/sh
# Underlay, VTEP address and VNI of host 2.
set -e
# Where the kernel filters bridged frames, VXLAN's inner packets must not go through iptables.
for f in /proc/sys/net/bridge/bridge-nf-call-*; do
	[ ! -e "$f" ] || echo 0 >"$f"
done

ip addr add 10.255.0.2/32 dev lo
# evpnlab leaves the switch out, and the link to it.
if ip link show eth1 >/dev/null 2>&1; then
	ip addr add 10.0.2.0/31 dev eth1
	ip route add default via 10.0.2.1 src 10.255.0.2
fi

# VNI 10100: a bridge, a VXLAN device that learns nothing by itself, the VM's port. The bridge's MAC is pinned: when it
# changes, the kernel drops every neighbour entry.
ip link add br10100 address 02:00:00:64:02:fe type bridge
ip link set br10100 addrgenmode none
ip link add vxlan10100 type vxlan id 10100 dstport 4789 local 10.255.0.2 nolearning
ip link set vxlan10100 addrgenmode none mtu 1500 master br10100
bridge link set dev vxlan10100 learning off neigh_suppress off
ip link set eth2 master br10100
ip link set br10100 up
ip link set vxlan10100 up
