package lrp

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// DefaultGrace is how long an instance may take from SIGTERM to SIGKILL if its template
// does not say.
const DefaultGrace = 10 * time.Second

// What Validate allows at most.
const (
	MaxInstances  = 1_000_000
	MaxAnnotation = 10 << 10  // bytes, as in Cloud Foundry
	MaxWork       = 192 << 10 // bytes of the template as JSON: a cell keeps it beside the container
)

// WorkFor returns the work of one instance: the template with the id, the process and the
// index filled in. Without a Health it is healthy while its process runs; without a Grace it gets
// DefaultGrace. It shares memory with the template and must not be changed.
func (d *Desired) WorkFor(index int, guid string) cell.Work {
	w := d.Work
	w.ID, w.LRP, w.Index = guid, string(d.ID), index
	w.Log.Index = index
	if w.Health == nil {
		w.Health = &cell.Health{Type: "process"}
	}
	if w.Process.Grace == 0 {
		w.Process.Grace = DefaultGrace
	}
	return w
}

var idForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// Validate tells everything that is wrong with a Desired, in one error; nil: nothing.
func Validate(d Desired) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !idForm.MatchString(string(d.ID)) {
		bad("id %q: use 1 to 128 of a-z, A-Z, 0-9, \"-\", \"_\" and \".\", not beginning with \"-\" or \".\"", d.ID)
	}
	if d.Instances < 0 || d.Instances > MaxInstances {
		bad("instances is %d: use 0 to %d", d.Instances, MaxInstances)
	}
	if len(d.Annotation) > MaxAnnotation {
		bad("annotation has %d bytes: %d is the most", len(d.Annotation), MaxAnnotation)
	}
	w := d.Work
	if w.LRP != "" && w.LRP != string(d.ID) || w.ID != "" || w.Index != 0 {
		bad("work must leave id, lrp and index empty: they are each instance's own")
	}
	if w.Timeout != 0 {
		bad("work has a timeout of %v: a long-running process has none", w.Timeout)
	}
	if len(w.Outputs) > 0 {
		bad("work has %d outputs: a long-running process has none", len(w.Outputs))
	}
	validateSpec(w.Spec, bad)
	validateProcess("process", w.Process, bad)
	for i, p := range w.Sidecars {
		validateProcess(fmt.Sprintf("sidecar %d", i), p, bad)
	}
	if w.Health != nil {
		if err := cell.CheckHealth(w.Health, w.Spec.Ports); err != nil {
			bad("%v", err)
		}
	}
	if b, err := json.Marshal(w); err != nil {
		bad("work cannot be encoded: %v", err)
	} else if len(b) > MaxWork {
		bad("work has %d bytes as JSON: %d is the most; pass large values as files", len(b), MaxWork)
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("lrp: process %q: %w", d.ID, errors.Join(errs...))
}

func validateSpec(s cell.Spec, bad func(string, ...any)) {
	limits := []struct {
		name  string
		value int64
	}{{"memory", s.Memory}, {"disk", s.Disk}, {"cpu", int64(s.CPU)}, {"pids", int64(s.PIDs)}, {"nofile", int64(s.NoFile)}}
	for _, l := range limits {
		if l.value < 0 {
			bad("%s is %d: use 0 (no limit) or more", l.name, l.value)
		}
	}
	if s.CPU > 100 {
		bad("cpu is %d: the weight is 1 to 100, or 0 for the default", s.CPU)
	}
	if s.Stack != "" && s.Image != "" {
		bad("stack %q and image %q: use one of them", s.Stack, s.Image)
	}
	seen := map[int]bool{}
	for _, p := range s.Ports {
		if p < 1 || p > 65535 {
			bad("port %d: use 1 to 65535", p)
		}
		if seen[p] {
			bad("port %d is there twice", p)
		}
		seen[p] = true
	}
}

func validateProcess(name string, p cell.Process, bad func(string, ...any)) {
	if p.Path == "" {
		bad("%s has no path: name the program to run", name)
	}
	if p.Grace < 0 {
		bad("%s has a grace of %v: use 0 (%v) or more", name, p.Grace, DefaultGrace)
	}
	for i, e := range p.Env {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" {
			bad("%s: environment entry %d is not NAME=VALUE", name, i) // it may be a secret: not shown
		}
	}
}
