// Command cistage turns a folder into a droplet, or an OCI image, here and now: no server, no containers.
//
//	go run ./examples/cistage -o droplet.tgz examples/apps/hello-go
//	go run ./examples/cistage -image registry.example.com/hello:1 -rootfs registry.example.com/stack:1 examples/apps/hello-go
//
// It shows what a CI program imports: package staging and its drivers, and not the platform.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dewpoint-go/dewpoint/droplet/oci"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
)

func main() {
	ctx, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A second signal ends the program at once, unless it comes with the first: timeout(1) signals its child
	// and then the whole group.
	context.AfterFunc(ctx, func() { time.AfterFunc(500*time.Millisecond, restore) })
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Caught, so that a write to a pipe without a reader fails, instead of killing us.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(run(ctx, os.Args[1:], output{os.Stdout, cancel}, output{os.Stderr, cancel}))
}

// output tells when nobody reads it any more.
type output struct {
	w      io.Writer
	broken func()
}

func (o output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		o.broken()
	}
	return n, err
}

const usage = `Usage: cistage [flags] -o DROPLET DIR
       cistage [flags] -image IMAGE -rootfs STACK DIR

Stages the app in DIR with Cloud Foundry's v2 buildpacks and writes its droplet, a tar.gz, or an
OCI image of it.

Exit status:
   0  the droplet was written, and the image
   1  anything that has no number of its own
   2  wrong flags
   3  DIR cannot be staged: it is missing, empty, or has files that cannot be pushed
   4  a buildpack is unknown, malformed or could not be fetched, or there is none
  22  no buildpack recognised the app
  23  a buildpack failed to compile the app, or to supply its part
  24  bin/release failed, or printed no YAML
  25  it took longer than -timeout
 130  interrupted

Flags:
`

// options are the command line.
type options struct {
	dir, out, cache, catalogue string
	target                     target // of out
	buildpacks, env            list
	stack, name                string
	timeout                    time.Duration
	json                       bool
	imageOptions
}

// list is a flag that can be given again and again.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("cistage", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.out, "o", "", "`file` to write the droplet to")
	f.Var(&o.buildpacks, "buildpack", "buildpack to use instead of detecting one: a name of -buildpacks, a folder, a zip, or the `URL` of a zip or git repository; may be repeated, the last builds the app")
	f.StringVar(&o.catalogue, "buildpacks", filepath.Join("examples", "buildpacks"), "`folder` with a buildpack in each subfolder, detected in the order of names")
	f.StringVar(&o.cache, "cache", "", "`folder` that keeps the app's build cache for the next time")
	f.Var(&o.env, "env", "`NAME=VALUE` for the buildpacks; may be repeated")
	f.StringVar(&o.stack, "stack", "", "CF_STACK that the buildpacks are told")
	f.StringVar(&o.name, "name", "", "name of the app; the folder's by default")
	f.DurationVar(&o.timeout, "timeout", staging.DefaultTimeout, "limit of the whole")
	f.BoolVar(&o.json, "json", false, "print the result as JSON; output of the buildpacks goes to standard error then")
	o.flags(f)
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stderr, usage)
		f.SetOutput(stderr)
		f.PrintDefaults()
		return o, err
	case err != nil:
		return o, fmt.Errorf("%w; -h lists the flags", err)
	case f.NArg() != 1 || o.out == "" && o.image == "" || o.timeout <= 0:
		return o, errors.New("one DIR, -o or -image, and a positive -timeout are needed; -h lists the flags")
	}
	for _, kv := range o.env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" {
			return o, fmt.Errorf("-env %q: write NAME=VALUE", kv)
		}
	}
	err := o.check()
	if err != nil {
		return o, err
	}
	if o.dir, err = filepath.Abs(f.Arg(0)); err != nil {
		return o, err
	}
	if o.out != "" {
		if o.target, err = checkTarget(o.out); err != nil {
			return o, fmt.Errorf("-o: %w", err)
		}
	}
	if o.cache != "" {
		if err := checkCache(o.cache); err != nil {
			return o, fmt.Errorf("-cache: %w", err)
		}
	}
	if o.name == "" {
		o.name = filepath.Base(o.dir)
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "cistage:", err)
		return 2
	}
	lines := func(l logs.Line) {
		to := stdout
		if l.Stderr || o.json {
			to = stderr
		}
		fmt.Fprintln(to, l.Text)
	}
	kept := o.out != ""
	done, err := o.spare()
	if err != nil {
		fmt.Fprintln(stderr, "cistage:", err)
		return 1
	}
	defer done()
	res, err := stage(ctx, o, lines)
	var img oci.Image
	if err == nil {
		img, err = o.export(ctx, o.out)
	}
	if o.json {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		p := report(o, res, err)
		if !kept {
			p.Droplet = nil
		}
		if img.Ref != "" {
			p.Image = &madeImage{Ref: img.Ref, Digest: img.Digest}
		}
		if jerr := e.Encode(p); err == nil {
			err = jerr
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "cistage:", err)
		return status(ctx, err)
	}
	if !o.json {
		summary(stdout, o, res, kept)
		showImage(stdout, img)
	}
	return 0
}

