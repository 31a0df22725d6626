package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// hostsFile holds the bindings that frames of local hosts told of, so that a silent host keeps its MAC/IP routes over a
// restart, and the sequence numbers of those that moved. It is written every hostsEvery when something changed, hostsSoon
// after a sequence number did, and at the end; what is older than hostsOld is not used.
const (
	hostsFile  = "hosts.json"
	hostsForm  = 1
	hostsEvery = 30 * time.Second
	hostsSoon  = time.Second
	hostsOld   = time.Hour
)

type hosts struct {
	Form     int       `json:"form"`
	Saved    time.Time `json:"saved"`
	Bindings []host    `json:"bindings"`
	Moved    []moved   `json:"moved,omitempty"`
}

type moved struct {
	VNI evpn.VNI `json:"vni"`
	MAC string   `json:"mac"`
	Seq uint32   `json:"seq"`
}

type host struct {
	VNI    evpn.VNI `json:"vni"`
	IP     string   `json:"ip"`
	MAC    string   `json:"mac"`
	Port   string   `json:"port"`
	Router bool     `json:"router,omitempty"`
}

// loadHosts reads what an earlier life saved. A missing file, or an old one, is an empty one.
func loadHosts(dir string, now time.Time) (evpn.Remembered, error) {
	var none evpn.Remembered
	path := filepath.Join(dir, hostsFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("read hosts: %w", err)
	}
	var saved hosts
	if err := json.Unmarshal(data, &saved); err != nil {
		return none, fmt.Errorf("read hosts %s: %w", path, err)
	}
	switch age := now.Sub(saved.Saved); {
	case saved.Form != hostsForm:
		return none, fmt.Errorf("read hosts %s: form %d is not known", path, saved.Form)
	case age < 0 || age > hostsOld:
		return none, nil
	}
	all := evpn.Remembered{IPs: make([]evpn.LocalIP, 0, len(saved.Bindings))}
	for i, h := range saved.Bindings {
		ip, err := h.binding()
		if err != nil {
			return none, fmt.Errorf("read hosts %s: binding %d: %w", path, i, err)
		}
		all.IPs = append(all.IPs, ip)
	}
	for i, m := range saved.Moved {
		mac, err := evpn.ParseMAC(m.MAC)
		if err := errors.Join(m.VNI.Check(), err); err != nil {
			return none, fmt.Errorf("read hosts %s: moved %d: %w", path, i, err)
		}
		all.Sequences = append(all.Sequences, evpn.Sequence{VNI: m.VNI, MAC: mac, Seq: m.Seq})
	}
	return all, nil
}

func (h host) binding() (evpn.LocalIP, error) {
	ip := evpn.LocalIP{VNI: h.VNI, Port: h.Port, Router: h.Router, Source: evpn.WitnessFrame}
	var macErr, ipErr error
	ip.MAC, macErr = evpn.ParseMAC(h.MAC)
	ip.IP, ipErr = netip.ParseAddr(h.IP)
	return ip, errors.Join(h.VNI.Check(), macErr, ipErr)
}

// saveHosts replaces the file of hosts.
func saveHosts(dir string, all evpn.Remembered, now time.Time) error {
	saved := hosts{Form: hostsForm, Saved: now, Bindings: make([]host, len(all.IPs)), Moved: make([]moved, len(all.Sequences))}
	for i, s := range all.Sequences {
		saved.Moved[i] = moved{VNI: s.VNI, MAC: s.MAC.String(), Seq: s.Seq}
	}
	for i, ip := range all.IPs {
		saved.Bindings[i] = host{VNI: ip.VNI, IP: ip.IP.String(), MAC: ip.MAC.String(), Port: ip.Port, Router: ip.Router}
	}
	data, err := json.Marshal(saved)
	if err != nil {
		return fmt.Errorf("encode hosts: %w", err)
	}
	if err := replaceFile(dir, hostsFile, data); err != nil {
		return fmt.Errorf("save hosts: %w", err)
	}
	return nil
}

// toRemember is what the next life has to be told.
func toRemember(c *evpn.Core) evpn.Remembered {
	return evpn.Remembered{IPs: c.FramedBindings(), Sequences: c.Sequences()}
}

// saveSoon has remember save when sequence numbers changed.
func (d *Daemon) saveSoon(o evpn.Output) {
	if !o.Resequenced {
		return
	}
	select {
	case d.resequenced <- struct{}{}:
	default: // a token is there already
	}
}

// remember is the goroutine that saves what is known of local hosts, every now and then and when all else has ended.
func (d *Daemon) remember(ctx context.Context) {
	var r hostsWriter
	tick := time.NewTicker(hostsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			<-d.stopped // the owner touches the core no more
			r.save(d, toRemember(d.core))
			return
		case <-tick.C:
		case <-d.resequenced: // where one number changes others do
			select {
			case <-ctx.Done():
				continue
			case <-time.After(hostsSoon):
			}
		}
		var all evpn.Remembered
		if err := d.ask(ctx, func(c *evpn.Core) { all = toRemember(c) }); err == nil {
			r.save(d, all)
		}
	}
}

// hostsWriter writes when there is news, and tells of trouble once.
type hostsWriter struct {
	saved   evpn.Remembered
	at      time.Time
	failing bool
}

func (r *hostsWriter) save(d *Daemon, all evpn.Remembered) {
	now := time.Now()
	same := slices.Equal(all.IPs, r.saved.IPs) && slices.Equal(all.Sequences, r.saved.Sequences)
	if !r.at.IsZero() && same && now.Sub(r.at) < hostsOld/2 {
		return
	}
	err := saveHosts(d.opts.Config.StateDir, all, now)
	switch {
	case err == nil:
		r.saved, r.at, r.failing = all, now, false
	case !r.failing:
		r.failing = true
		d.log.WithError(err).Warn("hosts not saved, addresses of silent ones may be withdrawn at the next start")
	}
}
