#!/bin/sh
# The spine is no VTEP: it carries routes and packets.
set -e
ip addr add 10.1.1.1/31 dev eth1
ip addr add 10.1.2.1/31 dev eth2
