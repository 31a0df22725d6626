package dataplane

// waker tells a goroutine that there is something to do, however often it is told before it looks.
type waker chan struct{}

func newWaker() waker { return make(waker, 1) }

// signal never waits.
func (w waker) signal() {
	select {
	case w <- struct{}{}:
	default: // a token is there already
	}
}
