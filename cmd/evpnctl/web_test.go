package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// newWeb serves the page of some fake daemons under names, and of one that is not there for each name beginning with "gone".
func newWeb(t *testing.T, names ...string) (url string) {
	t.Helper()
	dir := t.TempDir()
	var targets []string
	for _, name := range names {
		socket := filepath.Join(dir, name)
		targets = append(targets, name+"="+socket)
		if strings.HasPrefix(name, "gone") {
			continue
		}
		stop, err := serveFake(socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
	}
	parsed, err := (&cli{targets: targets}).parseTargets()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cli{targets: targets, timeout: 10 * time.Second, format: formatTable}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.serveWeb(ctx, l, parsed, []string{"noc.example"}) }() // awaited below
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return "http://" + l.Addr().String()
}

// browse makes one request and returns the answer with its body.
func browse(t *testing.T, method, url, host string) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestWebPage(t *testing.T) {
	url := newWeb(t, "h1", "gone")
	for _, row := range []struct {
		path string
		want []string
		not  string
	}{
		{"/", []string{
			`<a class="skip" href="#main">`, `<main id="main" tabindex="-1">`, // for those without a mouse
			"<th scope=\"row\">h1</th><td>65000</td><td>10.255.0.1</td>", "evpnd is not reachable",
			`<a href="/?vni=100&amp;vtep=10.255.0.1#cell">●1</a>`, `h1 cannot reach it; h1 does not flood to it: next hop unreachable: no route`, "vxlan200 has no local address",
		}, "<h2>VNI"},
		{"/?vni=100", []string{"<h2>VNI 100</h2>", "02:00:00:00:00:01", "172.16.100.2", `class="blocked">blocked`}, "There are more"},
		{"/?vni=100&vtep=10.255.0.2", []string{"<h2>VNI 100, 10.255.0.2</h2>", "02:00:00:00:00:02"}, "02:00:00:00:00:01"},
		{"/?vni=100&vtep=10.255.0.1", []string{"02:00:00:00:00:01"}, "02:00:00:00:00:02"}, // its own
		{"/?vni=4000", []string{"No MACs."}, ""},
		{"/?vni=0", []string{"VNI out of range"}, "<h2>VNI"},
		{"/?q=172.16.100.2", []string{"<code>172.16.100.2</code>", "10.255.0.2", "1 of 1 VTEPs agree"}, "is not known"},
		{"/?q=02:00:00:00:00:03", []string{"10.255.0.3", "blocked"}, "is not known"},
		{"/?q=02:00:00:00:00:77", []string{"02:00:00:00:00:77 is not known here"}, ""},
		{"/?q=<script>alert(1)</script>", []string{"is neither a MAC nor an IP", "&lt;script&gt;"}, "<script>alert"},
		{"/?from=-7", []string{"●1"}, "earlier"},
		{"/?from=999999", []string{">200<"}, "later"},
	} {
		resp, body := browse(t, "GET", url+row.path, "")
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", row.path, resp.Status)
		}
		for _, want := range row.want {
			if !strings.Contains(body, want) {
				t.Errorf("%s lacks %q:\n%s", row.path, want, body)
			}
		}
		if row.not != "" && strings.Contains(body, row.not) {
			t.Errorf("%s has %q", row.path, row.not)
		}
	}
}

// TestWebGuard: nothing but reading, and only under names that nobody else's DNS can give out.
func TestWebGuard(t *testing.T) {
	url := newWeb(t, "h1")
	for _, row := range []struct {
		method, path, host string
		want               int
	}{
		{"GET", "/", "", 200},
		{"HEAD", "/", "", 200},
		{"GET", "/", "localhost:8470", 200},
		{"GET", "/", "[::1]:8470", 200},
		{"GET", "/", "noc.example", 200},
		{"GET", "/", "evil.example:8470", 421},
		{"GET", "/events", "evil.example", 421},
		{"GET", "/", "127.0.0.1.evil.example", 421},
		{"POST", "/", "", 405},
		{"DELETE", "/events", "", 405},
		{"GET", "/web/page.js", "", 200},
		{"GET", "/web/page.css", "", 200},
		{"GET", "/web/page.html", "", 404},
		{"GET", "/web/../../../etc/passwd", "", 404},
		{"GET", "/nothing", "", 404},
	} {
		resp, _ := browse(t, row.method, url+row.path, row.host)
		if resp.StatusCode != row.want {
			t.Errorf("%s %s as %q: %s, want %d", row.method, row.path, row.host, resp.Status, row.want)
		}
		csp := resp.Header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || len(resp.Cookies()) > 0 {
			t.Errorf("%s %s: policy %q, cookies %v", row.method, row.path, csp, resp.Cookies())
		}
	}
}

