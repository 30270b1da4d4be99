package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/cell/containerd"
	"github.com/dewpoint-go/dewpoint/cell/local"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/logs"
)

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

func (pr *printer) header(ctx context.Context, o *options, p *dewpoint.Platform, c *local.Cell) {
	fmt.Fprintf(pr.out, "Pushing %s as %s; data in %s\n", cmp.Or(o.image, o.app), o.name, o.data)
	cells, err := p.Cells(ctx)
	if err != nil {
		return // ctx has ended
	}
	for _, s := range cells {
		limits := strings.Join(s.Total.Enforced, ", ")
		if limits == "" {
			limits = "none"
		}
		network := ", but use the machine's network"
		if s.Total.Networks {
			network = " and a network, by which they reach others, but neither this machine nor each other"
		}
		fmt.Fprintf(pr.out, "Cell %s, isolation %s: %s%s; limits that are enforced: %s\n", s.ID, s.Total.Isolation, levels[s.Total.Isolation], network, limits)
	}
	if c.Why != "" {
		fmt.Fprintf(pr.out, "No stronger isolation works here: %s\n", c.Why)
	}
	for _, l := range c.Lacks {
		fmt.Fprintf(pr.out, "Here %s\n", l)
	}
	if len(c.Hidden) > 0 {
		fmt.Fprintf(pr.out, "Tools in %s are not seen inside; -share shows a folder\n", strings.Join(c.Hidden, ", "))
	}
}

// levels say what a level of isolation does not stop.
var levels = map[string]string{
	local.None:           "apps run as plain processes of this user, so push only code you trust; they can do all that you can",
	sandbox.Landlock:     "apps do not see this user's files, but they see the machine's processes",
	sandbox.Namespaces:   "apps have files and processes of their own",
	containerd.Isolation: "apps have files and processes of their own",
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
	fmt.Fprintf(pr.out, "      [%s/%d] %s %s\n", l.Source, l.Index, mark, printable(l.Text))
}

// printable replaces what would confuse a terminal; colours stay.
func printable(s string) string {
	clean := func(r rune) bool { return r >= ' ' && r != 0x7f || r == '\t' }
	if strings.IndexFunc(s, func(r rune) bool { return !clean(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case clean(r), r == 0x1b && colour(s[i:]):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "\\x%02x", r)
		}
	}
	return b.String()
}

// colour tells whether s begins with an escape sequence that only changes how text looks.
func colour(s string) bool {
	rest, ok := strings.CutPrefix(s, "\x1b[")
	end := strings.IndexFunc(rest, func(r rune) bool { return r != ';' && (r < '0' || r > '9') })
	return ok && end >= 0 && rest[end] == 'm'
}

func (pr *printer) summary(r *dewpoint.PushResult) {
	if i := r.App.Image; i != nil {
		fmt.Fprintf(pr.out, "\n%s: image %s\n", r.App.Name, i.Ref)
	} else {
		fmt.Fprintf(pr.out, "\n%s: droplet %s, %s\n", r.App.Name, dewpoint.FormatBytes(r.Droplet.Size), buildpacks(r.Droplet))
	}
	for _, p := range r.Processes {
		fmt.Fprintf(pr.out, "%s: %d of %d instances run\n", p.Type, p.Running(), p.Instances)
	}
	if r.App.Image != nil {
		fmt.Fprintf(pr.out, "took %s in all\n", round(r.Took))
		return
	}
	spared := "none of the files was here before"
	if r.KnownFiles > 0 {
		spared = fmt.Sprintf("%d of %d files (%s) were here and were not stored again", r.KnownFiles, r.Files, dewpoint.FormatBytes(r.KnownBytes))
	}
	cache := "there was no build cache yet"
	if r.CacheUsed {
		cache = "the buildpacks were given the build cache"
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

// buildpacks names those that made a droplet.
func buildpacks(d dewpoint.Droplet) string {
	if len(d.Buildpacks) < 2 {
		return "buildpack " + d.Buildpack()
	}
	var all []string
	for _, b := range d.Buildpacks {
		all = append(all, strings.TrimSpace(cmp.Or(b.Name, b.Key)+" "+b.Version))
	}
	return "buildpacks " + strings.Join(all, ", ")
}
