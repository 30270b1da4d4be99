package dewpoint

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/state"
)

// routedApps makes a platform with apps of ten instances that serve, a route each, and the set of
// these instances.
func routedApps(t testing.TB, n int) (*Platform, *instanceSet) {
	t.Helper()
	p, err := New(Config{})
	require.NoError(t, err)
	set := newInstanceSet()
	set.begin()
	for from := 0; from < n; from += 1000 {
		require.NoError(t, p.db.Update(t.Context(), func(tx *state.Tx) error {
			for i := from; i < min(from+1000, n); i++ {
				putRouted(t, tx, i, 0)
			}
			return nil
		}))
	}
	for i := range n {
		for k := range 10 {
			set.apply(serve(i, 0, k, 0))
		}
	}
	set.apply(lrp.Event{Synced: true})
	return p, set
}

// putRouted stores an app that runs a version of itself.
func putRouted(t testing.TB, tx *state.Tx, i, version int) {
	a := App{ID: fmt.Sprint("app-", i), Name: fmt.Sprint("app-", i), Started: version >= 0}
	if version >= 0 {
		pr := Process{Type: Web, LRP: versionOf(i, version)}
		if version == 2 {
			pr.Successor = versionOf(i, 0)
		}
		a.set(pr)
	}
	require.NoError(t, apps.Put(tx, a))
	require.NoError(t, routes.Put(tx, Route{Host: fmt.Sprintf("app-%d.example.com", i), App: a.ID}))
}

func versionOf(i, version int) lrp.ID { return lrp.ID(fmt.Sprintf("app-%d-v%d", i, version)) }

// serve is the event of an instance that has begun to serve, for the nth time.
func serve(i, version, index, n int) lrp.Event {
	guid := fmt.Sprintf("%d-%d-%d-%d", i, version, index, n)
	return lrp.Event{Instance: lrp.Instance{LRP: versionOf(i, version), Index: index, GUID: guid, State: lrp.Running, Routable: true,
		Addresses: []cell.Address{{Port: 8080, Host: guid}}}}
}

// What follows changes comes to the same as what looks at everything, whatever the changes.
func TestRoutesFollowChanges(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(11, 4))
	p, set := routedApps(t, 6)
	other, err := New(Config{})
	require.NoError(t, err)
	p.follow(set)
	for step := range 400 {
		for range 1 + rng.IntN(4) {
			i, version, index := rng.IntN(6), rng.IntN(3), rng.IntN(3)
			switch what := rng.IntN(12); what {
			case 0, 1, 2, 3:
				set.apply(serve(i, version, index, step))
			case 4:
				e := serve(i, version, index, step)
				e.Instance.State, e.Instance.Others = lrp.Claimed, []lrp.Occupant{{GUID: fmt.Sprint("old-", step), Routable: true, Addresses: e.Instance.Addresses}}
				set.apply(e)
			case 5, 6:
				e := serve(i, version, index, step)
				e.Gone = true
				set.apply(e)
			case 7:
				if rng.IntN(5) == 0 { // changes were missed: all is told again
					set.begin()
					set.apply(serve(i, version, index, step))
					set.apply(lrp.Event{Synced: true})
				}
			default:
				require.NoError(t, p.db.Update(t.Context(), func(tx *state.Tx) error {
					host := fmt.Sprintf("app-%d.example.com", rng.IntN(6))
					switch what {
					case 8:
						putRouted(t, tx, i, version)
					case 9:
						putRouted(t, tx, i, -1)
					case 10:
						routes.Delete(tx, host)
						return routes.Put(tx, Route{Host: host, App: fmt.Sprint("app-", i), HTTP2: rng.IntN(2) == 0})
					case 11:
						routes.Delete(tx, host)
						apps.Delete(tx, fmt.Sprint("app-", i))
					}
					return nil
				}))
			}
		}
		p.follow(set)

		other.db, other.table, other.routed.apps = p.db, nil, nil // it begins anew
		other.router.SetTable(router.NewTable(nil))
		other.publish(set.list())
		require.Equal(t, slices.Sorted(maps.Keys(other.table)), slices.Sorted(maps.Keys(p.table)), "step %d", step)
		for key, want := range other.table {
			require.True(t, sameRoute(want, p.table[key]), "step %d: %s is %+v, want %+v", step, key, p.table[key], want)
		}
		given := map[string]bool{}
		for r := range p.router.Table().All() {
			given[r.Host+r.Path] = sameRoute(r, p.table[r.Host+r.Path])
		}
		for key := range p.table {
			require.True(t, given[key], "step %d: the router was not given %s", step, key)
		}
		require.Len(t, given, len(p.table))
		assert.Equal(t, other.routed.lrps, p.routed.lrps)
		assert.Equal(t, other.routed.guids, p.routed.guids)
		assert.Equal(t, other.routed.known, p.routed.known)
	}
}

// BenchmarkFollow takes an instance of one of so many apps that is replaced into the router's table.
func BenchmarkFollow(b *testing.B) {
	for _, n := range []int{10, 100, 1_000, 10_000} {
		b.Run(fmt.Sprintf("instances=%d", 10*n), func(b *testing.B) {
			p, set := routedApps(b, n)
			p.follow(set)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				set.apply(serve(i%n, 0, i%10, i))
				p.follow(set)
			}
		})
	}
}

// BenchmarkPublish looks at everything instead.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{10, 100, 1_000, 10_000} {
		b.Run(fmt.Sprintf("instances=%d", 10*n), func(b *testing.B) {
			p, set := routedApps(b, n)
			for b.Loop() {
				p.publish(set.list())
			}
		})
	}
}
