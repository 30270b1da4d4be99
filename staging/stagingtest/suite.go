// Package stagingtest is the conformance suite of staging.BuildpackRunner, with a
// staging.TaskRunner that plays works.
package stagingtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
)

const emptySHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func itoa(n int) string { return strconv.Itoa(n) }

// Subject is what a suite is run on.
type Subject struct {
	Runner staging.BuildpackRunner
	// Buildpack is a name that Runner knows.
	Buildpack string
	// Good completes the Status of a work that ended well (all saved outputs are there
	// already) with what the kind of buildpacks leaves behind for a web process whose
	// command is "run-it".
	Good func(w cell.Work, s *cell.Status)
}

// Run holds a BuildpackRunner to its contract. open is called for each part.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	t.Helper()
	parts := []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"Plan asks for what staging needs", planAsks},
		{"Plan is plain data and the same each time", planSame},
		{"Plan names the buildpack that it does not know", planUnknown},
		{"Plan ends with its context", planCancelled},
		{"Plan may be called by many at once", planMany},
		{"Plan without buildpacks", planDetects},
		{"Plan without a cache", planNoCache},
		{"Plan leaves its request alone", planLeavesRequest},
		{"the platform's environment cannot be forged", planEnv},
		{"Result of a good work", resultGood},
		{"Result without a cache", resultNoCache},
		{"Result may be called by many at once, and leaves what it reads alone", resultMany},
		{"Result of failed works", resultFailed},
		{"Result of what makes no sense", resultNonsense},
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.test(t, open(t))
		})
	}
}

// Request returns a complete request for one staging.
func Request(id string, buildpacks ...string) staging.Request {
	return staging.Request{
		ID: id, App: "app-" + id, AppName: "hello",
		Package:    cell.Input{Source: "package:p-1"},
		Buildpacks: buildpacks,
		Env:        []string{"COLOUR=red", "COLOUR=blue", "VCAP_APPLICATION=forged", "MEMORY_LIMIT=forged"},
		DropletKey: "droplets/" + id, CacheKey: "caches/" + id,
	}
}

func plan(t *testing.T, s Subject, r staging.Request) cell.Work {
	t.Helper()
	w, err := s.Runner.Plan(context.Background(), r, func(logs.Line) {})
	if err != nil {
		t.Fatalf("Plan: %v", err)
	}
	return w
}

func planAsks(t *testing.T, s Subject) {
	r := Request("asks", s.Buildpack)
	r.Cache = &cell.Input{Source: "blob:old-cache", SHA256: emptySHA}
	w := plan(t, s, r)
	if w.ID != r.ID {
		t.Errorf("work is called %q; the staging %q", w.ID, r.ID)
	}
	if w.Health != nil || len(w.Sidecars) > 0 {
		t.Error("a staging is a task: no health check, no sidecars")
	}
	if w.Process.Path == "" || w.Process.Grace != 0 {
		t.Errorf("process %q with grace %s; want one, killed at once when it is cancelled", w.Process.Path, w.Process.Grace)
	}
	if sp := w.Spec; sp.Memory < staging.MinMemory || sp.Disk < staging.MinDisk || sp.PIDs != staging.PIDs || sp.NoFile != staging.NoFile {
		t.Errorf("spec %+v is less than staging is given", sp)
	}
	if w.Log.App != r.App || w.Log.Source != "STG" {
		t.Errorf("log tag %+v; want the app's, source STG", w.Log)
	}
	in := map[cell.Source]cell.Input{}
	for _, i := range append(w.Inputs, w.Layers...) {
		in[i.Source] = i
		if i.Dir == "" {
			t.Errorf("input %s goes nowhere", i.Source)
		}
	}
	if p, ok := in[r.Package.Source]; !ok || p.Optional {
		t.Errorf("the package is not among the inputs, or optional: %+v", w.Inputs)
	}
	if c, ok := in[r.Cache.Source]; !ok || !c.Optional || c.SHA256 != r.Cache.SHA256 {
		t.Errorf("the cache is not among the inputs, or it is not optional, or unchecked: %+v", w.Inputs)
	}
	keys := map[string]bool{}
	for _, o := range w.Outputs {
		keys[o.Key] = true
	}
	if !keys[r.DropletKey] || !keys[r.CacheKey] {
		t.Errorf("outputs %+v; want droplet and cache", w.Outputs)
	}
	big := Request("big", s.Buildpack)
	big.Memory, big.Disk, big.Stack = 3<<30, 9<<30, ""
	if w := plan(t, s, big); w.Spec.Memory != big.Memory || w.Spec.Disk != big.Disk {
		t.Errorf("spec %+v; the request asks for more than the least", w.Spec)
	}
}

