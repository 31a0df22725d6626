package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// fixedTop is a model with the tables of the fake daemon and many VNIs and events.
func fixedTop(t *testing.T, paint func(string) string) *topModel {
	t.Helper()
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
	ctx := context.Background()
	status, _ := inspect{}.GetStatus(ctx, nil)
	peers, _ := fakePeers(&evpnv1.ListPeersRequest{})
	vnis, _ := fakeVNIs(&evpnv1.ListVNIsRequest{})
	for n := range uint32(30) {
		vnis.Vnis = append(vnis.Vnis, &evpnv1.VNI{Vni: 300 + n, State: "up", Bridge: fmt.Sprintf("br%d", 300+n), MacsRemote: 1000 * n, Vteps: n})
	}
	m := newTopModel(paint)
	m.Update(topTables{status: status.Status, peers: peers.Peers, vnis: vnis.Vnis, asOf: now.Add(-10 * time.Second)})
	peers, _ = fakePeers(&evpnv1.ListPeersRequest{})
	peers.Peers[0].Counters.UpdatesReceived += 37
	peers.Peers[0].Description = "RR1\x1b[2J"
	m.Update(topTables{status: status.Status, peers: peers.Peers, vnis: vnis.Vnis, asOf: now})
	for range 5 {
		m.Update(topEvents{events: fakeEvents})
	}
	return m
}

func uncolored(s string) string { return s }

// TestTopScreens compares whole screens with files; UPDATE_SCRIPTS=1 rewrites them.
func TestTopScreens(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {200, 50}} {
		name := fmt.Sprintf("%dx%d", size[0], size[1])
		t.Run(name, func(t *testing.T) {
			m := fixedTop(t, uncolored)
			m.Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
			lines := m.screen()
			if len(lines) != size[1] {
				t.Errorf("%d lines, want %d", len(lines), size[1])
			}
			for _, line := range lines {
				if n := ansi.StringWidth(line); n > size[0] {
					t.Errorf("%d columns: %q", n, line)
				}
			}
			got := strings.Join(lines, "\n") + "\n"
			file := filepath.Join("testdata", "top", name)
			if os.Getenv("UPDATE_SCRIPTS") != "" {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil || got != string(want) {
				t.Errorf("%v; the screen is\n%s", err, got)
			}
			c := &cli{colored: true}
			m.paint = c.paint
			painted := strings.Join(m.screen(), "\n")
			if ansi.Strip(painted)+"\n" != got || !strings.Contains(painted, green+"established"+plain) {
				t.Errorf("with colours it is another screen:\n%s", painted)
			}
		})
	}
}

func TestTopSmallScreens(t *testing.T) {
	m := fixedTop(t, uncolored)
	for height := range 12 {
		for _, width := range []int{0, 1, 20, 140} {
			m.Update(tea.WindowSizeMsg{Width: width, Height: height})
			if lines := m.screen(); len(lines) != max(2, height) {
				t.Errorf("%d×%d: %d lines", width, height, len(lines))
			}
		}
	}
	if lines := newTopModel(uncolored).screen(); len(lines) != 24 {
		t.Errorf("before the first answer: %d lines", len(lines))
	}
}

// press sends keys and returns the command of the last one.
func press(m *topModel, keys ...string) (cmd tea.Cmd) {
	named := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "down": tea.KeyDown, "backspace": tea.KeyBackspace, "end": tea.KeyEnd}
	for _, k := range keys {
		if code, ok := named[k]; ok {
			_, cmd = m.Update(tea.KeyPressMsg{Code: code})
			continue
		}
		for _, r := range k {
			_, cmd = m.Update(tea.KeyPressMsg{Code: r, Text: string(r)})
		}
	}
	return cmd
}

func TestTopKeys(t *testing.T) {
	m := fixedTop(t, uncolored)
	m.run = func(title string, commands ...[]string) tea.Cmd {
		return func() tea.Msg { return topDetail{title, []string{fmt.Sprint(commands)}} }
	}
	for _, row := range []struct{ keys, title, text string }{
		{"down v", "VNI 200", "[[show vni 200] [show vtep 200] [show mac 200]]"},
		{"e 172.16.100.99 backspace enter", "explain 172.16.100.9", "[[explain -- 172.16.100.9]]"},
		{"/ 02:00:00:00:00:02 enter", "find 02:00:00:00:00:02", "[[show mac --mac 02:00:00:00:00:02] [show arp --mac 02:00:00:00:00:02]]"},
		{"/ fd00::1 enter", "find fd00::1", "[[show arp --ip fd00::1]]"},
		{"/ nonsense enter", "find nonsense", `"nonsense" is neither a MAC nor an IP address`},
	} {
		cmd := press(m, strings.Fields(row.keys)...)
		if cmd == nil {
			t.Fatalf("%s: nothing is asked", row.keys)
		}
		m.Update(cmd())
		if m.detail == nil || m.detail.title != row.title || m.detail.lines[0] != row.text {
			t.Errorf("%s: %+v", row.keys, m.detail)
		}
		press(m, "esc")
		if m.detail != nil {
			t.Errorf("%s: esc does not lead back", row.keys)
		}
	}
	if press(m, "/", "esc"); m.asking != "" {
		t.Error("esc does not end the question")
	}
	m.Update(topDetail{"long", strings.Split(strings.Repeat("x\n", 99)+"last", "\n")})
	if press(m, "end"); !strings.Contains(strings.Join(m.screen(), "\n"), "last") {
		t.Error("the end is not shown")
	}
	if cmd := press(m, "esc", "q"); cmd == nil || cmd() != (tea.QuitMsg{}) {
		t.Error("q does not end it")
	}
}

// TestTopWithoutDaemon: tables stay when the daemon goes, and the head says so.
func TestTopWithoutDaemon(t *testing.T) {
	m := fixedTop(t, uncolored)
	m.Update(topTables{err: unreachable(errors.New("gone"))})
	screen := strings.Join(m.screen(), "\n")
	if !strings.Contains(screen, "down  evpnd is not reachable: gone") || !strings.Contains(screen, "10.0.0.254") {
		t.Error(screen)
	}
}

// TestTopOnTerminal runs all of it on a pseudo-terminal.
func TestTopOnTerminal(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	stop, err := serveFake(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	tm := newTerminal(t, 80, 24)
	c := &cli{out: tm.tty, errors: tm.tty, targets: []string{socket}, format: formatTable, color: "never"}
	root := c.rootCommand()
	root.SetArgs([]string{"top"})
	root.SetIn(tm.tty)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }() // ends with q, or ctx
	tm.await(t, "PEERS 1/2")
	tm.await(t, "moved")
	tm.send(t, "/02:00:00:00:00:02\r")
	tm.await(t, "fd00:100::2")
	tm.send(t, "q")
	tm.await(t, "explain") // the keys of the first screen
	tm.send(t, "q")
	go func() { _, _ = tm.screen.WriteTo(discard{}) }() // ends with the terminal; a program never waits for its screen
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
