package state

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Memory is a Journal that keeps bytes in memory, for tests: a DB that is closed and opened
// again over it proves that its rows can be read back. Faults can be planned. Its methods
// may be called by any number of goroutines. NewMemory makes one.
type Memory struct {
	mu      sync.Mutex
	rev     uint64
	rows    map[rowID]Row
	faults  []Fault
	fenced  bool
	commits int
}

// Fault is what shall befall one Commit. The zero Fault is none.
type Fault struct {
	// Wait holds the Commit, before it does anything, until the channel is closed or its
	// context ends. Nil: no waiting.
	Wait <-chan struct{}
	// Err is returned; nil: the Commit succeeds.
	Err error
	// Done makes the batch durable although Err is returned: the answer was lost.
	Done bool
}

// NewMemory returns an empty journal.
func NewMemory() *Memory { return &Memory{rows: map[rowID]Row{}} }

var _ Journal = (*Memory)(nil)

// Inject plans faults for the next Commits, one each, after those planned already.
func (m *Memory) Inject(faults ...Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = append(m.faults, faults...)
}

// Fence lets every further Commit fail with ErrFenced, until the next Load.
func (m *Memory) Fence() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fenced = true
}

// Commits returns how often Commit was called.
func (m *Memory) Commits() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.commits
}

// Load yields the rows of the moment in which it is called, by table and key.
func (m *Memory) Load(context.Context) (uint64, iter.Seq2[Row, error], error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fenced = false
	rows := slices.SortedFunc(maps.Values(m.rows), func(a, b Row) int {
		return cmp.Or(strings.Compare(a.Table, b.Table), strings.Compare(a.Key, b.Key))
	})
	return m.rev, func(yield func(Row, error) bool) {
		for _, r := range rows {
			r.Value = slices.Clone(r.Value)
			if !yield(r, nil) {
				return
			}
		}
	}, nil
}

// Commit applies a batch, or what Inject planned for it.
func (m *Memory) Commit(ctx context.Context, b Batch) error {
	var f Fault
	m.mu.Lock()
	m.commits++
	if len(m.faults) > 0 {
		f, m.faults = m.faults[0], m.faults[1:]
	}
	m.mu.Unlock()
	if f.Wait != nil {
		select {
		case <-f.Wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.Err != nil && !f.Done {
		return f.Err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.apply(b), f.Err)
}

func (m *Memory) apply(b Batch) error {
	switch {
	case m.fenced:
		return ErrFenced
	case b.Rev == m.rev && m.rev > 0:
		return nil
	case b.Rev != m.rev+1:
		return fmt.Errorf("state: commit of revision %d: the newest one is %d, so %d must be next", b.Rev, m.rev, m.rev+1)
	}
	for _, r := range b.Rows {
		id := rowID{r.Table, r.Key}
		if r.Value == nil {
			delete(m.rows, id)
			continue
		}
		r.Value, r.Rev = slices.Clone(r.Value), b.Rev
		m.rows[id] = r
	}
	m.rev = b.Rev
	return nil
}

// Close does nothing: the bytes stay, for the next DB over them.
func (m *Memory) Close() error { return nil }
