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
// restart. It is written every hostsEvery when something changed, and at the end; what is older than hostsOld is not used.
const (
	hostsFile  = "hosts.json"
	hostsForm  = 1
	hostsEvery = 30 * time.Second
	hostsOld   = time.Hour
)

type hosts struct {
	Form     int       `json:"form"`
	Saved    time.Time `json:"saved"`
	Bindings []host    `json:"bindings"`
}

type host struct {
	VNI    evpn.VNI `json:"vni"`
	IP     string   `json:"ip"`
	MAC    string   `json:"mac"`
	Port   string   `json:"port"`
	Router bool     `json:"router,omitempty"`
}

// loadHosts reads the bindings that an earlier life saved. A missing file, or an old one, is an empty one.
func loadHosts(dir string, now time.Time) ([]evpn.LocalIP, error) {
	path := filepath.Join(dir, hostsFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read hosts: %w", err)
	}
	var saved hosts
	if err := json.Unmarshal(data, &saved); err != nil {
		return nil, fmt.Errorf("read hosts %s: %w", path, err)
	}
	switch age := now.Sub(saved.Saved); {
	case saved.Form != hostsForm:
		return nil, fmt.Errorf("read hosts %s: form %d is not known", path, saved.Form)
	case age < 0 || age > hostsOld:
		return nil, nil
	}
	ips := make([]evpn.LocalIP, 0, len(saved.Bindings))
	for i, h := range saved.Bindings {
		ip, err := h.binding()
		if err != nil {
			return nil, fmt.Errorf("read hosts %s: binding %d: %w", path, i, err)
		}
		ips = append(ips, ip)
	}
	return ips, nil
}

func (h host) binding() (evpn.LocalIP, error) {
	ip := evpn.LocalIP{VNI: h.VNI, Port: h.Port, Router: h.Router, Source: evpn.WitnessFrame}
	var macErr, ipErr error
	ip.MAC, macErr = evpn.ParseMAC(h.MAC)
	ip.IP, ipErr = netip.ParseAddr(h.IP)
	return ip, errors.Join(h.VNI.Check(), macErr, ipErr)
}

// saveHosts replaces the file of bindings.
func saveHosts(dir string, ips []evpn.LocalIP, now time.Time) error {
	saved := hosts{Form: hostsForm, Saved: now, Bindings: make([]host, len(ips))}
	for i, ip := range ips {
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

// remember is the goroutine that saves what frames told of local hosts, every now and then and when all else has ended.
func (d *Daemon) remember(ctx context.Context) {
	var r hostsWriter
	tick := time.NewTicker(hostsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			<-d.stopped // the owner touches the core no more
			r.save(d, d.core.FramedBindings())
			return
		case <-tick.C:
		}
		var ips []evpn.LocalIP
		if err := d.ask(ctx, func(c *evpn.Core) { ips = c.FramedBindings() }); err == nil {
			r.save(d, ips)
		}
	}
}

// hostsWriter writes when there is news, and tells of trouble once.
type hostsWriter struct {
	saved   []evpn.LocalIP
	at      time.Time
	failing bool
}

func (r *hostsWriter) save(d *Daemon, ips []evpn.LocalIP) {
	now := time.Now()
	if !r.at.IsZero() && slices.Equal(ips, r.saved) && now.Sub(r.at) < hostsOld/2 {
		return
	}
	err := saveHosts(d.opts.Config.StateDir, ips, now)
	switch {
	case err == nil:
		r.saved, r.at, r.failing = ips, now, false
	case !r.failing:
		r.failing = true
		d.log.WithError(err).Warn("hosts not saved, addresses of silent ones may be withdrawn at the next start")
	}
}
