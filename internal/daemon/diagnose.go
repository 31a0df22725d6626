package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

func (s *inspect) Diagnose(ctx context.Context, _ *evpnv1.DiagnoseRequest) (*evpnv1.DiagnoseResponse, error) {
	var faults []evpn.Fault
	var totals evpn.Totals
	var vteps []netip.Addr
	at, err := s.snapshot(ctx, func(c *evpn.Core) {
		faults, totals, vteps = c.Diagnose(), c.Totals(), remoteVTEPs(c)
	})
	if err != nil {
		return nil, err
	}
	devices, err := s.d.kernel.Diagnose(vteps)
	if err != nil {
		s.d.log.WithError(err).Warn("devices not diagnosed completely")
	}
	cfg := s.d.config.get()
	sessions := s.d.bgp.Sessions()
	faults = slices.Concat(faults, devices, diagnosePeers(sessions, cfg), s.d.diagnoseSelf(cfg))
	slices.SortStableFunc(faults, compareFaults)
	resp := &evpnv1.DiagnoseResponse{
		AsOf: at, Vnis: uint32(totals.VNIs), Peers: uint32(len(sessions)), Vteps: uint32(len(vteps)), Routes: uint64(totals.Routes),
	}
	for _, f := range faults {
		resp.Faults = append(resp.Faults, protoFault(f))
	}
	return resp, nil
}

