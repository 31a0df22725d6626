#!/bin/sh
# Underlay, VTEP address and VNI of host 1. The link has no addresses but the link-local ones that the kernel gives it.
set -e
# Where the kernel filters bridged frames, VXLAN's inner packets must not go through iptables.
for f in /proc/sys/net/bridge/bridge-nf-call-*; do
	[ ! -e "$f" ] || echo 0 >"$f"
done

ip addr add 10.255.0.1/32 dev lo
ip route add default src 10.255.0.1 dev eth1 # the leaf answers ARP for all that it has routes to

# VNI 100: a bridge, a VXLAN device that learns nothing by itself, the VM's port. The bridge's MAC is pinned: when it
# changes, the kernel drops every neighbour entry.
ip link add br100 address 02:00:00:64:01:fe type bridge
ip link set br100 addrgenmode none
ip link add vxlan100 type vxlan id 100 dstport 4789 local 10.255.0.1 nolearning
ip link set vxlan100 addrgenmode none mtu 1500 master br100
bridge link set dev vxlan100 learning off neigh_suppress off
ip link set eth2 master br100
ip link set br100 up
ip link set vxlan100 up