// status is the exit status for an error.
func status(ctx context.Context, err error) int {
	if ctx.Err() != nil {
		return 130
	}
	switch {
	case errors.Is(err, errApp):
		return 3
	case errors.Is(err, errNoBuildpacks):
		return 4
	}
	e, ok := errors.AsType[*staging.Error](err)
	if !ok {
		return 1
	}
	switch e.Reason {
	case staging.BuildpackInvalid, staging.BuildpackUnavailable, staging.NoBuildpacksFound:
		return 4
	case staging.NoAppDetected:
		return 22
	case staging.BuildpackCompileFailed, staging.BuildpackSupplyFailed:
		return 23
	case staging.BuildpackReleaseFailed:
		return 24
	case staging.Timeout:
		return 25
	}
	return 1
}

func summary(w io.Writer, o options, res staging.Result, kept bool) {
	if kept {
		fmt.Fprintf(w, "\n%s: %d bytes, sha256 %s\n", o.out, res.Droplet.Size, res.Droplet.SHA256)
	}
	for _, b := range res.Buildpacks {
		fmt.Fprintln(w, strings.TrimSpace("buildpack "+cmp.Or(b.Name, b.Key)+" "+b.Version))
	}
	for _, p := range res.Processes {
		fmt.Fprintf(w, "process %s: %s\n", p.Type, p.Command)
	}
	for _, p := range res.Phases {
		fmt.Fprintf(w, "%-7s %s\n", p.Name, p.Duration.Round(time.Millisecond))
	}
}

// printed is what -json prints.
type printed struct {
	App               string              `json:"app"`
	Droplet           *file               `json:"droplet,omitempty"`
	Image             *madeImage          `json:"image,omitempty"`
	Cache             *file               `json:"cache,omitempty"`
	DetectedBuildpack string              `json:"detectedBuildpack,omitempty"`
	Buildpacks        []staging.Buildpack `json:"buildpacks,omitempty"`
	Processes         []staging.Process   `json:"processes,omitempty"`
	Sidecars          []staging.Sidecar   `json:"sidecars,omitempty"`
	Phases            []phase             `json:"phases"`
	Error             *failure            `json:"error,omitempty"`
}

type file struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

type madeImage struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
}

type phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

type failure struct {
	Reason     staging.Reason `json:"reason,omitempty"`
	Phase      string         `json:"phase,omitempty"`
	Text       string         `json:"text"`
	ExitStatus int            `json:"exitStatus,omitempty"`
	Retryable  bool           `json:"retryable"`
}

func report(o options, res staging.Result, err error) printed {
	p := printed{App: o.name, DetectedBuildpack: res.DetectedBuildpack, Buildpacks: res.Buildpacks,
		Processes: res.Processes, Sidecars: res.Sidecars, Phases: []phase{}}
	for _, ph := range res.Phases {
		p.Phases = append(p.Phases, phase{ph.Name, ph.Duration.Seconds()})
	}
	if err != nil {
		p.Error = &failure{Text: err.Error()}
		if e, ok := errors.AsType[*staging.Error](err); ok {
			p.Error.Reason, p.Error.Phase, p.Error.ExitStatus, p.Error.Retryable = e.Reason, e.Phase, e.ExitStatus, e.Retryable
		}
		return p
	}
	p.Droplet = &file{o.out, res.Droplet.Size, res.Droplet.SHA256}
	if c := res.Cache; c != nil && o.cache != "" {
		p.Cache = &file{filepath.Join(o.cache, cacheFile), c.Size, c.SHA256}
	}
	return p
}
