package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
	"github.com/evpnd/evpnd/labs/rawpeer"
)

// hearing is an account of the local hosts that a peer is told of, for Peer.Listen.
type hearing struct {
	decoder *wire.Decoder
	want    int
	seen    map[evpn.MAC]bool
	all     chan time.Time            // gets when the last of them was told
	end     atomic.Pointer[time.Time] // when End-of-RIB was
}

func newHearing(hosts int) *hearing {
	return &hearing{decoder: wire.NewDecoder(rawpeer.Options), want: hosts, seen: map[evpn.MAC]bool{}, all: make(chan time.Time, 1)}
}

func (h *hearing) update(at time.Time, body []byte) {
	var r wire.Result
	if h.decoder.Update(body, &r) != nil {
		return
	}
	if r.EndOfRIB {
		h.end.Store(&at)
	}
	if len(h.seen) >= h.want {
		return
	}
	for _, route := range r.Reach {
		if route.Key.Type == evpn.TypeMACIP && route.Key.MAC[1] == guestMAC(0)[1] {
			h.seen[route.Key.MAC] = true
		}
	}
	if len(h.seen) >= h.want { // one message may tell of several
		h.all <- at
	}
}

// await waits for the last host.
func (h *hearing) await(ctx context.Context) (time.Time, error) {
	select {
	case at := <-h.all:
		return at, nil
	case <-time.After(limit(h.want)):
		return time.Time{}, fmt.Errorf("not all of %d hosts were announced", h.want)
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
}

// endOfRIB is when that was told; the zero time: it was not.
func (h *hearing) endOfRIB() time.Time {
	if at := h.end.Load(); at != nil {
		return *at
	}
	return time.Time{}
}
