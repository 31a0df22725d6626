// Package rtadv finds the router at the other end of a link by its Router Advertisements (RFC 4861), and sends some, so that
// it finds us: what makes a BGP session between link-local addresses that nobody has written down (unnumbered BGP).
//
// It is host, not router, that we are: our advertisements have lifetime 0, so nobody takes us for a default router, and no
// prefix. FRR 8.4 takes the source of any advertisement for its neighbour, whatever the lifetime.
//
// Reading order: rtadv.go (one link, while it comes and goes), advertise.go (what is sent and heard while it is up),
// routers.go (who was heard).
package rtadv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	mdlayher "github.com/mdlayher/netlink"
	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lookAgain is how often a link is looked at without a notification: they may be lost, and the neighbour table is read then.
const lookAgain = 2 * time.Second

// Status is what is known of a link.
type Status struct {
	Local   netip.Addr   // our link-local address, with zone; the zero Addr: the link cannot be used
	Why     string       // it cannot be used; "" when it can
	Routers []netip.Addr // link-local addresses heard of, in order, with zone. The last one stays until the link goes down
	Silent  bool         // the one there is has not been heard of in its time
}

func (s Status) equal(o Status) bool {
	return s.Local == o.Local && s.Why == o.Why && s.Silent == o.Silent && slices.Equal(s.Routers, o.Routers)
}

// Link is one interface of the network namespace that it is watched in.
type Link struct {
	Name      string
	Advertise *atomic.Bool // send advertisements; may change
	Changed   func(Status) // is called by Watch with each Status that differs from the one before
	Log       logrus.FieldLogger

	shown   Status
	routers routers
	warned  bool // about missing rights
}

// Watch runs until ctx ends. The interface need not be there yet.
func (l *Link) Watch(ctx context.Context) {
	events := make(chan struct{}, 1)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() { // tells when links and addresses change; ends with ctx
		defer close(done)
		notify(ctx, events)
	}()
	defer func() { <-done }()
	defer cancel()
	for ctx.Err() == nil {
		at, err := look(l.Name)
		if err == nil {
			l.serve(ctx, at, events)
			continue
		}
		l.routers.forget()
		l.show(Status{Why: err.Error()})
		select {
		case <-ctx.Done():
		case <-events:
		case <-time.After(lookAgain):
		}
	}
}

func (l *Link) show(s Status) {
	if !l.shown.equal(s) {
		l.shown = s
		l.Changed(s)
	}
}

// place is where a link is to be served: while it does not change the sockets on it stay good.
type place struct {
	index int
	mac   string
	local netip.Addr // with zone
}

// look finds the link-local address of an interface that is up. The error is for people.
func look(name string) (place, error) {
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return place{}, fmt.Errorf("there is no interface %s", name)
	case err != nil:
		return place{}, fmt.Errorf("look up interface %s: %w", name, err)
	}
	a := link.Attrs()
	switch {
	case a.Flags&net.FlagUp == 0:
		return place{}, fmt.Errorf("interface %s is down", name)
	case a.OperState != netlink.OperUp && a.OperState != netlink.OperUnknown:
		return place{}, fmt.Errorf("interface %s has no carrier (%s)", name, a.OperState)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return place{}, fmt.Errorf("read the addresses of interface %s: %w", name, err)
	}
	tentative := false
	for _, x := range addrs {
		ip, _ := netip.AddrFromSlice(x.IP)
		switch {
		case !ip.IsLinkLocalUnicast():
		case x.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0:
			tentative = true
		default:
			return place{a.Index, a.HardwareAddr.String(), ip.WithZone(name)}, nil
		}
	}
	if tentative {
		return place{}, fmt.Errorf("the link-local address of interface %s is not confirmed yet, or a duplicate", name)
	}
	return place{}, fmt.Errorf("interface %s has no IPv6 link-local address", name)
}

// neighbors lists the routers that the kernel has heard of.
func neighbors(at place) []netip.Addr {
	rows, err := netlink.NeighList(at.index, netlink.FAMILY_V6)
	if err != nil {
		return nil // the next look may tell
	}
	var list []netip.Addr
	for _, n := range rows {
		ip, _ := netip.AddrFromSlice(n.IP)
		if n.Flags&netlink.NTF_ROUTER != 0 && n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) == 0 && ip.IsLinkLocalUnicast() &&
			ip != at.local.WithZone("") {
			list = append(list, ip.WithZone(at.local.Zone()))
		}
	}
	return list
}

// notify pokes events for each change of a link or an IPv6 address. When it cannot, Watch looks by itself.
func notify(ctx context.Context, events chan<- struct{}) {
	conn, err := mdlayher.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	for _, group := range []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV6_IFADDR} {
		if conn.JoinGroup(group) != nil {
			_ = conn.Close()
			return
		}
	}
	for {
		if _, err := conn.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			_ = conn.Close()
			return
		}
		poke(events)
	}
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
