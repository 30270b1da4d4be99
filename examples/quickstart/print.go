package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/logs"
)

// defaults fills in what was not given.
func (o *options) defaults() error {
	if o.app == "" {
		o.app = filepath.Join("examples", "apps", "hello-go")
		if _, err := os.Stat(o.app); err != nil {
			return usageError{fmt.Errorf("-app: give the folder of an app (the default %s is found only in Dewpoint's own checkout)", o.app)}
		}
		if len(o.buildpacks) == 0 {
			o.buildpacks = list{filepath.Join("examples", "buildpacks", "go")}
		}
	}
	if len(o.buildpacks) == 0 {
		return usageError{fmt.Errorf("-buildpack: give a folder, zip or URL of a buildpack that can build %s", o.app)}
	}
	if o.name == "" {
		abs, err := filepath.Abs(o.app)
		if err != nil {
			return err
		}
		base := filepath.Base(abs)
		o.name = strings.ToLower(strings.TrimSuffix(base, filepath.Ext(base)))
	}
	if o.data == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			cache = os.TempDir()
		}
		o.data = filepath.Join(cache, "dewpoint-quickstart")
	}
	if o.instances < 1 {
		return usageError{fmt.Errorf("-instances: %d; the check needs one at least", o.instances)}
	}
	return nil
}

// hostEnv is what a buildpack may know of this machine: where its tools are.
func hostEnv() []string {
	var env []string
	for _, k := range []string{"PATH", "GOROOT", "GOPROXY", "GOFLAGS", "GOTOOLCHAIN", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// printer writes what a person reads. It is used by one goroutine at a time.
type printer struct {
	out  io.Writer
	last logs.Position // of the lines of instances printed
}

var titles = map[dewpoint.Step]string{
	dewpoint.StepScan:    "Files",
	dewpoint.StepRecord:  "Record",
	dewpoint.StepMatch:   "Resource match",
	dewpoint.StepUpload:  "Upload",
	dewpoint.StepPackage: "Package",
	dewpoint.StepStage:   "Staging",
	dewpoint.StepDroplet: "Droplet and cache",
	dewpoint.StepRun:     "Schedule",
	dewpoint.StepHealthy: "Start",
}

func (pr *printer) header(ctx context.Context, o options, p *dewpoint.Platform) {
	fmt.Fprintf(pr.out, "Pushing %s as %s; data in %s\n", o.app, o.name, o.data)
	for _, s := range p.Cells(ctx) {
		note := ""
		if s.Total.Isolation == "none" {
			note = ": apps run as plain processes of this user; push only code you trust"
		}
		fmt.Fprintf(pr.out, "Cell %s, isolation %s%s\n", s.ID, s.Total.Isolation, note)
	}
}

func (pr *printer) progress(e dewpoint.Progress) {
	switch {
	case e.Line != nil:
		pr.line(*e.Line)
	case e.Done:
		fmt.Fprintf(pr.out, "   ok %-18s %8s  %s\n", titles[e.Step], round(e.Took), e.Text)
	default:
		fmt.Fprintf(pr.out, "== %s\n", titles[e.Step])
	}
}

func (pr *printer) line(l logs.Line) {
	pr.last = max(pr.last, l.Pos)
	mark := "OUT"
	if l.Stderr {
		mark = "ERR"
	}
	fmt.Fprintf(pr.out, "      [%s/%d] %s %s\n", l.Source, l.Index, mark, l.Text)
}

func (pr *printer) summary(r *dewpoint.PushResult) {
	fmt.Fprintf(pr.out, "\n%s: droplet %s, buildpack %s\n", r.App.Name, dewpoint.FormatBytes(r.Droplet.Size), r.Droplet.Buildpack())
	for _, p := range r.Processes {
		fmt.Fprintf(pr.out, "%s: %d of %d instances run\n", p.Type, p.Running(), p.Instances)
	}
	spared := "no file was here before"
	if r.KnownFiles > 0 {
		spared = fmt.Sprintf("%d of %d files (%s) were here and were not stored again", r.KnownFiles, r.Files, dewpoint.FormatBytes(r.KnownBytes))
	}
	cache := "no build cache yet"
	if r.CacheUsed {
		cache = "the build cache was used"
	}
	fmt.Fprintf(pr.out, "spared: %s; %s\ntook %s in all\n", spared, cache, round(r.Took))
}

// follow prints the app's lines, from where the push ended, until ctx ends.
func (pr *printer) follow(ctx context.Context, p *dewpoint.Platform, a dewpoint.App) {
	for l, err := range p.Logs(ctx, a.ID, pr.last, true) {
		if err != nil {
			break
		}
		pr.line(l)
	}
	<-ctx.Done()
}

func round(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d > 100*time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
