package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// squat makes a process of the tests take the name of ClaimNamespace and wait for the end of its input.
const squat = "DATAPLANE_TEST_SQUAT"

func squatName() {
	l, err := net.Listen("unix", namespaceName)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("taken")
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = l.Close()
	os.Exit(0)
}

func TestOneServesANamespace(t *testing.T) {
	first, err := claimNamespace(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 300 { // more than a queue of connections holds
		if _, err := nameHolder(); err != nil {
			t.Fatal(err)
		}
	}
	second, err := claimNamespace(t.Context(), 50*time.Millisecond)
	var taken *takenError
	if !errors.As(err, &taken) || second != nil || taken.pid != os.Getpid() {
		t.Errorf("the second one: %v, want one that names pid %d", err, os.Getpid())
	}
	elsewhere := make(chan error)
	go func() { // in another network namespace there is room; the thread is thrown away
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			var n *namespaceClaim
			if n, err = claimNamespace(context.Background(), 0); err == nil {
				err = n.close()
			}
		}
		elsewhere <- err
	}()
	if err := <-elsewhere; err != nil {
		t.Errorf("in another namespace: %v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = first.close() })
	third, err := claimNamespace(t.Context(), deadline)
	if err != nil {
		t.Fatalf("when the first one ends: %v", err)
	}
	if err := third.close(); err != nil {
		t.Error(err)
	}
}

// TestNobodyKeepsEvpndAwayByTheName: without rights one can take it, and is passed by; with them one is believed.
func TestNobodyKeepsEvpndAwayByTheName(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	for _, c := range []struct {
		name string
		attr syscall.SysProcAttr
		want string
	}{
		{"a user", syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}, "may not write"},
		{"root of a namespace of their own", syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}},
		}, "may not write"},
		{"root", syscall.SysProcAttr{}, "another evpnd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), squat+"=1")
			cmd.SysProcAttr, cmd.Stderr = &c.attr, os.Stderr
			in, err1 := cmd.StdinPipe()
			out, err2 := cmd.StdoutPipe()
			if err := errors.Join(err1, err2, cmd.Start()); err != nil {
				t.Fatal(err)
			}
			defer func() {
				in.Close()
				if err := cmd.Wait(); err != nil {
					t.Error(err)
				}
			}()
			if _, err := io.ReadFull(out, make([]byte, len("taken"))); err != nil {
				t.Fatal(err)
			}
			n, err := claimNamespace(t.Context(), 50*time.Millisecond)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), fmt.Sprint("pid ", cmd.Process.Pid)) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if n != nil {
				if err := n.close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestASecondOneServesNothing, says so, touches nothing of the first, and serves when the first is gone.
func TestASecondOneServesNothing(t *testing.T) {
	newLab(t)
	opt := options()
	opt.Exclusive = true
	opt.VNIs = map[evpn.VNI]VNIOptions{10: {}, 77: {Create: true}}
	first := newPlane(t, opt)
	ctl := first.start()
	ctl.wait(t, "both VNIs", func() bool { return ctl.attached[10].Usable && ctl.attached[77].Usable })
	first.must(addVTEP(vtep2), addFlood(vtep2), addFDB(macA, vtep2), addNeighbor(hostA, macA))
	before := tables(t)

	second := newPlane(t, opt)
	second.patience = 10 * time.Millisecond
	other := second.start()
	faults, err := second.Diagnose(nil)
	if i := slices.IndexFunc(faults, func(f evpn.Fault) bool { return f.Code == evpn.FaultNamespaceTaken }); err != nil || i < 0 ||
		!strings.Contains(faults[i].Detail, fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("the doctor finds %+v, %v", faults, err)
	}
	second.Reconfigure(options()) // which takes 77 out, whose devices the first one made
	other.look(func() {
		if len(other.attached) != 0 || len(other.entries[0]) != 0 {
			t.Errorf("the second one has %v and %v", other.attached, other.entries[0])
		}
	})
	if failed := second.write(addFDB(macB, vtep2)); len(failed) != 1 {
		t.Error("the second one writes")
	}
	if err := second.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if now := tables(t); !slices.Equal(before, now) {
		t.Errorf("the second one took %q and made %q", only(before, now), only(now, before))
	}
	if _, there := device(t, "vxlan77"); !there {
		t.Error("the second one removed a device that the first one made")
	}
	err = first.namespace.close()
	if first.namespace = nil; err != nil {
		t.Error(err)
	}
	other.wait(t, "the second one to serve", func() bool {
		return other.attached[10].Usable && other.entries[10][addFDB(macA, vtep2).Key].Ours && len(other.entries[0]) == 1
	})
	if faults := second.topo.diagnoseClaim(); len(faults) != 0 {
		t.Errorf("faults %v", faults)
	}
}

// TestWhoServesNothingClaimsNothing, until there is a VNI to serve, and then at once.
func TestWhoServesNothingClaimsNothing(t *testing.T) {
	newLab(t)
	opt := options()
	opt.Exclusive, opt.AutoVNIs = true, false
	idle := newPlane(t, opt)
	c := idle.start()
	other, err := claimNamespace(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.close(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	opt.VNIs = map[evpn.VNI]VNIOptions{10: {}}
	idle.Reconfigure(opt)
	c.wait(t, "the VNI", func() bool { return c.attached[10].Usable })
	if took := time.Since(begun); took > claimAgain/2 {
		t.Errorf("it took %s", took)
	}
	if _, err := claimNamespace(t.Context(), 0); err == nil {
		t.Error("nobody has the claim")
	}
}
