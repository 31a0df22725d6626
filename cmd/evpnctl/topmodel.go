package main

import (
	"slices"
	"strconv"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// topEventsKept is how many events are kept for the screen and for MOVES/H.
const topEventsKept = 10_000

// topModel is all that top shows; it changes in Update only.
type topModel struct {
	paint func(string) string
	fetch tea.Cmd
	run   func(title string, commands ...[]string) tea.Cmd

	width, height int
	tables        topTables
	problem       error              // why tables are old
	rates         map[string]float64 // UPDATEs per second of each peer
	events        []*evpnv1.Event    // newest last
	lost          uint64
	vni           int // index of the chosen VNI

	asking string // what the input is for: "find" or "explain"; "": nothing is asked
	input  string
	detail *topDetail // shown instead of the tables
	offset int        // first line of detail
}

func newTopModel(paint func(string) string) *topModel {
	return &topModel{paint: paint, width: 80, height: 24}
}

type topTick struct{}

func (m *topModel) Init() tea.Cmd { return m.fetch }

// Update takes one message in.
func (m *topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case topTables:
		m.take(msg)
		return m, tea.Tick(time.Second, func(time.Time) tea.Msg { return topTick{} })
	case topTick:
		return m, m.fetch
	case topEvents:
		m.events = append(m.events, msg.events...)
		m.events = slices.Delete(m.events, 0, max(0, len(m.events)-topEventsKept))
		m.lost += msg.lost
	case topDetail:
		m.detail, m.offset = &msg, 0
	case tea.KeyPressMsg:
		return m, m.key(msg)
	}
	return m, nil
}

func (m *topModel) take(t topTables) {
	if m.problem = t.err; t.err != nil {
		return
	}
	before := map[string]uint64{}
	for _, p := range m.tables.peers {
		before[p.Address] = p.GetCounters().GetUpdatesReceived()
	}
	seconds := t.asOf.Sub(m.tables.asOf).Seconds()
	m.rates = map[string]float64{}
	for _, p := range t.peers {
		if was, ok := before[p.Address]; ok && seconds > 0 && p.GetCounters().GetUpdatesReceived() >= was {
			m.rates[p.Address] = float64(p.GetCounters().GetUpdatesReceived()-was) / seconds
		}
	}
	m.tables = t
	m.vni = max(0, min(m.vni, len(t.vnis)-1))
}

func (m *topModel) key(k tea.KeyPressMsg) tea.Cmd {
	switch {
	case k.String() == "ctrl+c":
		return tea.Quit
	case m.asking != "":
		return m.typed(k)
	case m.detail != nil:
		return m.page(k.String())
	}
	switch k.String() {
	case "q":
		return tea.Quit
	case "/":
		m.asking = "find"
	case "e":
		m.asking = "explain"
	case "up", "k":
		m.vni = max(0, m.vni-1)
	case "down", "j":
		m.vni = max(0, min(m.vni+1, len(m.tables.vnis)-1))
	case "enter", "v":
		if m.vni < len(m.tables.vnis) {
			vni := decimal(m.tables.vnis[m.vni].Vni)
			return m.run("VNI "+vni, []string{"show", "vni", vni}, []string{"show", "vtep", vni}, []string{"show", "mac", vni})
		}
	}
	return nil
}

// typed edits what is asked for.
func (m *topModel) typed(k tea.KeyPressMsg) tea.Cmd {
	switch k.String() {
	case "esc":
		m.asking, m.input = "", ""
	case "backspace":
		if m.input != "" {
			m.input = m.input[:len(m.input)-1]
		}
	case "enter":
		asked, what := m.asking, m.input
		m.asking, m.input = "", ""
		if what == "" {
			return nil
		}
		if asked == "explain" {
			return m.run("explain "+what, []string{"explain", "--", what})
		}
		mac, _, err := parseSubject(what)
		switch {
		case err != nil:
			return func() tea.Msg { return topDetail{"find " + what, []string{err.Error()}} }
		case mac != "":
			return m.run("find "+what, []string{"show", "mac", "--mac", what}, []string{"show", "arp", "--mac", what})
		default:
			return m.run("find "+what, []string{"show", "arp", "--ip", what})
		}
	default:
		for _, r := range k.Key().Text { // addresses are ASCII
			if r < unicode.MaxASCII && unicode.IsPrint(r) && len(m.input) < 64 {
				m.input += string(r)
			}
		}
	}
	return nil
}

// page moves in the text that is shown instead of the tables.
func (m *topModel) page(key string) tea.Cmd {
	step := map[string]int{
		"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -m.body(), "pgdown": m.body(), "space": m.body(),
		"home": -len(m.detail.lines), "end": len(m.detail.lines),
	}[key]
	m.offset = max(0, min(m.offset+step, len(m.detail.lines)-m.body()))
	if key == "esc" || key == "q" {
		m.detail = nil
	}
	return nil
}

// body is how many lines there are between the first and the last.
func (m *topModel) body() int { return max(1, m.height-2) }

// movesLastHour counts the moves of MACs by VNI.
func (m *topModel) movesLastHour() map[uint32]int {
	moves := map[uint32]int{}
	for _, e := range m.events {
		if e.Topic == "mac" && e.What == "moved" && m.tables.asOf.Sub(e.Time.AsTime()) < time.Hour {
			moves[e.Vni]++
		}
	}
	return moves
}

func rate(perSecond float64) string { return strconv.FormatFloat(perSecond, 'f', 1, 64) }
