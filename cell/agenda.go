package cell

import (
	"container/heap"
	"sync"
	"time"
)

// agenda does many small things, each at its times, a bounded number at once. It has one timer,
// and a goroutine only while something is being done.
type agenda struct {
	// width is how many may be begun at a time. One that takes longer than slowAfter no longer
	// counts, so that those that hang delay nobody else; with them there are at most most.
	width, most int

	mu     sync.Mutex // guards what follows, and the fields of entries
	queue  entries
	flying []*flight // in the order in which they began; those that are slow or over are dropped from its head
	quick  int       // flights that are not slow
	all    int       // flights
	timer  *time.Timer
}

// slowAfter is when something that is being done counts as slow.
const slowAfter = 100 * time.Millisecond

// entry is something to be done again and again.
type entry struct {
	a *agenda
	// do tells how long to wait until it is called again; false: not any more.
	do     func() (time.Duration, bool)
	due    time.Time
	place  int // in the queue; -1: not there
	gone   bool
	flight *flight
}

// flight is one call of do.
type flight struct {
	began      time.Time
	slow, over bool
	done       chan struct{}
}

// add puts something on the agenda that is done after wait for the first time.
func (a *agenda) add(wait time.Duration, do func() (time.Duration, bool)) *entry {
	e := &entry{a: a, do: do, due: time.Now().Add(wait)}
	a.mu.Lock()
	heap.Push(&a.queue, e)
	a.mu.Unlock()
	a.dispatch()
	return e
}

// remove takes e off, and returns when it is not being done any more.
func (e *entry) remove() {
	e.a.mu.Lock()
	e.gone = true
	if e.place >= 0 {
		heap.Remove(&e.a.queue, e.place)
	}
	f := e.flight
	e.a.mu.Unlock()
	if f != nil {
		<-f.done
	}
}

// size is how many entries there are.
func (a *agenda) size() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.queue) + a.all
}

// dispatch begins what is due, as far as there is room, and sets the timer for the rest.
func (a *agenda) dispatch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for len(a.flying) > 0 {
		f := a.flying[0]
		if !f.over && now.Sub(f.began) < slowAfter {
			break
		}
		if !f.over {
			f.slow = true
			a.quick--
		}
		a.flying = a.flying[1:]
	}
	for len(a.queue) > 0 && !a.queue[0].due.After(now) && a.quick < a.width && a.all < a.most {
		a.begin(heap.Pop(&a.queue).(*entry), now)
	}
	switch {
	case len(a.queue) == 0:
	case a.queue[0].due.After(now):
		a.arm(a.queue[0].due.Sub(now))
	case a.all < a.most: // full of quick ones: until one is over, or slow
		a.arm(slowAfter - now.Sub(a.flying[0].began))
	}
}

func (a *agenda) arm(d time.Duration) {
	if a.timer == nil {
		a.timer = time.AfterFunc(d, a.dispatch)
		return
	}
	a.timer.Reset(d)
}

// begin does an entry; a.mu is held.
func (a *agenda) begin(e *entry, now time.Time) {
	f := &flight{began: now, done: make(chan struct{})}
	e.flight = f
	a.flying = append(a.flying, f)
	a.quick++
	a.all++
	go func() { // remove waits for it
		wait, more := e.do()
		a.mu.Lock()
		f.over = true
		if !f.slow {
			a.quick--
		}
		a.all--
		e.flight = nil
		if more && !e.gone {
			e.due = time.Now().Add(wait)
			heap.Push(&a.queue, e)
		}
		a.mu.Unlock()
		a.dispatch()
		close(f.done)
	}()
}

// entries is a heap: what is due first is first.
type entries []*entry

func (q entries) Len() int           { return len(q) }
func (q entries) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q entries) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *entries) Push(x any) {
	e := x.(*entry)
	e.place = len(*q)
	*q = append(*q, e)
}

func (q *entries) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.place = -1
	return e
}
