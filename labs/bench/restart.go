package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// restarting is what becomes of a restart.
type restarting struct {
	local    int    // hosts behind the port
	messages []byte // what the first peer tells again: all but the hosts that have vanished, and last the marker
	marker   evpn.MAC
	vanished int           // hosts that nobody tells of any more
	patience time.Duration // for them to go
	traffic  *traffic
	observer *observer
}

// restart ends the subject and starts it again. It is told everything once more, but for the last hundredth, whose hosts have
// vanished meanwhile and have so long to go, and one route that is new at the end: when that one is in the kernel, so is what came before it.
func restart(l load, how string, sig os.Signal, patience time.Duration) measure {
	return measure{
		name: fmt.Sprintf("restart/%s/%d", how, l.N), vnis: 1, sessions: 2, speakersOnly: true,
		about: "the daemon ends and starts again: to the session, to its own hosts and the end of them at the peer, to the last of " +
			"the routes it is told again, to when the entries of a hundredth that it is not told again are gone; frames lost; memory",
		play: func(ctx context.Context, t *trial) error {
			if err := t.install(ctx, l); err != nil {
				return err
			}
			r := restarting{local: l.N / 100, vanished: l.N / 100, patience: patience}
			if err := t.localHosts(ctx, r.local); err != nil {
				return err
			}
			kept, last := l, l
			kept.N -= r.vanished
			last.From, last.N = l.N, 1
			messages, err1 := kept.Messages()
			end, err2 := last.Messages()
			o, err3 := observe(t.host, fmt.Sprintf("vxlan%d", l.VNI))
			if err := errors.Join(err1, err2, err3); err != nil {
				return err
			}
			defer o.close()
			r.messages, r.marker, r.observer = append(messages, end...), last.MAC(0), o
			flow, err := startTraffic(t.host, l, min(kept.N, 1000), 500*time.Microsecond)
			if err != nil {
				return err
			}
			defer flow.close()
			r.traffic = flow
			if err := poll(ctx, 10*time.Second, "frames to the VTEP", func() bool { _, left, _ := flow.counts(); return left > 500 }); err != nil {
				return err
			}
			return t.again(ctx, r, sig)
		},
	}
}

// localHosts has so many hosts speak and waits until they are announced.
func (t *trial) localHosts(ctx context.Context, n int) error {
	fd, err := packetSocket(t.host, "guest", 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	h := newHearing(n)
	t.peers[0].Listen(h.update)
	defer t.peers[0].Listen(nil)
	for i := range n {
		if _, err := unix.Write(fd, frame(broadcast, guestMAC(i+1), etherTypeTest, nil)); err != nil {
			return fmt.Errorf("send frame %d: %w", i, err)
		}
	}
	_, err = h.await(ctx)
	return err
}

func (t *trial) again(ctx context.Context, r restarting, sig os.Signal) error {
	h := newHearing(r.local)
	start := time.Now()
	stop(t.processes, sig)
	t.disconnect()
	t.hears = h.update
	begun := time.Now()
	if err := errors.Join(t.startSpeaker(ctx), t.connect(ctx, 1)); err != nil {
		return err
	}
	t.hears = nil
	t.addTime("session", time.Since(start))
	if err := t.connect(ctx, 2); err != nil { // it waits for the End-of-RIB of all its peers
		return err
	}
	written := make(chan error, 1)
	eor := wire.AppendEoR(nil)
	go func() { // ends when all is told
		written <- errors.Join(t.peers[0].Write(r.messages), t.peers[0].Write(eor), t.peers[1].Write(eor))
	}()
	converged, err := r.observer.await(limit(len(r.messages)/30), arrived(r.marker))
	if err := errors.Join(err, <-written); err != nil {
		return err
	}
	t.addTime("converged", converged.Sub(start))
	left := r.vanished
	gone, err := r.observer.await(r.patience, func(e entry) bool {
		if e.fdb && e.gone {
			left--
		}
		return left <= 0
	})
	t.add("vanished hosts left", "hosts", float64(max(0, left)))
	if err == nil { // FRR leaves what an earlier life has written (8.4.4)
		t.addTime("vanished hosts gone", gone.Sub(start))
	}
	if err := errors.Join(t.settle(ctx), rest(ctx, time.Second), t.addHeard(ctx, h, begun), t.addResident("afterwards"), r.traffic.close()); err != nil {
		return err
	}
	sent, arrived, _ := r.traffic.counts()
	t.add("frames lost", "‰", 1000*float64(max(0, sent-arrived))/float64(sent))
	return nil
}

// addHeard takes in when the peer had everything, counted from the start of the program.
func (t *trial) addHeard(ctx context.Context, h *hearing, begun time.Time) error {
	all, err := h.await(ctx)
	if err != nil {
		return err
	}
	t.addTime("own hosts told, from start", all.Sub(begun))
	if end := h.endOfRIB(); !end.IsZero() { // for who knows nothing of graceful restart there is none
		t.addTime("End-of-RIB told, from start", end.Sub(begun))
	}
	return nil
}
