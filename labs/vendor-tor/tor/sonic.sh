#!/bin/bash
# Ports, VLAN and VXLAN by SONiC's own commands; BGP by the FRR in it.
set -e
config loopback add Loopback0
config interface ip add Loopback0 10.255.0.3/32
config interface ip add Ethernet0 10.0.1.1/31
config interface ip add Ethernet4 10.0.2.1/31
config vlan add 100
config vlan member add -u 100 Ethernet8
for port in Ethernet0 Ethernet4 Ethernet8; do
	config interface startup "$port"
done
config vxlan add vtep 10.255.0.3
config vxlan evpn_nvo add nvo vtep
config vxlan map add vtep 100 10100
vtysh -f /tor.frr
