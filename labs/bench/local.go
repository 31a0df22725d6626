package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// localMAC measures from a new host's first frame to the UPDATE at the peer.
func localMAC(samples int) measure {
	return measure{
		name: "local-mac", vnis: 1, sessions: 1, speakersOnly: true,
		about: "first frame of a new local host to the UPDATE at the peer",
		play: func(ctx context.Context, t *trial) error {
			fd, err := packetSocket(t.host, "guest", 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			var took []time.Duration
			for i := range samples {
				mac := guestMAC(i + 1)
				heard := make(chan time.Time, 1)
				t.peers[0].Listen(func(at time.Time, body []byte) {
					if bytes.Contains(body, mac[:]) {
						select {
						case heard <- at:
						default: // said twice
						}
					}
				})
				start := time.Now()
				if _, err := unix.Write(fd, frame(broadcast, mac, etherTypeTest, nil)); err != nil {
					return fmt.Errorf("send a frame: %w", err)
				}
				select {
				case at := <-heard:
					took = append(took, at.Sub(start))
				case <-time.After(20 * time.Second):
					return fmt.Errorf("host %d was never announced", i)
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			t.addLatencies(took)
			return nil
		},
	}
}

// advertise has many local hosts speak at once.
func advertise(n int) measure {
	return measure{
		name: fmt.Sprintf("advertise/%d", n), vnis: 1, sessions: 1, speakersOnly: true,
		about: "so many new local hosts send a frame each: from the first to the last route at the peer",
		play: func(ctx context.Context, t *trial) error {
			fd, err := packetSocket(t.host, "guest", 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			before, err := cpuTime(t.processes)
			if err != nil {
				return err
			}
			h := newHearing(n)
			t.peers[0].Listen(h.update)
			start := time.Now()
			for i := range n {
				if _, err := unix.Write(fd, frame(broadcast, guestMAC(i+1), etherTypeTest, nil)); err != nil {
					return fmt.Errorf("send frame %d: %w", i, err)
				}
			}
			at, err := h.await(ctx)
			if err != nil {
				return err
			}
			t.addTime("time", at.Sub(start))
			if err := t.settle(ctx); err != nil {
				return err
			}
			after, err := cpuTime(t.processes)
			t.add("cpu", "µs/route", (after-before).Seconds()*1e6/float64(n))
			return err
		},
	}
}

// remoteARP measures from a gratuitous ARP on one host to the neighbour entry in the kernel of another: both run the subject.
func remoteARP(samples int) measure {
	return measure{
		name: "arp-to-remote-kernel", vnis: 1, speakersOnly: true,
		about: "gratuitous ARP of a new host to the neighbour entry in the other host's kernel",
		play: func(ctx context.Context, t *trial) error {
			other, err := newHost(ctx, otherVTEP, 1)
			if err != nil {
				return err
			}
			u := &subject{kind: t.kind, settings: t.settings, host: other}
			defer u.close()
			stop(t.processes, unix.SIGKILL) // it was started for a peer of the other kind
			t.processes = nil
			if err := joinUnderlays(ctx, t.host, other); err != nil {
				return err
			}
			var err1, err2 error
			u.processes, err1 = t.kind.start(ctx, t.settings, other, []session{{peer: ownVTEP, passive: true}})
			t.processes, err2 = t.kind.start(ctx, t.settings, t.host, []session{{peer: otherVTEP}})
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			took, err := t.gratuitous(ctx, other, samples)
			if err != nil {
				return errors.Join(err, u.logs())
			}
			t.addLatencies(took)
			return nil
		},
	}
}

func (t *trial) gratuitous(ctx context.Context, other *host, samples int) ([]time.Duration, error) {
	fd, err := packetSocket(t.host, "guest", 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	o, err := observe(other, "")
	if err != nil {
		return nil, err
	}
	defer o.close()
	var took []time.Duration
	for i := range samples + 1 {
		var ip [4]byte
		copy(ip[:], []byte{172, 16, byte(i >> 8), byte(i)})
		frame := gratuitousARP(guestMAC(i+1), netip.AddrFrom4(ip))
		start := time.Now()
		if _, err := unix.Write(fd, frame); err != nil {
			return nil, fmt.Errorf("send a gratuitous ARP: %w", err)
		}
		// The first one also waits for the session.
		end, err := o.await(time.Minute, counted(false, 1, 1))
		if err := errors.Join(err, ctx.Err()); err != nil {
			return nil, fmt.Errorf("gratuitous ARP %d: %w", i, err)
		}
		if i > 0 {
			took = append(took, end.Sub(start))
		}
	}
	return took, nil
}
