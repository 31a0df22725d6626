package labs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
	"github.com/evpnd/evpnd/labs/rawpeer"
)

var soakDistinct = flag.Int("soak.distinct", 1000, "how many distinct hosts come and go on a port in TestSoak")

// The hosts of distinct come in crowds, since frames that come all at once would not fit into the ring of the port.
const (
	distinctHosts = 25  // their group
	crowd         = 500 // hosts that come together
	crowdsAlive   = 4
	oneEngine     = 20_000 // hosts after which GoBGP must have been replaced
)

// distinct has hosts come and go that nobody has seen before, each with an address, as fast as FRR passes them on. Two raw
// peers look for what is said in vain: one of h1, and one behind FRR. FRR's session must be as old as before, with as many
// UPDATEs as h1 has sent.
func (s *soak) distinct(hosts int) {
	t := s.t
	if err := s.lab.StopProcess(s.ctx, "tor", unix.SIGTERM); err != nil { // zebra leaves each MAC in the VXLAN device's FDB for good
		t.Fatal(err)
	}
	direct, behind := newHearer(), newHearer()
	onH2 := func(f func() error) error { return inside(s.sites["h2"].net.ns, f) }
	monitor, err := rawpeer.Dial(s.ctx, onH2, monitorAddr, rrAddr, behind.update)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	s.raw.peer.Listen(direct.update)
	defer s.raw.peer.Listen(nil)
	sentBefore, frrBefore := s.sentToFRR(), frrSessionWith(t, s.ctx, s.lab, "rr", h1Addr.String())

	stop, cancel := context.WithCancel(s.ctx)
	var sampled error
	var watch sync.WaitGroup
	all := &samples{}
	watch.Go(func() {
		all, sampled = s.sample(stop, max(250*time.Millisecond, time.Duration(hosts)*time.Microsecond))
	})
	began := time.Now()
	err = errors.Join(s.crowds(hosts, behind), s.crowdsGone(direct, behind))
	took := time.Since(began)
	cancel()
	watch.Wait()
	if err := errors.Join(err, sampled); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d hosts came and went in %s; heard of h1: %s; behind FRR: %s\n%s", hosts, took.Round(time.Second), direct, behind, all)
	all.wantFlat(t, took)
	for _, h := range []*hearer{direct, behind} {
		if h.vain > 0 || h.withIP != hosts || h.announced != h.withdrawn || h.fault != nil {
			t.Errorf("said in vain, or not at all: %s", h)
		}
	}
	if n := all.last["evpn_engine_replacements_total"] - all.first["evpn_engine_replacements_total"]; hosts >= oneEngine && n == 0 {
		t.Error("GoBGP was never replaced")
	}
	frr, sent := frrSessionWith(t, s.ctx, s.lab, "rr", h1Addr.String()), s.sentToFRR()
	t.Logf("FRR has got %d UPDATEs, h1 has sent %d", frr.Messages.Updates-frrBefore.Messages.Updates, sent-sentBefore)
	frr.Messages.Updates -= sent - sentBefore
	wantUntouched(t, frrBefore, frr)
}

// crowds has all hosts come, crowd by crowd, and those before go. A host whose frame was lost speaks again.
func (s *soak) crowds(hosts int, heard *hearer) error {
	h1 := s.sites["h1"]
	for first := 0; first < hosts+crowdsAlive*crowd; first += crowd {
		for n := first - crowdsAlive*crowd; n < min(first-crowdsAlive*crowd+crowd, hosts); n++ {
			if n < 0 {
				continue
			}
			if err := h1.goes(fleetingHost(distinctHosts, n)); err != nil {
				return err
			}
		}
		missing := make([]int, 0, crowd)
		for n := first; n < min(first+crowd, hosts); n++ {
			missing = append(missing, n)
		}
		for try := 0; len(missing) > 0; try++ {
			for _, n := range missing {
				if err := h1.comes(fleetingHost(distinctHosts, n)); err != nil {
					return err
				}
			}
			ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
			_ = waitFor(ctx, "the crowd at FRR's peer", func() (bool, error) { // else they speak again
				missing = heard.missing(missing)
				return len(missing) == 0, nil
			})
			cancel()
			if try == 20 {
				return fmt.Errorf("%d hosts, the first %d, are not announced", len(missing), missing[0])
			}
		}
	}
	return nil
}

// crowdsGone waits until nobody is announced any more.
func (s *soak) crowdsGone(heard ...*hearer) error {
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	return waitFor(ctx, "the last withdraw", func() (bool, error) {
		for _, h := range heard {
			h.mu.Lock()
			left := len(h.there)
			h.mu.Unlock()
			if left > 0 {
				return false, nil
			}
		}
		return true, nil
	})
}

// sentToFRR is how many UPDATEs h1 has sent to FRR.
func (s *soak) sentToFRR() int {
	s.t.Helper()
	peers, err := list[struct {
		Counters struct {
			Sent int `json:"updatesSent,string"`
		} `json:"counters"`
	}](s.ctx, s.lab, "h1", "show", "summary", "--peer", rrAddr.String())
	if err != nil || len(peers) != 1 {
		s.t.Fatalf("%v, %v", peers, err)
	}
	return peers[0].Counters.Sent
}

// said is a route of one of the hosts: its MAC, perhaps with its IP.
type said struct {
	mac evpn.MAC
	ip  netip.Addr
}

// hearer keeps account of what a peer is told of the hosts.
type hearer struct {
	mu        sync.Mutex
	decoder   *wire.Decoder
	there     map[said]bool
	announced int
	withdrawn int
	withIP    int // of those announced
	vain      int // announced while there, or withdrawn while not
	fault     error
}

func newHearer() *hearer {
	return &hearer{decoder: wire.NewDecoder(rawpeer.Options), there: map[said]bool{}}
}

func (h *hearer) update(_ time.Time, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var r wire.Result
	if err := h.decoder.Update(body, &r); err != nil {
		h.fault = err
		return
	}
	for _, k := range r.Unreach {
		if route, ok := ofDistinct(k); ok {
			h.withdrawn++
			if !h.there[route] {
				h.vain++
			}
			delete(h.there, route)
		}
	}
	for i := range r.Reach {
		if route, ok := ofDistinct(r.Reach[i].Key); ok {
			h.announced++
			if h.there[route] {
				h.vain++
			}
			if route.ip.IsValid() {
				h.withIP++
			}
			h.there[route] = true
		}
	}
}

func ofDistinct(k evpn.RouteKey) (said, bool) {
	return said{k.MAC, k.IP}, k.Type == evpn.TypeMACIP && k.MAC[1] == distinctHosts
}

// missing are those of the hosts that are not announced with their address.
func (h *hearer) missing(hosts []int) []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	var missing []int
	for _, n := range hosts {
		if host := fleetingHost(distinctHosts, n); !h.there[said{evpn.MAC(host.mac), host.ip}] {
			missing = append(missing, n)
		}
	}
	return missing
}

func (h *hearer) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("%d routes announced, %d with an address, %d withdrawn, %d in vain, %v", h.announced, h.withIP, h.withdrawn, h.vain, h.fault)
}
