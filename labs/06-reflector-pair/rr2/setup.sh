#!/bin/sh
# Reflector 2 is a router between the hosts as well.
set -e
ip addr add 10.255.0.252/32 dev lo
for n in 1 2; do
	ip addr add 10.0.2$n.1/31 dev eth$n
	ip route add 10.255.0.$n/32 via 10.0.2$n.0 src 10.255.0.252
done
