package main

import (
	"fmt"
	"strings"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// topWide is from where on peers and VNIs stand side by side.
const topWide = 140

// View draws the screen.
func (m *topModel) View() tea.View {
	v := tea.NewView(strings.Join(m.screen(), "\n"))
	v.AltScreen = true
	v.WindowTitle = "evpnctl top"
	return v
}

// screen is as many lines as the terminal has, none of them longer than it is wide.
func (m *topModel) screen() []string {
	lines := []string{m.head()}
	if m.detail != nil {
		lines[0] = fmt.Sprintf("evpnctl top  %s", m.detail.title)
		lines = append(lines, m.detail.lines[m.offset:min(m.offset+m.body(), len(m.detail.lines))]...)
	} else {
		lines = append(lines, m.home(m.body())...)
	}
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines[:max(1, m.height-1)], m.foot())
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], m.width, "…")
	}
	return lines
}

func (m *topModel) head() string {
	s := m.tables.status
	if s == nil {
		return "evpnctl top"
	}
	head := fmt.Sprintf("evpnctl top  AS %d  VTEP %s  up %s  kernel %s", s.Asn, orDash(s.Vtep), span(s.Uptime.AsDuration()), kernelWord(s))
	if r := s.LastReload; r != nil && !r.Successful {
		head += "  reload " + m.paint("refused")
	}
	if m.problem != nil {
		_, _, words := classify(m.problem)
		head = "evpnctl top  " + m.paint("down") + "  " + printable(words)
	}
	return head
}

func (m *topModel) foot() string {
	switch {
	case m.asking != "":
		return m.asking + " MAC or IP: " + m.input + "_"
	case m.detail != nil:
		return fmt.Sprintf(" esc back   up/down pgup/pgdn   line %d of %d", m.offset+1, len(m.detail.lines))
	default:
		return " / find   e explain   up/down enter vni   q quit"
	}
}

// home is peers, VNIs and events in so many lines.
func (m *topModel) home(height int) []string {
	peers, vnis := m.peerRows(), m.vniRows()
	var lines []string
	if m.width >= topWide {
		room := max(4, height/2)
		lines = beside(section(peers, 0, room, m.paint), section(vnis, m.vni+1, room, m.paint), "   ")
	} else {
		room := max(3, height/4)
		lines = section(peers, 0, room, m.paint)
		lines = append(lines, "")
		lines = append(lines, section(vnis, m.vni+1, max(3, height/3), m.paint)...)
	}
	title := " EVENTS"
	if m.lost > 0 {
		title += fmt.Sprintf("  (%d lost: they came too fast)", m.lost)
	}
	lines = append(lines, "", title)
	room := max(0, height-len(lines))
	for i := len(m.events) - 1; i >= 0 && room > 0; i-- {
		_, line, _ := strings.Cut(eventLine(m.events[i]), " ") // without the day
		lines = append(lines, " "+printable(line))
		room--
	}
	return lines
}

func (m *topModel) peerRows() [][]string {
	up := 0
	rows := [][]string{nil}
	for _, p := range m.tables.peers {
		if p.State == "established" {
			up++
		}
		duration := ""
		if p.Since != nil {
			duration = span(m.tables.asOf.Sub(p.Since.AsTime()))
		}
		rows = append(rows, []string{
			"", p.Address, p.Description, p.State, orDash(duration), decimal(p.RoutesReceived), decimal(p.RoutesAdvertised), rate(m.rates[p.Address]),
		})
	}
	rows[0] = []string{"", fmt.Sprintf("PEERS %d/%d", up, len(m.tables.peers)), "", "STATE", "FOR", "RX", "TX", "UPD/S"}
	return rows
}

func (m *topModel) vniRows() [][]string {
	moves := m.movesLastHour()
	rows := [][]string{{"", "VNI", "BRIDGE", "LOC", "REM", "IPS", "VTEPS", "MOVES/H", "STATE", ""}}
	for i, v := range m.tables.vnis {
		mark := ""
		if i == m.vni {
			mark = ">"
		}
		rows = append(rows, []string{
			mark, decimal(v.Vni), orDash(v.Bridge), decimal(v.MacsLocal), decimal(v.MacsRemote),
			decimal(v.NeighborsLocal + v.NeighborsRemote), decimal(v.Vteps), fmt.Sprint(moves[v.Vni]), v.State, firstFault(v),
		})
	}
	return rows
}

func firstFault(v *evpnv1.VNI) string {
	if len(v.Faults) == 0 {
		return ""
	}
	return v.Faults[0]
}

// section lays rows out in columns, the first one being the head, in at most so many lines and around the chosen row.
func section(rows [][]string, chosen, height int, paint func(string) string) []string {
	shown := rows
	if hidden := len(rows) - height; hidden > 0 {
		body := max(1, height-2)
		from := max(1, min(chosen-body/2, len(rows)-body))
		shown = append([][]string{rows[0]}, rows[from:from+body]...)
	}
	widths := make([]int, len(rows[0]))
	for _, row := range shown {
		for i, cell := range row {
			widths[i] = max(widths[i], ansi.StringWidth(printable(cell)))
		}
	}
	var lines []string
	for _, row := range shown {
		var b strings.Builder
		for i, cell := range row {
			cell = printable(cell)
			if widths[i] == 0 && i > 0 {
				continue // nobody has it
			}
			b.WriteString(paint(cell) + strings.Repeat(" ", max(1, widths[i])-ansi.StringWidth(cell)+min(1, i)*2))
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	if hidden := len(rows) - len(shown); hidden > 0 {
		lines = append(lines, fmt.Sprintf(" … %d more", hidden))
	}
	return lines
}

// beside puts two blocks next to each other.
func beside(left, right []string, gap string) []string {
	width := 0
	for _, line := range left {
		width = max(width, ansi.StringWidth(line))
	}
	lines := make([]string, max(len(left), len(right)))
	for i := range lines {
		if i < len(left) {
			lines[i] = left[i]
		}
		if i < len(right) {
			lines[i] += strings.Repeat(" ", width-ansi.StringWidth(lines[i])) + gap + right[i]
		}
	}
	return lines
}

// printable leaves out what could steer the terminal: texts of peers come from elsewhere.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}
