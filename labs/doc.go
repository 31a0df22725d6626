// Package labs runs network labs written in the containerlab topology format (NN-name.clab.yml) without containers:
// every linux node becomes a set of Linux namespaces of its own, every link a veth pair between two of them, and the
// node's image is read as the name of a program installed on this machine (FRR from the distribution, or evpnd).
//
// # One node
//
// A node is one long-lived init process in network, mount, PID, UTS and IPC namespaces of its own. Its root is an
// overlay over the host's root: the node sees the host's programs, may write anywhere, and the host never sees those
// writes. Binds of the topology are mounted at their place in that root. Everything a node runs lives in its PID
// namespace, so ending the init process ends the node and whatever it left behind.
//
// # One lab
//
// Up writes what it started to a state directory (StateDir), so that another process can Attach, Exec and take the
// lab Down. A recorded process is known by its PID and its start time: a PID that was given to another process since is
// never signalled. Network namespaces are also named /run/netns/evpnlab-LAB-NODE for use with ip netns.
//
// # Re-execution
//
// The init process is the running program started again. A program that calls Up must therefore call NodeInit first
// thing in main, or in TestMain.
//
// The labs themselves are the directories NN-name beside this file; their scenario tests are the scenario_*_test.go.
package labs
