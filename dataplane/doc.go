// Package dataplane is evpnd's only door to the Linux kernel: it reports what the kernel holds as evpn events and makes
// true what the core asks for in kernel batches. It reports and it writes; it never decides.
//
// Reading order:
//
//   - options.go, dataplane.go: the life of a Dataplane: New, Run, Apply, ReadBack, Flush.
//   - parse.go: a netlink message as a row, a nexthop or a link. Pure, fuzzed.
//   - links.go, settle.go, faults.go, manage.go: which VXLAN devices are attachments, what is wrong with them, what we may mend.
//   - namespace.go: one evpnd for a network namespace.
//   - provision.go, diagnose.go: which devices we make; what is wrong beside the devices, for those who ask.
//   - watch.go, pending.go, report.go: notifications become events, coalesced so that reading never waits for the core.
//   - filter.go, ring.go, frames.go, dhcp.go, dhcp6.go, snoop.go, probe.go: what local hosts say of themselves in ARP, ND and DHCP,
//     off each access port.
//   - readback.go: dumps become evpn.Observed.
//   - write.go, fdb.go, flood.go, neighbor.go, nexthop.go: one file per table; how an op becomes messages.
//   - ways.go, park.go: whether the underlay leads to a VTEP; how frames to one that it does not lead to are dropped.
//   - ownaddresses.go: what no host may claim; read whenever ways.go looks.
//   - rowfilter.go, echo.go: which notifications are the echo of our own writes; rows with our mark that others wrote.
//   - giveback.go: neighbours that someone wrote over ours while we removed ours.
//   - sweep.go: nothing of ours stays where an attachment was.
//   - leftover.go: what other daemons left, for an operator who wants it gone.
//   - rtnl.go, message.go: the socket: batches with one acknowledgement, dumps; the bytes of a message.
//
// # What is ours
//
// Nothing that is not ours is overwritten or deleted. The marks, each one readable from the kernel after a restart:
//
//   - Devices: the link group createdGroup (provision.go).
//   - Nexthops: protocol 186 (bgp), the FDB flag and an id in our own range. A pair that this life knows stays ours when
//     someone replaces what it says, until someone deletes it: our rows point to it. The sinks of park.go are ours likewise.
//   - Remote MAC: NTF_EXT_LEARNED on both halves, the bridge's on the VXLAN port, the VXLAN device's with a nexthop group
//     of ours (or a dst where the kernel has no FDB nexthops; nowhere else). The bridge's half is whose the other half is. On
//     another port a row with the flag is someone else's; a static one is a host's, whose orchestrator wrote it over a row of
//     ours: the kernel keeps the flag then.
//   - Neighbours: NTF_EXT_LEARNED and protocol 186 together. The protocol alone stays on a row that someone else
//     replaced by hand; the flag does not.
//   - Flood list: NTF_EXT_LEARNED on the all-zero MAC. Linux keeps that flag per list, not per dst: a list begun by an
//     operator never gets our mark, and an operator's plain append takes it off ours. So a dst is ours when this process
//     appended it, or when the list carried the mark as we first read it. On an unmarked list everything found at start is
//     foreign, also what an earlier life of ours appended there: leaving one flood dst too many is the safe side.
//     The device's own "remote" is always foreign.
//
// Where an entry of ours stood, as the kernel had acknowledged (KernelOp.Stood), what shows that it came of that entry is put
// right: a row of the VXLAN device that has our mark, or was written over ours without removing it first; a neighbour that
// has our mark or still our protocol. What someone put there by hand after removing ours is theirs.
//
// # Why a remote MAC is claimed first
//
// The bridge honours NLM_F_EXCL only for rows without NTF_EXT_LEARNED. With the flag it takes over whatever is there,
// also an orchestrator's static row on a local port (seen on Linux 6.18). So a new remote MAC is written in two batches:
// a plain EXCL row in the bridge, which fails where anything stands, and then the marked row in both halves, EXCL again
// for the VXLAN device.
//
// # When an entry is looked at first
//
// A replacement, a delete and whatever was refused look at what stands there and then write. A look costs more than the write, so
// that an entry goes unlooked at where the core says that it stands and that nothing happened to it (KernelOp.Intact), and nothing
// else can be known: the writer takes in what has been notified up to that moment, and the core has been told all of it
// (KernelBatch.AsOf, pending.concerns). Then a delete is one message for both halves, of which the kernel leaves the bridge's alone
// when it has moved to another port, and a move to another VTEP is one message for the VXLAN device's half. What is refused is
// looked at after all. Between the last notification and the write is as much time as there was between look and write; a
// neighbour that someone writes just then goes instead of ours, and is given back (giveback.go).
package dataplane
