#!/bin/sh
# Moves the VM to where its interface eth$1 leads: 1 is h1, 2 h2, 3 t1, 4 t2. The port left behind loses its carrier, as
# the tap of a VM that has gone does; the kernel announces the VM's addresses at the new place (arp_notify, ndisc_notify).
set -e
for n in 1 2 3 4; do
	[ "$n" = "$1" ] || ip link set eth$n down
done
for n in 1 2 3 4; do
	ip addr flush dev eth$n
done
ip link set eth$1 down address 02:00:00:64:09:01
ip addr add 172.16.100.9/24 dev eth$1
ip addr add fd00:100::9/64 dev eth$1 nodad
ip link set eth$1 up
