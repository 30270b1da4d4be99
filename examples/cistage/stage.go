package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
)

// cacheFile is the build cache's name in the -cache folder.
const cacheFile = "build-cache.tgz"

// The names by which the cell asks for bytes and hands them over.
const (
	packageSource = "package:app"
	cacheSource   = "blob:cache"
	dropletKey    = "droplet"
	cacheKey      = "cache"
)

// stage puts the parts together, stages once and takes them apart again.
func stage(ctx context.Context, o options, out func(logs.Line)) (staging.Result, error) {
	files, err := scan(ctx, o.dir)
	if err != nil {
		return staging.Result{}, err
	}
	defer func() { _ = files.Close() }()
	a := &app{Files: files}
	work, runtime, clean, err := workFolder(ctx)
	if err != nil {
		return staging.Result{}, err
	}
	defer clean()
	runner, err := buildpacks(o, work)
	if err != nil {
		return staging.Result{}, err
	}
	agent, err := cell.New(cell.AgentConfig{ID: "local", Runtime: runtime, Open: opener(o, a, runner), Save: saver(o)})
	if err != nil {
		return staging.Result{}, err
	}
	stager, err := staging.New(staging.Config{Runner: runner, Tasks: cell.Tasks{Cell: agent}, Timeout: o.timeout})
	if err != nil {
		return staging.Result{}, err
	}
	agentCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(agentCtx) }()
	res, err := stager.Stage(ctx, request(o), out)
	err = a.blame(err)
	stop()
	if aerr := <-ended; err == nil && aerr != nil {
		err = fmt.Errorf("clean up: %w", aerr)
	}
	return res, err
}

func request(o options) staging.Request {
	r := staging.Request{
		ID: "staging", App: o.name, AppName: o.name, Stack: o.stack, Buildpacks: o.buildpacks, Env: o.env,
		Package:    cell.Input{Source: packageSource},
		DropletKey: dropletKey,
	}
	if o.cache != "" {
		r.CacheKey = cacheKey
		if _, err := os.Stat(filepath.Join(o.cache, cacheFile)); err == nil {
			r.Cache = &cell.Input{Source: cacheSource}
		}
	}
	return r
}

var errNoBuildpacks = errors.New("there are no buildpacks")

// buildpacks makes the runner, with each subfolder of -buildpacks that has a bin.
func buildpacks(o options, work string) (*buildpack.Runner, error) {
	all, err := buildpack.Folder(o.catalogue)
	if errors.Is(err, os.ErrNotExist) && len(o.buildpacks) > 0 {
		all, err = &buildpack.Catalogue{}, nil // nobody asked for its names
	}
	if err != nil {
		return nil, fmt.Errorf("%w: -buildpacks: %w; give a folder with a buildpack in each subfolder, or name one with -buildpack", errNoBuildpacks, err)
	}
	return buildpack.New(buildpack.Config{
		Catalogue: all, Local: true, Dir: filepath.Join(work, "buildpacks"),
		BaseEnv: buildpack.HostEnv(os.Environ()),
	})
}

// opener gives the cell what it asks for: the app as it lies in its folder, the cache, the
// buildpacks.
func opener(o options, a *app, runner *buildpack.Runner) func(context.Context, cell.Source) (io.ReadCloser, error) {
	return func(ctx context.Context, s cell.Source) (io.ReadCloser, error) {
		switch {
		case s == packageSource:
			return a.tar(ctx), nil
		case s == cacheSource:
			return os.Open(filepath.Join(o.cache, cacheFile))
		case strings.HasPrefix(string(s), "dir:"):
			return runner.Open(ctx, s)
		}
		return nil, fmt.Errorf("source %s: %w", s, os.ErrNotExist)
	}
}

// saver takes droplet and cache from the cell.
func saver(o options) func(context.Context, string, io.Reader) (blob.Info, error) {
	return func(_ context.Context, key string, r io.Reader) (blob.Info, error) {
		if key == dropletKey {
			return o.target.save(r)
		}
		if err := os.MkdirAll(o.cache, 0o755); err != nil {
			return blob.Info{}, err
		}
		return target{path: filepath.Join(o.cache, cacheFile)}.save(r)
	}
}
