#!/bin/sh
# Underlay, VTEP address and VNI 100 of VTEP number $1: the same for evpnd and FRR.
set -e
n=$1
# Where the kernel filters bridged frames, VXLAN's inner packets must not go through iptables.
for f in /proc/sys/net/bridge/bridge-nf-call-*; do
	[ ! -e "$f" ] || echo 0 >"$f"
done

ip addr add 10.0.$n.0/31 dev eth1
ip addr add 10.255.0.$n/32 dev lo
# Not a default route: FRR would not look up the next hops of EVPN routes through one.
ip route add 10.255.0.0/24 via 10.0.$n.1 src 10.255.0.$n

# A bridge without an address, a VXLAN device that learns nothing by itself, the VM's port. The bridge's MAC is pinned: when
# it changes, the kernel drops every neighbour entry.
ip link add br100 address 02:00:00:64:0$n:fe type bridge
ip link set br100 addrgenmode none
ip link add vxlan100 type vxlan id 100 dstport 4789 local 10.255.0.$n nolearning
ip link set vxlan100 addrgenmode none mtu 1500 master br100
bridge link set dev vxlan100 learning off neigh_suppress off
ip link set eth2 addrgenmode none
ip link set eth2 master br100
ip link set br100 up
ip link set vxlan100 up
