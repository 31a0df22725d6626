package evpn

// ChangeLog is a ring of the names of what changed last, for those who follow it. Changes count up from 1.
type ChangeLog[T any] struct {
	size  uint64
	ring  []T // change n stands at n modulo size
	count uint64
}

// NewChangeLog returns a log of the last size changes, size above 0. It takes room as it fills.
func NewChangeLog[T any](size int) *ChangeLog[T] { return &ChangeLog[T]{size: uint64(size)} }

// Add takes down a change.
func (l *ChangeLog[T]) Add(name T) {
	if uint64(len(l.ring)) < l.size {
		l.ring = append(l.ring, name)
	} else {
		l.ring[l.count%l.size] = name
	}
	l.count++
}

// Last returns the number of the last change; 0: there was none, or l is nil.
func (l *ChangeLog[T]) Last() uint64 {
	if l == nil {
		return 0
	}
	return l.count
}

// After returns the names of the next changes behind a number, at most limit of them, and the number of the last of these.
// With lost above 0 so many are forgotten: the reader must start over, and reads on behind upTo.
func (l *ChangeLog[T]) After(number uint64, limit int) (names []T, upTo, lost uint64) {
	if l == nil {
		return nil, 0, 0
	}
	number = min(number, l.count)
	if oldest := l.count - uint64(len(l.ring)); number < oldest {
		return nil, l.count, oldest - number
	}
	upTo = min(number+uint64(limit), l.count)
	names = make([]T, 0, upTo-number)
	for ; number < upTo; number++ {
		names = append(names, l.ring[number%l.size])
	}
	return names, upTo, 0
}

// Forget has all who follow start over: there are too many changes to name them.
func (l *ChangeLog[T]) Forget() {
	l.ring, l.count = l.ring[:0], (l.count/l.size+1)*l.size // the next one stands where an empty ring begins
}
