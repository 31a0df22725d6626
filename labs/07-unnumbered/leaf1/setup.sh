#!/bin/sh
# The leaf is no VTEP. Its host speaks no IPv4 unicast, so the leaf has the route to the host's VTEP and announces it for it.
set -e
ip addr add fe80::1/64 dev eth1 nodad
ip route add 10.255.0.1/32 via inet6 fe80::2 dev eth1
