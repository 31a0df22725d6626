#!/bin/sh
# The reflector is the router between the VTEPs as well.
set -e
ip addr add 10.255.0.254/32 dev lo
for n in 1 2 3 4 5; do
	ip addr add 10.0.$n.1/31 dev eth$n
	ip route add 10.255.0.$n/32 via 10.0.$n.0 src 10.255.0.254
done
