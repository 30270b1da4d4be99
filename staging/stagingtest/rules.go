package stagingtest

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"sync"
	"testing"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/staging"
)

// planDetects asks for nothing in particular: that is planned, or refused for want of
// buildpacks.
func planDetects(t *testing.T, s Subject) {
	w, err := s.Runner.Plan(context.Background(), Request("detects"), nil)
	if err == nil {
		if w.ID != "detects" {
			t.Errorf("work is called %q", w.ID)
		}
		return
	}
	if e, ok := errors.AsType[*staging.Error](err); !ok || e.Reason != staging.NoBuildpacksFound {
		t.Errorf("got %v; want a work, or *staging.Error NoBuildpacksFound", err)
	}
}

func planNoCache(t *testing.T, s Subject) {
	r := Request("no-cache", s.Buildpack)
	r.CacheKey = ""
	w := plan(t, s, r)
	for _, in := range append(w.Inputs, w.Layers...) {
		if in.Source == "" {
			t.Errorf("input for %s comes from nowhere", in.Dir)
		}
	}
	for _, o := range w.Outputs {
		if o.Key == "" && !o.Inline {
			t.Errorf("output %s goes nowhere", o.Path)
		}
		if o.Inline && o.MaxBytes <= 0 {
			t.Errorf("output %s has no bound", o.Path)
		}
	}
}

func planLeavesRequest(t *testing.T, s Subject) {
	r := Request("same", s.Buildpack)
	r.Cache = &cell.Input{Source: "blob:c"}
	before := copyOf(t, r)
	plan(t, s, r)
	if !reflect.DeepEqual(before, r) {
		t.Errorf("the request was changed:\n%+v\n%+v", before, r)
	}
}

// copyOf makes a copy that shares nothing.
func copyOf[T any](t *testing.T, v T) (c T) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func resultNoCache(t *testing.T, s Subject) {
	r := Request("no-cache", s.Buildpack)
	w := plan(t, s, r)
	st := Ended(w, 0)
	s.Good(w, &st)
	dropKey(&st, r.CacheKey)
	res, err := s.Runner.Result(context.Background(), r, st)
	if err != nil || res.Cache != nil {
		t.Errorf("cache %+v, %v; a cache that was not kept is no failure, and there is none", res.Cache, err)
	}
}

func resultMany(t *testing.T, s Subject) {
	r := Request("many", s.Buildpack)
	w := plan(t, s, r)
	st := Ended(w, 0)
	s.Good(w, &st)
	// The time of the exit is the suite's own; what matters is what a driver might touch.
	before := copyOf(t, st.Outputs)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if res, err := s.Runner.Result(context.Background(), r, st); err != nil || res.Command("web") != "run-it" {
				t.Errorf("Result: %+v, %v", res, err)
			}
		})
	}
	wg.Wait()
	if !reflect.DeepEqual(before, st.Outputs) {
		t.Errorf("the status was changed:\n%+v\n%+v", before, st.Outputs)
	}
}
