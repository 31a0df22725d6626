#!/bin/sh
# Underlay, VTEP address and VNIs of the ToR.
set -e
# Where the kernel filters bridged frames, VXLAN's inner packets must not go through iptables.
for f in /proc/sys/net/bridge/bridge-nf-call-*; do
	[ ! -e "$f" ] || echo 0 >"$f"
done

ip addr add 10.0.3.0/31 dev eth1
ip addr add 10.255.0.3/32 dev lo
# Not a default route: FRR would not look up the next hops of EVPN routes through one.
ip route add 10.255.0.0/24 via 10.0.3.1 src 10.255.0.3

# VNI 100: a bridge, a VXLAN device that learns nothing by itself, the VMs' ports. The bridge's MAC is pinned: when it
# changes, the kernel drops every neighbour entry. The addresses let it learn the IPs of its VMs.
ip link add br100 address 02:00:00:64:03:fe type bridge
ip link add vxlan100 type vxlan id 100 dstport 4789 local 10.255.0.3 nolearning
ip link set vxlan100 addrgenmode none mtu 1500 master br100
bridge link set dev vxlan100 learning off neigh_suppress off
ip link set eth2 master br100
ip addr add 172.16.100.253/24 dev br100
ip addr add fd00:100::253/64 dev br100 nodad
ip link set br100 up
ip link set vxlan100 up

ip link add br200 address 02:00:00:c8:03:fe type bridge
ip link add vxlan200 type vxlan id 200 dstport 4789 local 10.255.0.3 nolearning
ip link set vxlan200 addrgenmode none mtu 1500 master br200
bridge link set dev vxlan200 learning off neigh_suppress off
ip link set eth3 master br200
ip addr add 172.16.200.253/24 dev br200
ip addr add fd00:200::253/64 dev br200 nodad
ip link set br200 up
ip link set vxlan200 up
