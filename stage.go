package dewpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/blob/catalog"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/internal/size"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/state"
)

// stage makes a droplet of the package of a push.
func (u *push) stage(ctx context.Context) error {
	u.begin(StepStage)
	a, pkg := u.res.App, u.res.Package
	u.line(u.p.apiLine(a.ID, "Creating build for app with guid "+a.ID))
	b, d, used, err := u.p.stagePackage(ctx, a, pkg, u.line)
	u.res.Build, u.res.Droplet, u.res.CacheUsed = b, d, used
	if err != nil {
		return err
	}
	u.done("buildpack %s, process types %s", d.Buildpack(), names(d.Processes, func(pr staging.Process) string { return pr.Type }))
	u.begin(StepDroplet)
	text := fmt.Sprintf("droplet %s, sha256 %.12s", FormatBytes(d.Size), d.SHA256)
	if c, ok := caches.Get(u.p.db.View(), a.ID); ok {
		text += "; build cache " + FormatBytes(c.Size)
	}
	for _, ph := range b.Phases {
		if ph.Name == staging.PhaseSave {
			text += fmt.Sprintf("; stored in %v", ph.Duration.Round(time.Millisecond))
		}
	}
	u.done("%s", text)
	return nil
}

// names lists the names of things in words.
func names[T any](all []T, name func(T) string) string {
	list := make([]string, len(all))
	for i, x := range all {
		list[i] = name(x)
	}
	return cmp.Or(strings.Join(list, ", "), "none")
}

// Stage makes a new droplet of an app's current package, which the app then has, and
// leaves what runs as it is: Restart takes the new droplet. Of an app that is an image it asks anew what
// the name stands for, and returns no droplet.
func (p *Platform) Stage(ctx context.Context, app string, out func(logs.Line)) (Droplet, error) {
	a, err := p.App(app)
	if err != nil {
		return Droplet{}, err
	}
	ctx, unlock, err := p.lockApp(ctx, p.pushes, a.Name, false)
	if err != nil {
		return Droplet{}, fmt.Errorf("stage %s: %w", a.Name, err)
	}
	defer unlock()
	tell := func(l logs.Line) {
		p.logs.Append(l)
		if out != nil {
			out(l)
		}
	}
	pkg, ok := packages.Get(p.db.View(), a.Package)
	if !ok && a.Image != nil {
		_, _, err := p.fetchImage(ctx, a, a.Image.Name, nil, tell)
		return Droplet{}, givenUp(ctx, err)
	}
	if !ok {
		return Droplet{}, fmt.Errorf("stage %s: the app has no package; push it first", a.Name)
	}
	_, d, _, err := p.stagePackage(ctx, a, pkg, tell)
	return d, givenUp(ctx, err)
}

// stagePackage runs one staging; on success the app's current droplet is the new one. It tells
// whether an earlier build cache was at hand.
func (p *Platform) stagePackage(ctx context.Context, a App, pkg Package, out func(logs.Line)) (Build, Droplet, bool, error) {
	lease, err := p.catalog.Lease(ctx, 2*p.stagingTimeout())
	if err != nil {
		return Build{}, Droplet{}, false, err
	}
	defer p.release(ctx, lease)
	b := Build{ID: p.newID(), App: a.ID, Package: pkg.ID, State: BuildStaging, Created: p.now()}
	req, err := p.stagingRequest(ctx, a, pkg, b.ID, lease)
	if err != nil {
		return b, Droplet{}, false, err
	}
	if err := p.db.Update(ctx, func(tx *state.Tx) error { return builds.Put(tx, b) }); err != nil {
		return b, Droplet{}, false, err
	}
	res, stageErr := p.stager.Stage(ctx, req, out)
	b.Phases, b.Ended = res.Phases, p.now()
	// What was begun is recorded even if the caller has gone.
	ctx = context.WithoutCancel(ctx)
	if stageErr != nil {
		p.abandon(ctx, req.DropletKey, req.CacheKey)
		return p.buildFailed(ctx, b, out, stageErr), Droplet{}, req.Cache != nil, stageErr
	}
	d, err := p.keepDroplet(ctx, a, &b, req, res)
	if err != nil {
		p.abandon(ctx, req.DropletKey, req.CacheKey)
		return p.buildFailed(ctx, b, out, err), Droplet{}, req.Cache != nil, err
	}
	return b, d, req.Cache != nil, nil
}

func (p *Platform) buildFailed(ctx context.Context, b Build, out func(logs.Line), cause error) Build {
	b.State, b.Error = BuildFailed, cause.Error()
	var se *staging.Error
	if errors.As(cause, &se) {
		b.Reason, b.Retry = string(se.Reason), se.Retryable
	}
	out(p.apiLine(b.App, "Failed to stage build: "+b.Error))
	if err := p.db.Update(ctx, func(tx *state.Tx) error { return builds.Put(tx, b) }); err != nil {
		p.log.Error("recording a failed build failed", "build", b.ID, "error", err)
	}
	return b
}

