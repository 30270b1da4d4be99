package catalog_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dewpoint-go/dewpoint/blob/blobtest"
	"github.com/dewpoint-go/dewpoint/blob/catalog"
)

// promised is what callers of the catalog were told and rely on.
type promised struct {
	data   map[string]string                 // key → bytes, of all keys ever told
	leases map[catalog.Lease]time.Time       // → expiry
	held   map[catalog.Lease]map[string]bool // → keys
	used   map[string]map[string]bool        // owner → keys
	open   map[string]catalog.Lease          // reserved keys
	alias  map[string]string                 // alias → bytes
}

// TestNothingNeededGoesAndNothingElseStays plays random callers on a store that fails, with
// crashes at any moment, and asks after each step for all that was promised.
func TestNothingNeededGoesAndNothingElseStays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, t.Context())
		m := &promised{
			data: map[string]string{}, leases: map[catalog.Lease]time.Time{}, held: map[catalog.Lease]map[string]bool{},
			used: map[string]map[string]bool{}, open: map[string]catalog.Lease{}, alias: map[string]string{},
		}
		rt.Repeat(m.actions(w))
		m.finish(rt, w)
	})
}

func pick[V any](rt *rapid.T, name string, from map[string]V) string {
	keys := slices.Sorted(maps.Keys(from))
	if len(keys) == 0 {
		rt.Skip("none yet")
	}
	return rapid.SampledFrom(keys).Draw(rt, name)
}

func (m *promised) lease(rt *rapid.T) catalog.Lease {
	keys := slices.Sorted(maps.Keys(m.leases))
	if len(keys) == 0 {
		rt.Skip("no lease yet")
	}
	return rapid.SampledFrom(keys).Draw(rt, "lease")
}

func (m *promised) hold(l catalog.Lease, key string) {
	if m.held[l] == nil {
		m.held[l] = map[string]bool{}
	}
	m.held[l][key] = true
}

// trouble makes the store fail now and then while act runs.
func (m *promised) trouble(rt *rapid.T, w *world, act func()) {
	faults := rapid.SliceOfN(rapid.SampledFrom([]blobtest.Fault{
		blobtest.None, blobtest.None, blobtest.NotDone, blobtest.Done, blobtest.Midway,
	}), 0, 4).Draw(rt, "faults")
	next := make(chan blobtest.Fault, len(faults)) // operations may come from several goroutines
	for _, f := range faults {
		next <- f
	}
	w.store.Decide(func(blobtest.Op, string) blobtest.Fault {
		select {
		case f := <-next:
			return f
		default:
			return blobtest.None
		}
	})
	act()
	w.store.Decide(nil)
}

func (m *promised) actions(w *world) map[string]func(*rapid.T) {
	text := rapid.StringOfN(rapid.SampledFrom([]rune("ab")), 0, 3, -1)
	return map[string]func(*rapid.T){
		"": func(rt *rapid.T) { m.check(rt, w) },
		"lease": func(rt *rapid.T) {
			l, err := w.Lease(w.ctx, time.Hour)
			require.NoError(rt, err)
			m.leases[l] = w.now.Add(time.Hour)
		},
		"put": func(rt *rapid.T) {
			l, data := m.lease(rt), text.Draw(rt, "data")
			alias := ""
			if rapid.Bool().Draw(rt, "alias") {
				alias = sha(data)
				m.alias[alias] = data
			}
			m.trouble(rt, w, func() {
				ref, err := w.putAs("kind", alias, l, strings.NewReader(data))
				if err == nil {
					m.data[ref.Key] = data
					m.hold(l, ref.Key)
				}
			})
		},
		"crash in a put": func(rt *rapid.T) {
			l, data := m.lease(rt), text.Draw(rt, "data")
			_, err := w.Put(w.ctx, "kind", l, &sweepMidway{strings.NewReader(data), func() { _ = w.db.Close() }})
			require.Error(rt, err)
			w.open()
		},
		"reserve": func(rt *rapid.T) {
			l := m.lease(rt)
			key, err := w.Reserve(w.ctx, "kind", l)
			if err == nil {
				m.open[key] = l
			}
		},
		"commit": func(rt *rapid.T) {
			key, data := pick(rt, "key", m.open), text.Draw(rt, "data")
			l := m.open[key]
			delete(m.open, key)
			m.trouble(rt, w, func() {
				saved, err := w.store.Put(w.ctx, key, strings.NewReader(data))
				if err != nil {
					_ = w.Abandon(w.ctx, key)
					return
				}
				if ref, err := w.Commit(w.ctx, key, saved); err == nil {
					m.data[ref.Key] = data
					m.hold(l, ref.Key)
				}
			})
		},
		"find": func(rt *rapid.T) {
			l := m.lease(rt)
			aliases := slices.Sorted(maps.Keys(m.alias))
			found, err := w.FindPin(w.ctx, "kind", aliases, l)
			if err != nil {
				return
			}
			for i, ref := range found {
				if ref.Key != "" {
					m.data[ref.Key] = m.alias[aliases[i]]
					m.hold(l, ref.Key)
				}
			}
		},
		"use": func(rt *rapid.T) {
			key := pick(rt, "key", m.data)
			owner := fmt.Sprint("owner:", rapid.IntRange(0, 3).Draw(rt, "owner"))
			if w.use(owner, key) == nil {
				if m.used[owner] == nil {
					m.used[owner] = map[string]bool{}
				}
				m.used[owner][key] = true
			}
		},
		"unuse": func(rt *rapid.T) {
			owner := pick(rt, "owner", m.used)
			w.unuse(owner)
			delete(m.used, owner)
		},
		"release": func(rt *rapid.T) { m.release(rt, w, m.lease(rt)) },
		"time passes": func(rt *rapid.T) {
			w.now = w.now.Add(time.Duration(rapid.IntRange(1, 90).Draw(rt, "minutes")) * time.Minute)
		},
		"sweep": func(rt *rapid.T) {
			m.trouble(rt, w, func() { _, _ = w.Sweep(w.ctx) })
		},
		"crash": func(*rapid.T) { w.crash() },
	}
}

func (m *promised) release(rt *rapid.T, w *world, l catalog.Lease) {
	require.NoError(rt, w.Release(w.ctx, l))
	delete(m.leases, l)
	delete(m.held, l)
}

func (m *promised) check(rt *rapid.T, w *world) {
	want := func(key, why string) {
		got, err := w.read(key)
		require.NoError(rt, err, why)
		require.Equal(rt, m.data[key], got, why)
	}
	for l, keys := range m.held {
		if w.now.Before(m.leases[l]) {
			for key := range keys {
				want(key, "held by a lease")
			}
		}
	}
	for owner, keys := range m.used {
		for key := range keys {
			want(key, "used by "+owner)
		}
	}
}

func (m *promised) finish(rt *rapid.T, w *world) {
	for l := range m.leases {
		m.release(rt, w, l)
	}
	for owner := range m.used {
		w.unuse(owner)
	}
	w.now = w.now.Add(3 * time.Hour)
	w.sweep()
	require.Empty(rt, w.stored())
	for key := range m.data {
		_, err := w.Explain(key)
		require.Error(rt, err)
	}
	require.NoError(rt, w.db.Close())
}
