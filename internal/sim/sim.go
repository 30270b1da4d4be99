package sim

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"

	"github.com/dewpoint-go/dewpoint/state"
)

// Result is how a history went.
type Result struct {
	Seed uint64
	// Hash is of all events: the same seed gives the same.
	Hash uint64
	// Events counts them, Starts the works that cells were sent, Lives the platform's.
	Events, Starts, Lives int
	// Problems are the promises that were broken; none: all held.
	Problems []string
	// Last are the newest events before the first problem, or of all.
	Last []string
}

// The parts of a history.
const (
	chaosTime = 8 * time.Minute  // faults happen
	calmTime  = 35 * time.Minute // nothing does any more; back-offs and time limits end
	idleTime  = time.Hour        // in which nothing may be started or stopped
	shownLast = 80
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is everything that a history is played in.
type world struct {
	rng *rand.Rand
	now time.Time
	q   queue
	seq uint64

	hash     uint64
	events   int
	last     []string
	problems []string

	cells   []*machine
	journal *journal
	p       *platform // nil: it is down
	lives   int
	ids     int
	starts  int
	chaos   bool

	users users
	watch observed
}

type event struct {
	at  time.Time
	seq uint64
	fn  func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	e := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = event{}
	*q = (*q)[:len(*q)-1]
	return e
}

// after has something happen later.
func (w *world) after(d time.Duration, fn func()) {
	w.seq++
	heap.Push(&w.q, event{w.now.Add(d), w.seq, fn})
}

// trace, if not nil, sees each event.
var trace func(line string)

// note writes an event down.
func (w *world) note(format string, args ...any) {
	line := fmt.Sprintf("%9.3fs ", w.now.Sub(epoch).Seconds()) + fmt.Sprintf(format, args...)
	h := fnv.New64a()
	fmt.Fprintf(h, "%x %s", w.hash, line)
	w.hash = h.Sum64()
	w.events++
	if trace != nil {
		trace(line)
	}
	if len(w.problems) > 0 {
		return
	}
	if w.last = append(w.last, line); len(w.last) > 4*shownLast {
		w.last = append([]string(nil), w.last[len(w.last)-shownLast:]...)
	}
}

// problem notes a broken promise.
func (w *world) problem(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); len(w.problems) < 10 {
		w.note("BROKEN: %s", text)
		w.problems = append(w.problems, fmt.Sprintf("at %v: %s", w.now.Sub(epoch), text))
	}
}

// between returns a random duration.
func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rng.Int64N(int64(b-a)+1))
}

func (w *world) oneIn(n int) bool { return w.rng.IntN(n) == 0 }

// runUntil plays what happens until a moment, unless a promise is broken.
func (w *world) runUntil(end time.Time) {
	for len(w.q) > 0 && !w.q[0].at.After(end) && len(w.problems) == 0 {
		e := heap.Pop(&w.q).(event)
		w.now = e.at
		e.fn()
	}
	w.now = end
}

// Run plays the history of a seed.
func Run(seed uint64) Result {
	w := &world{rng: rand.New(rand.NewPCG(seed, 0x5eed)), now: epoch, chaos: true}
	w.journal = &journal{w: w, Memory: state.NewMemory()}
	w.watch = newObserved()
	w.build()
	w.begin()
	w.users.begin(w)
	w.tick()
	w.disturb()
	w.runUntil(epoch.Add(chaosTime))
	w.heal()
	w.runUntil(w.now.Add(3 * time.Minute))
	w.checkServed("three minutes after the last fault", true)
	w.runUntil(epoch.Add(chaosTime + calmTime))
	w.checkServed("when all is calm", false)
	w.checkEnd()
	starts, stops := w.calls()
	w.runUntil(w.now.Add(idleTime))
	if s, t := w.calls(); s != starts || t != stops {
		w.problem("in an idle hour there were %d starts and %d stops", s-starts, t-stops)
	}
	w.checkServed("after an idle hour", false)
	last := w.last
	if len(last) > shownLast {
		last = last[len(last)-shownLast:]
	}
	return Result{Seed: seed, Hash: w.hash, Events: w.events, Starts: w.starts, Lives: w.lives, Problems: w.problems, Last: last}
}