// remoteVTEPs lists the VTEPs that frames go to.
func remoteVTEPs(c *evpn.Core) []netip.Addr {
	var list []netip.Addr
	for _, v := range c.VTEPs(0) {
		list = append(list, v.VTEP)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// compareFaults puts errors first.
func compareFaults(a, b evpn.Fault) int {
	return cmp.Or(
		cmp.Compare(b.Severity, a.Severity), cmp.Compare(a.VNI, b.VNI), cmp.Compare(a.Ifname, b.Ifname),
		a.Peer.Compare(b.Peer), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Detail, b.Detail))
}

func protoFault(f evpn.Fault) *evpnv1.Fault {
	return &evpnv1.Fault{
		Code: string(f.Code), Severity: f.Severity.String(), Vni: uint32(f.VNI), Ifname: printable(f.Ifname), Peer: text(f.Peer),
		Detail: printable(f.Detail), Remedy: printable(f.Remedy),
	}
}

// diagnosePeers judges the sessions.
func diagnosePeers(sessions []speaker.SessionInfo, cfg *config.Config) (faults []evpn.Fault) {
	if len(cfg.Peers) == 0 && len(cfg.DynamicPeers) == 0 {
		faults = append(faults, evpn.Fault{
			Code: evpn.FaultNoPeers, Detail: "no BGP peer is configured: nobody hears of the hosts here", Remedy: "add peers to the configuration",
		})
	}
	for _, i := range sessions {
		f := evpn.Fault{Severity: evpn.SeverityError, Peer: i.Peer}
		if len(i.Link.Routers) > 1 {
			faults = append(faults, crowd(i))
		}
		switch {
		case i.State == speaker.StateEstablished && !i.EVPN:
			f.Code = evpn.FaultPeerNoEVPN
			f.Detail = fmt.Sprintf("the session with %s is up without the EVPN family", evpn.PeerName(i.Peer))
			f.Remedy = "activate l2vpn evpn for this neighbor on the peer"
		case i.State == speaker.StateEstablished:
			continue
		default:
			f.Code, f.Detail, f.Remedy = sessionDown(i, peerConfig(cfg, i.Peer), cfg.Listen.Enabled)
		}
		faults = append(faults, f)
	}
	return faults
}

// crowd says that the other end of a link is not one peer.
func crowd(i speaker.SessionInfo) evpn.Fault {
	name := evpn.PeerName(i.Peer)
	detail := fmt.Sprintf("%d routers advertise themselves on %s (%s), and one is the peer", len(i.Link.Routers), name, strings.Join(texts(i.Link.Routers), ", "))
	if i.State == speaker.StateEstablished {
		detail += fmt.Sprintf(": %s has the session", i.Remote)
	}
	return evpn.Fault{
		Code: evpn.FaultPeerCrowd, Peer: i.Peer, Ifname: name, Detail: detail,
		Remedy: "keep the others off the link, or name the peer by its address and the interface",
	}
}

func peerConfig(cfg *config.Config, addr netip.Addr) config.Peer {
	for _, p := range cfg.Peers {
		if p.Address == addr {
			return p
		}
	}
	return config.Peer{}
}

// sessionDown says why a session is not established, as far as that is known. listening: the peer could dial us instead.
func sessionDown(i speaker.SessionInfo, p config.Peer, listening bool) (code evpn.FaultCode, detail, remedy string) {
	var timeout net.Error
	name := evpn.PeerName(i.Peer)
	switch {
	case i.Link.Why != "":
		return evpn.FaultPeerUnseen, "no session with the peer on " + name + ": " + i.Link.Why, fmt.Sprintf("ip -d link show %s; ip -6 address show %s", name, name)
	case evpn.PeerInterface(i.Peer) != "" && !i.Remote.IsValid():
		return evpn.FaultPeerUnseen, fmt.Sprintf("nobody on %s advertises itself as a router, so its address is not known", name),
			fmt.Sprintf("configure the other end by interface too (FRR: neighbor IFNAME interface remote-as external), or give its address; tcpdump -i %s icmp6", name)
	case errors.Is(i.LastCause, unix.ECONNREFUSED) && !listening:
		return evpn.FaultPeerRefused, fmt.Sprintf("%s refuses connections to port %d, and nothing listens here: neither of the two can accept", whom(i), p.Port),
			"start BGP on the peer, or give it another port; where it is an evpnd too, set listen: true on one of the two"
	case errors.Is(i.LastCause, unix.ECONNREFUSED):
		return evpn.FaultPeerRefused, fmt.Sprintf("%s refuses connections to port %d: no BGP speaker listens there", whom(i), p.Port),
			"start BGP on the peer, or give it another port in the configuration"
	case errors.Is(i.LastCause, unix.ENETUNREACH), errors.Is(i.LastCause, unix.EHOSTUNREACH):
		return evpn.FaultPeerNoRoute, fmt.Sprintf("no way to peer %s (%v)", whom(i), i.LastCause), fmt.Sprintf("ip route get %s, and mend the underlay's routing", text(i.Remote))
	case errors.As(i.LastCause, &timeout) && timeout.Timeout():
		why, remedy := "it is down, or a firewall drops TCP port %d", "ping it, and look at its firewall"
		if p.Password != "" {
			why, remedy = why+", or its TCP MD5 key is another one", "compare the keys; nstat -az TcpExtTCPMD5Failure TcpExtTCPMD5NotFound counts segments with wrong ones here"
		}
		return evpn.FaultPeerSilent, fmt.Sprintf("%s does not answer: "+why, whom(i), p.Port), remedy
	case errors.Is(i.LastCause, speaker.ErrPeerAS):
		return evpn.FaultPeerAS, fmt.Sprintf("%s and evpnd disagree about an AS number (%s)", whom(i), cmp.Or(i.LastError, i.LastReceived)),
			fmt.Sprintf("compare asn of peer %s (%s) and our own with the peer's configuration", name, p.AS())
	}
	why := cmp.Or(i.LastError, i.LastReceived, "it has not connected yet")
	return evpn.FaultPeerDown, fmt.Sprintf("the session with %s is %s: %s", whom(i), i.State, why), fmt.Sprintf("evpnctl show summary --peer %s, and the peer's log", name)
}

// whom names a peer, with its address when that is not its name.
func whom(i speaker.SessionInfo) string {
	name := evpn.PeerName(i.Peer)
	if i.Remote.IsValid() && i.Remote != i.Peer {
		name += " (" + i.Remote.String() + ")"
	}
	return name
}

// diagnoseSelf judges the daemon's own surroundings.
func (d *Daemon) diagnoseSelf(cfg *config.Config) (faults []evpn.Fault) {
	if _, _, reload := d.config.state(); reload != nil && !reload.Successful {
		faults = append(faults, evpn.Fault{
			Code: evpn.FaultReload, Severity: evpn.SeverityError,
			Detail: fmt.Sprintf("%s was refused at the last reload, what is in force is older", d.opts.ConfigPath),
			Remedy: fmt.Sprintf("evpnd check -c %s, mend it, evpnctl reload", d.opts.ConfigPath),
		})
	}
	if err := writable(cfg.StateDir); err != nil {
		faults = append(faults, evpn.Fault{
			Code:   evpn.FaultStateDir,
			Detail: fmt.Sprintf("state-dir %s cannot be written (%v), so route distinguishers may change with a restart", cfg.StateDir, err),
			Remedy: "let the user of evpnd write there: mkdir -p " + cfg.StateDir,
		})
	}
	if open, limit := descriptors(); limit > 0 && open*5 > limit*4 {
		faults = append(faults, evpn.Fault{
			Code:   evpn.FaultFileLimit,
			Detail: fmt.Sprintf("%d of %d file descriptors are in use; each access port and each peer takes some", open, limit),
			Remedy: "raise LimitNOFILE of evpnd.service",
		})
	}
	return faults
}

// writable reports what keeps us from making a file in dir. It makes none: a folder that is not there yet is judged by the
// one it would be made in.
func writable(dir string) error {
	for {
		err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
		if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(dir) == dir {
			return err
		}
		dir = filepath.Dir(dir)
	}
}

// descriptors returns how many files are open, and how many may be; 0 where that cannot be known.
func descriptors() (open, limit uint64) {
	var r unix.Rlimit
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil || unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 0, 0
	}
	return uint64(len(entries)), r.Cur
}