// TestWebEvents: what is remembered comes first; two readers get it, and the server ends while they read.
func TestWebEvents(t *testing.T) {
	url := newWeb(t, "h1", "h2")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for range 2 {
		req, err := http.NewRequestWithContext(ctx, "GET", url+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
			t.Errorf("content type %q", got)
		}
		lines := bufio.NewScanner(resp.Body)
		seen := map[string]bool{}
		for lines.Scan() && !(seen["h1"] && seen["h2"]) {
			for _, name := range []string{"h1", "h2"} {
				if strings.HasPrefix(lines.Text(), "data: [") && strings.Contains(lines.Text(), `"`+name+`  `) && strings.Contains(lines.Text(), "moved") {
					seen[name] = true
				}
			}
		}
		if !seen["h1"] || !seen["h2"] {
			t.Fatalf("events of %v only: %v", seen, lines.Err())
		}
	}
}

func TestFabric(t *testing.T) {
	installed := &evpnv1.KernelEntry{State: "installed"}
	host := func(name, vtep string, vnis []uint32, vteps ...*evpnv1.VTEP) *webHost {
		h := &webHost{Name: name, Status: &evpnv1.Status{Vtep: vtep}, vteps: vteps}
		for _, v := range vnis {
			h.vnis = append(h.vnis, &evpnv1.VNI{Vni: v, State: "up", Vtep: vtep, MacsLocal: 7})
		}
		return h
	}
	knows := func(vtep string, vni uint32) *evpnv1.VTEP {
		return &evpnv1.VTEP{Vtep: vtep, Vni: vni, Flood: true, Macs: 3, Kernel: installed}
	}
	lost := knows("10.0.0.10", 200)
	lost.Reachability = "unreachable"
	f := newFabric([]*webHost{
		host("h1", "10.0.0.1", []uint32{100, 200}, knows("10.0.0.2", 100), knows("10.0.0.10", 100)),
		host("h2", "10.0.0.2", []uint32{100, 200}, knows("10.0.0.1", 100), knows("10.0.0.1", 200), lost), // and h1 does not know it in 200
		{Name: "h3", Problem: "gone"},
	})
	m := f.matrix(0)
	var got []string
	for _, row := range m.Rows {
		for _, c := range row.Cells {
			got = append(got, strings.TrimSpace(strings.Join([]string{row.VTEP, row.Name, decimal(c.VNI), decimal(c.MACs), c.State, c.Why}, " ")))
		}
	}
	want := []string{
		"10.0.0.1 h1 100 7 ok", "10.0.0.1 h1 200 7 ok", "10.0.0.2 h2 100 7 ok", "10.0.0.2 h2 200 7 fault h1 does not know it",
		"10.0.0.10  100 3 ok", "10.0.0.10  200 3 fault h2 cannot reach it",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if empty := newFabric(nil).matrix(5); len(empty.VNIs) != 0 || len(empty.Rows) != 0 {
		t.Errorf("of nobody: %+v", empty)
	}
}

// TestMerge: who has the host names its port, and who differs is told.
func TestMerge(t *testing.T) {
	see := func(target, at, port string) []sighting {
		return []sighting{{target: target, vni: 100, mac: "02:00:00:00:00:01", at: at, port: port, standing: "installed"}}
	}
	found := merge([][]sighting{see("h1", "10.0.0.9", ""), see("h2", "10.0.0.3", ""), see("h3", "10.0.0.3", "tap7"), nil})
	if len(found) != 1 || found[0].Agree || found[0].Verdict != "2 of 3 VTEPs agree" {
		t.Fatalf("%+v", found)
	}
	p := found[0].Places
	if p[0].VTEP != "10.0.0.3" || p[0].Port != "tap7" || p[1].VTEP != "10.0.0.9" || len(p[1].Targets) != 1 {
		t.Errorf("%+v", p)
	}
}

func TestWebWantsAnAddress(t *testing.T) {
	for _, listen := range []string{"8470", "noc.example:8470", "127.0.0.1"} {
		var out, errs strings.Builder
		if got := run(context.Background(), []string{"web", "--listen", listen}, &out, &errs); got != exitUsage {
			t.Errorf("%s: exit %d, %s", listen, got, errs.String())
		}
	}
}