func (p *Platform) stagingRequest(ctx context.Context, a App, pkg Package, id string, lease catalog.Lease) (staging.Request, error) {
	web := a.Process(Web)
	req := staging.Request{
		ID: id, App: a.ID, AppName: a.Name, Buildpacks: a.Buildpacks, Stack: a.Stack, Tags: a.Tags, Isolation: a.Isolation, Env: a.Env,
		Memory: web.Memory, Disk: web.Disk, Timeout: p.cfg.StagingTimeout,
		Package: cell.Input{Source: cell.Source("package:" + pkg.ID), Dir: "/tmp/app", Name: "app package"},
	}
	if c, ok := caches.Get(p.db.View(), a.ID); ok && c.Stack == a.Stack {
		req.Cache = &cell.Input{Source: blobSource(c.Key), Dir: "/tmp/cache", SHA256: c.SHA256, Name: "build artifacts cache", Optional: true}
	}
	var err error
	if req.DropletKey, err = p.catalog.Reserve(ctx, "droplet", lease); err != nil {
		return req, err
	}
	if req.CacheKey, err = p.catalog.Reserve(ctx, "cache", lease); err != nil {
		p.abandon(ctx, req.DropletKey)
		return req, err
	}
	return req, nil
}

// keepDroplet turns what a staging left into rows that keep its blobs.
func (p *Platform) keepDroplet(ctx context.Context, a App, b *Build, req staging.Request, res staging.Result) (Droplet, error) {
	ref, err := p.catalog.Commit(ctx, req.DropletKey, saved(res.Droplet))
	if err != nil {
		return Droplet{}, fmt.Errorf("keep the droplet: %w", err)
	}
	var cacheRef *catalog.Ref
	if res.Cache != nil {
		r, err := p.catalog.Commit(ctx, req.CacheKey, saved(*res.Cache))
		if err != nil {
			return Droplet{}, fmt.Errorf("keep the build cache: %w", err)
		}
		cacheRef = &r
	} else {
		p.abandon(ctx, req.CacheKey)
	}
	d := Droplet{
		ID: p.newID(), App: a.ID, Package: b.Package, Key: ref.Key, SHA256: res.Droplet.SHA256, Size: res.Droplet.Size,
		DetectedBuildpack: res.DetectedBuildpack, Buildpacks: res.Buildpacks, Processes: res.Processes, Sidecars: res.Sidecars, Created: p.now(),
	}
	b.State, b.Droplet = BuildStaged, d.ID
	err = p.db.Update(ctx, func(tx *state.Tx) error {
		row, ok := apps.Get(tx, a.ID)
		if !ok {
			return fmt.Errorf("app %s was deleted while it was staged", a.Name)
		}
		if err := p.catalog.Use(tx, "droplet:"+d.ID, d.Key); err != nil {
			return err
		}
		if err := droplets.Put(tx, d); err != nil {
			return err
		}
		if cacheRef != nil {
			p.catalog.Unuse(tx, "cache:"+a.ID)
			if err := p.catalog.Use(tx, "cache:"+a.ID, cacheRef.Key); err != nil {
				return err
			}
			if err := caches.Put(tx, buildCache{App: a.ID, Stack: a.Stack, Key: cacheRef.Key, SHA256: res.Cache.SHA256, Size: res.Cache.Size}); err != nil {
				return err
			}
		}
		row.Droplet, row.Image, row.Updated = d.ID, nil, p.now()
		logins.Delete(tx, a.ID)
		for _, pr := range d.Processes {
			if row.Process(pr.Type).Memory == 0 {
				row.set(newProcess(pr.Type))
			}
		}
		if err := apps.Put(tx, row); err != nil {
			return err
		}
		if err := builds.Put(tx, *b); err != nil {
			return err
		}
		p.expire(tx, row)
		return nil
	})
	return d, err
}

// abandon gives reserved blobs up. What fails here is found by the sweep.
func (p *Platform) abandon(ctx context.Context, keys ...string) {
	for _, k := range keys {
		if k == "" {
			continue
		}
		if err := p.catalog.Abandon(context.WithoutCancel(ctx), k); err != nil {
			p.log.Warn("giving a reserved blob up failed; the sweep will find it", "key", k, "error", err)
		}
	}
}

func (p *Platform) release(ctx context.Context, l catalog.Lease) {
	if err := p.catalog.Release(context.WithoutCancel(ctx), l); err != nil {
		p.log.Warn("releasing a lease failed; it ends by itself", "error", err)
	}
}

// apiLine is a line that the platform itself says to an app's owner.
func (p *Platform) apiLine(app, text string) logs.Line {
	return logs.Line{App: app, Source: "API", Time: p.now(), Text: text}
}

// FormatBytes writes a size as Cloud Foundry's log lines do: "45.6M".
func FormatBytes(n int64) string { return size.Text(n) }

// ParseBytes reads a size as Cloud Foundry's manifests write it: "512M", "1G", "1.5GB",
// "64k"; the units are powers of 1024. A number without a unit is refused.
func ParseBytes(s string) (int64, error) {
	bad := fmt.Errorf("size %q: write a number and a unit, such as 512M or 1G", s)
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
		i++
	}
	n, err := strconv.ParseFloat(s[:i], 64)
	if err != nil {
		return 0, bad
	}
	var unit float64
	switch s[i:] {
	case "B", "b":
		unit = 1
	case "K", "k", "KB", "kb", "KiB":
		unit = 1 << 10
	case "M", "m", "MB", "mb", "MiB":
		unit = 1 << 20
	case "G", "g", "GB", "gb", "GiB":
		unit = 1 << 30
	case "T", "t", "TB", "tb", "TiB":
		unit = 1 << 40
	default:
		return 0, bad
	}
	v := n * unit
	if v < 1 || v > 1<<60 {
		return 0, fmt.Errorf("size %q is out of range", s)
	}
	return int64(v), nil
}
