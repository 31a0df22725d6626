// Package evpn takes every decision of an EVPN VXLAN speaker and holds all its state: facts in, ops out. It has no I/O,
// goroutine, clock, lock or logger; its owner hands facts to Core.Handle and carries out what Core.Flush returns.
//
// # Words
//
//	VTEP       the host that encapsulates: we, or a remote one (PE and NVE in the RFCs)
//	MAC-VRF    one VNI with its MACs, host addresses and flood list (macVRF)
//	path       one route as one peer sent it
//	candidate  a path that a MAC-VRF imports, or a local host: a claim to a MAC
//	owner      the VTEP whose candidate a MAC follows
//	slot       one kernel entry: what is wanted of it, and what we believe is there
//	ours       made by this daemon, in this life or an earlier one; everything else is foreign and never touched
//	adopted    left by an earlier life, and not wanted by any route yet; kept while the core is holding
//	refused    imported, but giving no forwarding state: accept.go says why
//	duplicate  a MAC or IP that moves so often that two hosts must have it; frozen while remotes have no say (duplicate.go)
//	witness    who knows an IP of a local host: the kernel's neighbour table, a frame of the host, or DHCP
//	framed     known from a frame, also one of DHCP
//	yielded    given up to a remote VTEP although the row on the local port may still be there
//	fixed      of a MAC or binding: sticky, a gateway's, or immutable; no number takes it away
//	asked      sent a unicast ARP request or neighbour solicitation, by which a silent host shows that it is there
//	left       behind, perhaps: a host whose row has gone, which does not say that it has
//	claimant   a MAC that wants an IP of another local host, which is asked first
//
// # The way of a fact
//
// Handle stores it and marks what it touches: rib.go for peers and their paths, accept.go for the MAC-VRFs that import
// a path, macvrf.go for devices and configuration, mobility.go, binding.go, frame.go and claimant.go for local hosts, diff.go
// for the kernel. Flush decides what is marked (mobility.go, with choose.go), says it to peers (advertise.go), wants it of
// the kernel (forward.go) and hands out what is not there yet, in batches of which two are under way at most. What
// became of a batch comes back as a fact. snapshot.go copies out, for those who look; history.go remembers what happened,
// changes.go which rows changed, and explain.go says why things are as they are.
//
// # Invariants
//
// The first two are properties over random facts in property_test.go; that all cores of a network agree on every owner once
// it is quiet, and say no more than four routes for a change of a local row, is played through in simschedule_test.go.
//
//   - The same paths, hosts and devices end in the same wanted state, in whatever order they came; the same facts in
//     the same order give the same outputs.
//   - Once all is quiet the kernel holds what is wanted, whatever was refused, lost or changed by others meanwhile, and
//     entries that are not ours were never overwritten or removed.
//   - A VTEP is written before the MACs behind it and removed after them.
//   - What is withdrawn is forgotten: nothing here outlives the facts it came from, except the numbers of RDs. (The
//     place of a binding from a frame in the queue of probes outlives it by probeAfter; where a host was is known for as
//     long as a remote VTEP has its MAC, or it is asked.)
//   - Frames are written by hosts: what they make us remember is bounded, and only the bridge says where a MAC is.
//   - Facts may say anything. What makes no sense is refused and noted; nothing panics.
//
// # Where the rules come from
//
// Requirement ids such as MM-07 are those of docs/spec/evpn.md.
//
//	RFC 7432      EVPN: types 2 and 3, flood lists (§11), MAC mobility and duplicates (§15)
//	RFC 8365      VXLAN: VNI in the label field, encapsulation, derived route targets (§5.1)
//	RFC 4364      route distinguishers (§4.2) and route targets (§4.3)
//	RFC 4271      what tells apart the copies of a claim that came by several peers (§9.1.2.2)
//	RFC 4724      graceful restart of a peer (§4.2) and of ourselves (§4.1)
//	RFC 1982      comparing sequence numbers that wrap
//	RFC 6514      the PMSI Tunnel attribute (§5)
//	RFC 9161      an IP that two hosts have (§3.7)
//	RFC 9047      flags of IPv6 neighbours
//
// # Reading order
//
// types.go, route.go, event.go, output.go: the words. core.go: Handle and Flush. rib.go, accept.go: in. choose.go,
// mobility.go, duplicate.go: the decision. ask.go: where a host is that says nothing. gateway.go, advertise.go, forward.go,
// diff.go: out. testdata/*.script: the same as stories.
package evpn
