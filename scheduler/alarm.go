package scheduler

import (
	"container/heap"
	"time"

	"github.com/dewpoint-go/dewpoint/lrp"
)

// alarm is a moment at which something must be looked at.
type alarm struct {
	at    time.Time
	seq   uint64 // of two at one time the older comes first
	kind  alarmKind
	id    string
	check check
}

type alarmKind int

const (
	alarmLRP alarmKind = iota
	alarmTask
	alarmAttended
	alarmCheck
	alarmStart // a Start whose answer was unknown is sent again
	alarmRoom  // what has no place is tried again
	alarmAll
)

type alarms struct {
	list []alarm
	seq  uint64
}

func (a *alarms) Len() int { return len(a.list) }
func (a *alarms) Less(i, j int) bool {
	x, y := &a.list[i], &a.list[j]
	if !x.at.Equal(y.at) {
		return x.at.Before(y.at)
	}
	return x.seq < y.seq
}
func (a *alarms) Swap(i, j int) { a.list[i], a.list[j] = a.list[j], a.list[i] }
func (a *alarms) Push(x any)    { a.list = append(a.list, x.(alarm)) }
func (a *alarms) Pop() any {
	last := a.list[len(a.list)-1]
	a.list = a.list[:len(a.list)-1]
	return last
}

// set adds an alarm.
func (c *Core) set(a alarm) {
	c.alarms.seq++
	a.seq = c.alarms.seq
	heap.Push(&c.alarms, a)
}

// looksKey names a process or task among the looks.
func looksKey(kind alarmKind, id string) string {
	return string(rune('a'+kind)) + id
}

// setFor sets the moment at which a process or task must be looked at, unless it is looked at
// sooner anyway: each look finds the next moment anew.
func (c *Core) setFor(kind alarmKind, id string, at time.Time) {
	key := looksKey(kind, id)
	if old, ok := c.looks[key]; ok && !old.After(at) {
		return
	}
	c.looks[key] = at
	c.set(alarm{at: at, kind: kind, id: id})
}

// wake returns the time of the next Step.
func (c *Core) wake(now time.Time) time.Time {
	if c.Pending() {
		if len(c.out)+len(c.confirmed) == 0 && now.Before(c.retry) {
			return c.retry
		}
		return now
	}
	var at time.Time
	if len(c.alarms.list) > 0 {
		at = c.alarms.list[0].at
	}
	if c.phase == listening && (at.IsZero() || c.patience.Before(at)) {
		at = c.patience
	}
	return at
}

// ring marks what alarms are due for.
func (c *Core) ring(now time.Time) {
	for len(c.alarms.list) > 0 && !c.alarms.list[0].at.After(now) {
		a := heap.Pop(&c.alarms).(alarm)
		switch a.kind {
		case alarmLRP:
			c.dirty[lrp.ID(a.id)] = struct{}{}
		case alarmTask:
			c.dirtyT[a.id] = struct{}{}
		case alarmAttended:
			if c.attended[a.id] != nil {
				c.dirtyA[a.id] = struct{}{}
			}
		case alarmCheck:
			c.checks.add(a.check)
		case alarmStart:
			c.resend(a.id)
		case alarmRoom:
			c.retryUnplaced()
		case alarmAll:
			c.all = true
		}
		if a.kind <= alarmAttended {
			if key := looksKey(a.kind, a.id); c.looks[key].Equal(a.at) {
				delete(c.looks, key)
			}
		}
	}
}
