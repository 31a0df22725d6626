#!/bin/sh
# setup.sh OWN OTHER: underlay, VTEP address and VNI 100 of one leaf.
set -e
ip addr add 10.0.0.$1/30 dev eth1
ip addr add 10.255.0.$1/32 dev lo
ip route add 10.255.0.$2/32 via 10.0.0.$2
ip link add br100 address 02:00:00:64:0$1:fe type bridge
ip link add vxlan100 type vxlan id 100 dstport 4789 local 10.255.0.$1 nolearning
ip link set vxlan100 master br100
bridge link set dev vxlan100 learning off
ip link set eth2 master br100
ip link set br100 up
ip link set vxlan100 up
