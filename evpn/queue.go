package evpn

// queueBlock is how many entries a block of a queue holds: all that waits on an ordinary day, in 4 KiB.
const queueBlock = 256

// queue is the entries that wait to be written, first in, first out. A flood makes it as long as the tables, and then it is
// empty again: so it grows by blocks, which needs no copying, and lets go of each as it is worked off.
type queue struct {
	blocks [][]holder // all but the last one are full
	taken  int        // of the first block
}

func (q *queue) len() int {
	last := len(q.blocks) - 1
	if last < 0 {
		return 0
	}
	return last*queueBlock + len(q.blocks[last]) - q.taken
}

func (q *queue) add(h holder) {
	last := len(q.blocks) - 1
	if last < 0 || len(q.blocks[last]) == queueBlock {
		q.blocks = append(q.blocks, make([]holder, 0, queueBlock))
		last++
	}
	q.blocks[last] = append(q.blocks[last], h)
}

// next takes out the first entry. There must be one.
func (q *queue) next() holder {
	first := q.blocks[0]
	h := first[q.taken]
	first[q.taken] = nil
	if q.taken++; q.taken < len(first) {
		return h
	}
	q.taken = 0
	if len(q.blocks) == 1 {
		q.blocks[0] = first[:0] // kept for the next
	} else {
		q.blocks[0] = nil
		q.blocks = q.blocks[1:]
	}
	return h
}
