#!/bin/sh
# The leaf is no VTEP. Its host speaks no IPv4 unicast, so the leaf has the route to the host's VTEP and announces it for it.
set -e
sysctl -q -w net.ipv4.conf.eth1.proxy_arp=1 net.ipv4.neigh.eth1.proxy_delay=0
ip route add 10.255.0.1/32 dev eth1