func planSame(t *testing.T, s Subject) {
	r := Request("same", s.Buildpack)
	a, b := plan(t, s, r), plan(t, s, r)
	if !reflect.DeepEqual(a, b) {
		t.Errorf("two plans of one request differ:\n%+v\n%+v", a, b)
	}
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var back cell.Work
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a, back) {
		t.Errorf("the plan does not survive a journey as JSON:\n%+v\n%+v", a, back)
	}
}

func planUnknown(t *testing.T, s Subject) {
	_, err := s.Runner.Plan(context.Background(), Request("unknown", "no-such-buildpack"), nil)
	var e *staging.Error
	if !errors.As(err, &e) || e.Reason != staging.BuildpackInvalid {
		t.Fatalf("got %v; want *staging.Error BuildpackInvalid", err)
	}
	if !strings.Contains(e.Error(), "no-such-buildpack") {
		t.Errorf("%q does not name the buildpack", e)
	}
}

func planCancelled(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Runner.Plan(ctx, Request("cancelled", s.Buildpack), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want the context's error", err)
	}
}

func planMany(t *testing.T, s Subject) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := Request(fmt.Sprint("many-", i), s.Buildpack)
			if w, err := s.Runner.Plan(context.Background(), r, nil); err != nil || w.ID != r.ID {
				t.Errorf("Plan %s: work %q, %v", r.ID, w.ID, err)
			}
		})
	}
	wg.Wait()
}

func planEnv(t *testing.T, s Subject) {
	r := Request("env", s.Buildpack)
	r.Services = json.RawMessage(`{"db":[]}`)
	r.Env = append(r.Env, "VCAP_SERVICES=forged", "CF_STACK=forged")
	env := map[string]string{}
	for _, kv := range plan(t, s, r).Process.Env {
		k, v, _ := strings.Cut(kv, "=")
		if _, ok := env[k]; ok {
			t.Errorf("%s is set twice; which one counts is then a matter of the program that reads it", k)
		}
		env[k] = v
	}
	if env["VCAP_SERVICES"] != `{"db":[]}` {
		t.Errorf("VCAP_SERVICES=%q; want the platform's", env["VCAP_SERVICES"])
	}
	if env["LANG"] == "" {
		t.Error("LANG is not set")
	}
	if env["COLOUR"] != "blue" {
		t.Errorf("COLOUR=%q; of two values the later wins", env["COLOUR"])
	}
	var app map[string]any
	if err := json.Unmarshal([]byte(env["VCAP_APPLICATION"]), &app); err != nil || app["application_id"] != r.App {
		t.Errorf("VCAP_APPLICATION=%q; want the platform's", env["VCAP_APPLICATION"])
	}
	if env["MEMORY_LIMIT"] != "1024m" {
		t.Errorf("MEMORY_LIMIT=%q; want 1024m", env["MEMORY_LIMIT"])
	}
}

