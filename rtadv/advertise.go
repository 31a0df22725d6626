package rtadv

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

// How often is advertised: as FRR does it for unnumbered peers.
const (
	interval     = 10 * time.Second
	fastInterval = time.Second
	fastCount    = 4 // advertisements at fastInterval once the link is up
)

var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

// message is one that was heard.
type message struct {
	from      netip.Addr
	solicited bool // a Router Solicitation, else an advertisement
	lifetime  time.Duration
}

// serve advertises and listens until the link changes or ctx ends.
func (l *Link) serve(ctx context.Context, at place, events <-chan struct{}) {
	heard := make(chan message)
	conn, err := open(at)
	if err == nil {
		var reading sync.WaitGroup
		stop := make(chan struct{})
		reading.Go(func() { listen(conn, at, heard, stop) })
		defer reading.Wait()
		defer conn.Close()
		defer close(stop)
	} else if !l.warned {
		l.warned = true
		l.Log.WithError(err).Warn("no router advertisements on the link, the peer is known by the kernel's neighbour table only")
	}
	next := time.NewTimer(0)
	defer next.Stop()
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for _, router := range neighbors(at) {
		l.routers.seen(router, time.Now())
	}
	sent, last := 0, time.Time{}
	for {
		l.tell(at)
		select {
		case <-ctx.Done():
			return
		case <-events:
			if l.moved(at) {
				return
			}
		case <-look.C:
			if l.moved(at) {
				return
			}
			for _, router := range neighbors(at) {
				l.routers.seen(router, time.Now())
			}
		case m := <-heard:
			if !m.solicited {
				l.routers.heard(m.from, m.lifetime, time.Now())
			} else {
				next.Reset(max(0, fastInterval-time.Since(last)))
			}
		case <-next.C:
			l.advertise(conn, at)
			last = time.Now()
			if sent++; sent < fastCount {
				l.solicit(conn, at)
				next.Reset(fastInterval)
			} else {
				next.Reset(interval)
			}
		}
	}
}

// tell shows how things are now.
func (l *Link) tell(at place) {
	s := Status{Local: at.local}
	s.Routers, s.Silent = l.routers.present(time.Now())
	l.show(s)
}

// moved reports that the link is not what it was.
func (l *Link) moved(at place) bool {
	now, err := look(l.Name)
	return err != nil || now != at
}

// open makes a socket that sends from the link-local address and hears what is for all routers.
func open(at place) (*ipv6.PacketConn, error) {
	ifi, err := net.InterfaceByIndex(at.index)
	if err != nil {
		return nil, err
	}
	c, err := icmp.ListenPacket("ip6:ipv6-icmp", at.local.String())
	if err != nil {
		return nil, err
	}
	conn := c.IPv6PacketConn()
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	err = errors.Join(
		conn.SetICMPFilter(&filter), conn.SetChecksum(true, 2), conn.SetControlMessage(ipv6.FlagHopLimit, true),
		conn.SetMulticastHopLimit(ndp.HopLimit), conn.SetMulticastInterface(ifi),
		conn.SetMulticastLoopback(false), // or the kernel takes us for a neighbour of ourselves
		conn.JoinGroup(ifi, net.UDPAddrFromAddrPort(netip.AddrPortFrom(allNodes, 0))),
		conn.JoinGroup(ifi, net.UDPAddrFromAddrPort(netip.AddrPortFrom(allRouters, 0))),
	)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// listen hands on what is heard until the socket is closed.
func listen(conn *ipv6.PacketConn, at place, heard chan<- message, stop <-chan struct{}) {
	b := make([]byte, 1500) // options that are longer do not matter
	for {
		n, control, src, err := conn.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // the link may be going down
			select {
			case <-stop:
				return
			case <-time.After(fastInterval):
			}
			continue
		}
		m, ok := parse(b[:n], control, src)
		if !ok || m.from == at.local {
			continue
		}
		select {
		case heard <- m:
		case <-stop:
			return
		}
	}
}

// parse reads a message. What came over a router has lost a hop, and advertisements are from link-local addresses (RFC 4861
// §6.1).
func parse(b []byte, control *ipv6.ControlMessage, src net.Addr) (m message, ok bool) {
	from, isIP := src.(*net.IPAddr)
	if !isIP || control == nil || control.HopLimit != ndp.HopLimit {
		return m, false
	}
	m.from, _ = netip.AddrFromSlice(from.IP)
	m.from = m.from.WithZone(from.Zone)
	msg, err := ndp.ParseMessage(b)
	if err != nil {
		return m, false
	}
	switch msg := msg.(type) {
	case *ndp.RouterAdvertisement:
		m.lifetime = msg.RouterLifetime
		return m, m.from.IsLinkLocalUnicast()
	case *ndp.RouterSolicitation:
		m.solicited = true
		return m, true
	default:
		return m, false
	}
}

// advertise says that we are there.
func (l *Link) advertise(conn *ipv6.PacketConn, at place) {
	if conn == nil || !l.Advertise.Load() {
		return
	}
	l.send(conn, &ndp.RouterAdvertisement{Options: source(at)}, allNodes, at)
}

// solicit asks for an advertisement, while nobody was heard.
func (l *Link) solicit(conn *ipv6.PacketConn, at place) {
	if conn == nil || len(l.shown.Routers) > 0 && !l.shown.Silent {
		return
	}
	l.send(conn, &ndp.RouterSolicitation{Options: source(at)}, allRouters, at)
}

func (l *Link) send(conn *ipv6.PacketConn, m ndp.Message, to netip.Addr, at place) {
	b, err := ndp.MarshalMessage(m)
	if err == nil {
		_, err = conn.WriteTo(b, nil, &net.IPAddr{IP: to.AsSlice(), Zone: at.local.Zone()})
	}
	if err != nil {
		l.Log.WithError(err).Debug("router discovery message not sent") // the link is going down; it is looked at next
	}
}

// source is the option with our MAC, by which FRR sets up IPv4 routes with IPv6 next hops; none on links without MACs.
func source(at place) []ndp.Option {
	mac, err := net.ParseMAC(at.mac)
	if err != nil || len(mac) != 6 {
		return nil
	}
	return []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}}
}
