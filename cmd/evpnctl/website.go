package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

//go:embed web
var webFiles embed.FS

var webPage = template.Must(template.New("page.html").Funcs(template.FuncMap{"dash": orDash}).ParseFS(webFiles, "web/page.html"))

// site is the page and what it is made of.
type site struct {
	targets []webTarget
	timeout time.Duration

	mu    sync.Mutex
	last  *fabric // the tables as they were read last
	until time.Time
}

func newSite(targets []webTarget, timeout time.Duration) *site {
	return &site{targets: targets, timeout: timeout}
}

func (s *site) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /events", s.events)
	mux.Handle("GET /web/page.css", http.FileServerFS(webFiles))
	mux.Handle("GET /web/page.js", http.FileServerFS(webFiles))
	return mux
}

// readEvery is how old tables may be before they are read again, however many browsers ask.
const readEvery = time.Second

// tables reads the small tables of all targets.
func (s *site) tables(ctx context.Context) *fabric {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil && time.Now().Before(s.until) {
		return s.last
	}
	hosts := ask(ctx, s, readHost)
	s.last, s.until = newFabric(hosts), time.Now().Add(readEvery)
	return s.last
}

// ask asks all targets the same at once and returns the answers in their order.
func ask[T any](ctx context.Context, s *site, question func(context.Context, webTarget) T) []T {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout) // others may wait for the same answer
	defer cancel()
	answers := make([]T, len(s.targets))
	var all sync.WaitGroup
	for i, t := range s.targets {
		all.Go(func() { answers[i] = question(ctx, t) })
	}
	all.Wait()
	return answers
}

// view is what the template shows.
type view struct {
	Several bool
	Fabric  *fabric
	Matrix  matrix
	Query   string
	Found   []finding
	Problem string // with the question
	Cell    *cellView
}

// page shows the matrix; with q what is known of a MAC or IP, with vni (and vtep) the MACs of a cell.
func (s *site) page(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	from, _ := strconv.Atoi(q.Get("from")) // what is no number begins at the first
	v := view{Several: len(s.targets) > 1, Fabric: s.tables(r.Context()), Query: q.Get("q")}
	v.Matrix = v.Fabric.matrix(from)
	if v.Query != "" {
		mac, ip, err := parseSubject(v.Query)
		if err != nil {
			v.Problem = err.Error()
		} else {
			v.Found = merge(ask(r.Context(), s, func(ctx context.Context, t webTarget) []sighting { return search(ctx, t, mac, ip) }))
			if len(v.Found) == 0 {
				v.Problem = v.Query + " is not known here"
			}
		}
	}
	if q.Has("vni") {
		var err error
		if v.Cell, err = s.cell(r.Context(), q.Get("vni"), q.Get("vtep")); err != nil {
			v.Problem = err.Error()
		}
	}
	var b bytes.Buffer
	if err := webPage.Execute(&b, v); err != nil {
		http.Error(w, "the page cannot be drawn: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes()) // a browser that went away has no use for an error
}

// events sends what happens, as server-sent events, until the browser goes away.
func (s *site) events(w http.ResponseWriter, r *http.Request) {
	flusher, ok := w.(http.Flusher)
	if !ok {
		http.Error(w, "events cannot be streamed here", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flusher.Flush()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	lines := make(chan []string)
	var followers sync.WaitGroup
	for _, t := range s.targets {
		followers.Go(func() { follow(ctx, t, len(s.targets) > 1, lines) })
	}
	go func() { followers.Wait(); close(lines) }() // ends with the followers
	alive := time.NewTicker(15 * time.Second)
	defer alive.Stop()
	for {
		text := ": alive\n\n"
		select {
		case batch, open := <-lines:
			if !open {
				return
			}
			data, err := json.Marshal(batch)
			if err != nil {
				return
			}
			text = fmt.Sprintf("data: %s\n\n", data)
		case <-alive.C:
		}
		if _, err := w.Write([]byte(text)); err != nil {
			cancel()
			for range lines { // until the followers have ended
			}
			return
		}
		flusher.Flush()
	}
}

// mostEvents is how many events of one message a page gets; nobody reads more.
const mostEvents = 100

// follow hands over the events of one daemon as lines.
func follow(ctx context.Context, t webTarget, named bool, lines chan<- []string) {
	followEvents(ctx, t.client, func(events topEvents) {
		var batch []string
		for _, e := range events.events[max(0, len(events.events)-mostEvents):] {
			line := eventLine(e)
			if named {
				line = t.name + "  " + line
			}
			batch = append(batch, line)
		}
		if events.lost > 0 {
			batch = append(batch, fmt.Sprintf("%s  %d events are left out: they came too fast", t.name, events.lost))
		}
		select {
		case lines <- batch:
		case <-ctx.Done():
		}
	})
}

// cellView are the MACs of one VNI, or of one VTEP in it, as each target has them.
type cellView struct {
	VNI  uint32
	VTEP string
	Rows []cellRow
	More bool
}

type cellRow struct {
	Target string
	*evpnv1.MAC
}

// At is where the MAC is.
func (r cellRow) At() string { return at(r.Port, r.Vtep) }

// Standing says how its entry stands.
func (r cellRow) Standing() string {
	return standing(r.Origin, r.Announced, r.Duplicate, r.Kernel)
}

// mostRows is how many MACs of a cell a page shows of each target.
const mostRows = 500

func (s *site) cell(ctx context.Context, vniText, vtep string) (*cellView, error) {
	vni, err := parseVNI(vniText)
	if err != nil {
		return nil, err
	}
	c := &cellView{VNI: vni, VTEP: vtep}
	fab := s.tables(ctx)
	answers := ask(ctx, s, func(ctx context.Context, t webTarget) []cellRow {
		req := &evpnv1.ListMACsRequest{Vni: vni, Vtep: vtep}
		if h := fab.host(t.name); vtep != "" && h != nil && h.vtepIn(vni) == vtep {
			req.Vtep, req.Origin = "", "local"
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var rows []cellRow
		stream, err := t.client.ListMACs(ctx, req)
		_ = receive(stream, err, func(r *evpnv1.ListMACsResponse) error { // who has no such VNI has no rows
			for _, m := range r.Macs {
				rows = append(rows, cellRow{t.name, m})
			}
			if len(rows) > mostRows {
				return errEnough
			}
			return nil
		})
		return rows
	})
	for _, rows := range answers {
		if len(rows) > mostRows {
			rows, c.More = rows[:mostRows], true
		}
		c.Rows = append(c.Rows, rows...)
	}
	slices.SortStableFunc(c.Rows, func(a, b cellRow) int { return bytes.Compare([]byte(a.Mac), []byte(b.Mac)) })
	return c, nil
}