// build makes the cells.
func (w *world) build() {
	n := 3 + w.rng.IntN(3)
	for i := range n {
		m := &machine{
			w: w, id: fmt.Sprint("cell-", i), zone: fmt.Sprint("z", i%2), stacks: []string{"linux"},
			memory: 1000, slots: 60, works: map[string]*work{}, up: true,
		}
		switch i {
		case 1:
			m.optional = []string{"ssd"}
		case 2:
			m.stacks = append(m.stacks, "windows")
		}
		w.cells = append(w.cells, m)
	}
	tagged := &machine{w: w, id: "cell-gpu", zone: "z0", stacks: []string{"linux"}, tags: []string{"gpu"}, memory: 300, slots: 20, works: map[string]*work{}, up: true}
	w.cells = append(w.cells, tagged)
}

// newID makes the ids of works.
func (w *world) newID() string {
	w.ids++
	return fmt.Sprint("w", w.ids)
}

// disturb lets faults happen again and again.
func (w *world) disturb() {
	w.after(w.between(200*time.Millisecond, 6*time.Second), func() {
		if !w.chaos {
			return
		}
		w.fault()
		w.disturb()
	})
}

// fault lets one of them happen.
func (w *world) fault() {
	m := w.cells[w.rng.IntN(len(w.cells))]
	switch w.rng.IntN(19) {
	case 0, 1:
		m.partition(w.between(500*time.Millisecond, 40*time.Second))
	case 2:
		m.reboot(w.between(time.Second, 40*time.Second))
	case 3:
		m.breakStream()
	case 4, 5:
		m.crashOne()
	case 6:
		m.loseOne()
	case 7:
		m.squeeze(w.between(5*time.Second, time.Minute))
	case 8:
		m.retire(w.between(20*time.Second, 2*time.Minute))
	case 9:
		w.users.drain(w, m)
	case 10:
		w.journal.plan(w.oneIn(2), w.oneIn(3))
	case 11:
		if w.oneIn(2) {
			w.crash("killed")
		}
	case 12:
		w.users.removeCell(w, m)
	case 13:
		m.hush(w.between(5*time.Second, 40*time.Second))
	case 14:
		m.stick()
	case 15:
		w.fail(w.between(time.Second, 20*time.Second))
	default:
		w.users.act(w)
	}
}

// fail has the journal store nothing for a while. A task may end in that time, and its cell be lost
// before it can be stored.
func (w *world) fail(d time.Duration) {
	w.note("the journal stores nothing for %v", d)
	w.journal.out = w.now.Add(d)
	m := w.cells[w.rng.IntN(len(w.cells))]
	w.after(d/4, func() {
		if x := m.pick(func(x *work) bool { return x.live() && x.w.LRP == "" }); x != nil {
			m.finish(x, w.rng.IntN(2))
		}
	})
	w.after(d/2, func() { m.reboot(w.between(100*time.Millisecond, 2*time.Second)) })
}

// heal ends all faults.
func (w *world) heal() {
	w.chaos = false
	w.note("all faults end")
	w.journal.clear()
	if w.p == nil {
		w.begin()
	}
	for _, m := range w.cells {
		m.heal()
	}
	w.users.calm(w)
	// Some crash again when all have run for long, and that may not be told.
	for _, m := range w.cells {
		w.after(w.between(4*time.Minute, 12*time.Minute), func() {
			if w.oneIn(3) {
				m.stick()
			}
			m.crashOne()
		})
	}
}

// journal is a journal that fails when it is told to.
type journal struct {
	*state.Memory
	w       *world
	planned bool
	done    bool      // the batch is made though its answer is lost
	fatal   bool      // the platform dies of it
	out     time.Time // until then nothing can be stored
	failing bool      // it failed the last time
	began   time.Time // and since when it had, the last time that it failed,
	ended   time.Time // and until when
}

func (j *journal) plan(done, fatal bool) { j.planned, j.done, j.fatal = true, done, fatal }
func (j *journal) clear()                { j.planned, j.out = false, time.Time{} }