func resultGood(t *testing.T, s Subject) {
	r := Request("good", s.Buildpack)
	w := plan(t, s, r)
	st := Ended(w, 0)
	s.Good(w, &st)
	res, err := s.Runner.Result(context.Background(), r, st)
	if err != nil {
		t.Fatalf("Result: %v", err)
	}
	if res.Droplet.Key != r.DropletKey || res.Droplet.SHA256 == "" {
		t.Errorf("droplet %+v", res.Droplet)
	}
	if res.Cache == nil || res.Cache.Key != r.CacheKey {
		t.Errorf("cache %+v", res.Cache)
	}
	if got := res.Command("web"); got != "run-it" {
		t.Errorf("web process %q of %+v", got, res.Processes)
	}
	if len(res.Buildpacks) != 1 || res.Buildpacks[0].Name == "" && res.Buildpacks[0].Key == "" {
		t.Errorf("buildpacks %+v; want the one that took part", res.Buildpacks)
	}
}

func resultFailed(t *testing.T, s Subject) {
	r := Request("failed", s.Buildpack)
	for _, c := range []struct {
		reason cell.Reason
		want   staging.Reason
		retry  bool
	}{
		{cell.ReasonTimeout, staging.Timeout, false},
		{cell.ReasonStopped, staging.Canceled, false},
		{cell.ReasonLost, staging.CellLost, true},
		{cell.ReasonInput, staging.StagingError, true},
		{cell.ReasonOutput, staging.StagingError, true},
		{cell.ReasonArchive, staging.StagingError, false},
		{cell.ReasonCreate, staging.StagingError, true},
		{cell.ReasonInternal, staging.StagingError, true},
	} {
		// A text that ends like an exit code must not be taken for one.
		st := cell.Status{ID: r.ID, Phase: cell.PhaseDone, Reason: c.reason, Failure: "something about 222", Last: []string{"the last line"}}
		_, err := s.Runner.Result(context.Background(), r, st)
		var e *staging.Error
		switch {
		case !errors.As(err, &e):
			t.Errorf("%s: %v; want *staging.Error", c.reason, err)
		case e.Reason != c.want || e.Retryable != c.retry:
			t.Errorf("%s: reason %s, retryable %t; want %s, %t", c.reason, e.Reason, e.Retryable, c.want, c.retry)
		case len(e.Last) != 1:
			t.Errorf("%s: the last lines are missing", c.reason)
		}
	}
	st := cell.Status{ID: r.ID, Phase: cell.PhaseDone, Reason: cell.ReasonExit, Failure: "STG: Exited with status 9", Exit: &cell.Exit{Code: 9}}
	_, err := s.Runner.Result(context.Background(), r, st)
	var e *staging.Error
	if !errors.As(err, &e) || e.ExitStatus != 9 {
		t.Errorf("exit 9: %v; want *staging.Error with that status", err)
	}
}

func resultNonsense(t *testing.T, s Subject) {
	r := Request("nonsense", s.Buildpack)
	w := plan(t, s, r)
	for name, spoil := range map[string]func(*cell.Status){
		"never ended":   func(st *cell.Status) { st.Exit = nil },
		"no outputs":    func(st *cell.Status) { st.Outputs = nil },
		"no droplet":    func(st *cell.Status) { dropKey(st, r.DropletKey) },
		"garbage files": func(st *cell.Status) { setInline(st, []byte("{{{")) },
	} {
		st := Ended(w, 0)
		s.Good(w, &st)
		spoil(&st)
		_, err := s.Runner.Result(context.Background(), r, st)
		if _, ok := errors.AsType[*staging.Error](err); !ok {
			t.Errorf("%s: got %v; want *staging.Error", name, err)
		}
	}
}

func dropKey(s *cell.Status, key string) {
	for path, o := range s.Outputs {
		if o.Key == key {
			delete(s.Outputs, path)
		}
	}
}

func setInline(s *cell.Status, data []byte) {
	for path, o := range s.Outputs {
		if o.Data != nil {
			o.Data = data
			s.Outputs[path] = o
		}
	}
}
