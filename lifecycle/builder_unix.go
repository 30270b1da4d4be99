//go:build unix

package lifecycle

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dewpoint-go/dewpoint/droplet"
)

// Exit codes of the builder, by which a failure's reason is known (models.go of Cloud
// Foundry's buildpackapplifecycle). All else is 1. There is 226 too, for bin/finalize, but
// there as here a failure of that is one of compiling.
const (
	exitDetect  = 222
	exitCompile = 223
	exitRelease = 224
	exitSupply  = 225

	detectFailed   = "None of the buildpacks detected a compatible application"
	compileFailed  = "Failed to compile droplet"
	releaseFailed  = "Failed to build droplet release"
	supplyFailed   = "Failed to run all supply scripts"
	finalizeFailed = "Failed to run finalize script"
	noMulti        = "Error: one of the buildpacks chosen to supply dependencies does not support multi-buildpack apps"
	lastNoMulti    = "Warning: the last buildpack is not compatible with multi-buildpack apps and cannot make use of any " +
		"dependencies supplied by the buildpacks specified before it"
)

// builder is one run of the role. Its fields up to contents are its flags.
type builder struct {
	order          []string
	skipDetect     bool
	skipCertVerify bool
	build          string
	droplet        string
	result         string
	cacheOut       string
	buildpacks     string
	cache          string
	contents       string

	env     environ
	scripts *scripts
	temp    string            // our own; removed at the end, whatever ends us
	fetched map[string]string // folder by key, of buildpacks given as URLs
	used    []usedBuildpack
	final   string // folder of the last buildpack
}

func runBuilder(args []string) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	temp, err := os.MkdirTemp("", "builder-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "builder:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(temp) }()
	b := &builder{env: os.Environ(), fetched: map[string]string{}, temp: temp}
	b.scripts = &scripts{stdout: os.Stdout, stderr: os.Stderr}
	go func() {
		s := <-signals
		b.scripts.kill()
		_ = os.RemoveAll(b.temp)
		syscall.Exit(128 + int(s.(syscall.Signal)))
	}()
	err = b.run(ctx, args)
	if b.scripts.told() {
		// What failed then failed by our own hand: the signal decides the exit status.
		select {}
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	var coded *exitError
	if errors.As(err, &coded) {
		return coded.code
	}
	return 1
}

func (b *builder) parse(args []string) error {
	var order string
	fl := flag.NewFlagSet("builder", flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	fl.StringVar(&order, "buildpackOrder", "", "")
	fl.BoolVar(&b.skipDetect, "skipDetect", false, "")
	fl.BoolVar(&b.skipCertVerify, "skipCertVerify", false, "")
	for flagName, f := range map[string]struct {
		to  *string
		def string
	}{
		"buildDir":                  {&b.build, "/tmp/app"},
		"outputDroplet":             {&b.droplet, "/tmp/droplet"},
		"outputMetadata":            {&b.result, "/tmp/result.json"},
		"outputBuildArtifactsCache": {&b.cacheOut, "/tmp/output-cache"},
		"buildpacksDir":             {&b.buildpacks, "/tmp/buildpacks"},
		"buildArtifactsCacheDir":    {&b.cache, "/tmp/cache"},
		"contentsDir":               {&b.contents, ""},
	} {
		fl.StringVar(f.to, flagName, f.def, "")
	}
	if err := fl.Parse(args); err != nil {
		return fmt.Errorf("builder: %w", err)
	}
	for key := range strings.SplitSeq(order, ",") {
		if key = strings.TrimSpace(key); key != "" {
			b.order = append(b.order, key)
		}
	}
	if len(b.order) == 0 {
		return errors.New("builder: -buildpackOrder is empty; name at least one buildpack")
	}
	for _, p := range []*string{&b.build, &b.droplet, &b.result, &b.cacheOut, &b.buildpacks, &b.cache} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	return nil
}

func (b *builder) run(ctx context.Context, args []string) error {
	if err := b.parse(args); err != nil {
		return err
	}
	if err := b.env.resolveServices(ctx); err != nil {
		return err
	}
	b.env.setDatabaseURL()
	b.scripts.env = b.env
	if err := b.prepare(); err != nil {
		return fmt.Errorf("builder: prepare folders: %w", err)
	}
	if err := b.fetch(ctx); err != nil {
		return err
	}
	processes, err := b.buildpacksRun()
	if err == nil {
		err = b.finished(ctx, processes)
	}
	if err != nil {
		// What took part is told of a failure too.
		return errors.Join(err, b.tellFailure())
	}
	return nil
}

// tellFailure leaves a result.json of what took part, with output_metadata if it fits.
func (b *builder) tellFailure() error {
	r := newResult(b.used, processList{})
	if writeResult(b.result, r) == nil {
		return nil
	}
	for i := range r.LifecycleMetadata.Buildpacks {
		r.LifecycleMetadata.Buildpacks[i].OutputMetadata = nil
	}
	return writeResult(b.result, r)
}

// finished writes what the buildpacks have made.
func (b *builder) finished(ctx context.Context, processes processList) error {
	web := processes.command("web")
	if web == "" {
		fmt.Fprintln(os.Stderr, "No start command specified by buildpack or via Procfile.")
		fmt.Fprintln(os.Stderr, "App will not start unless a command is provided at runtime.")
	}
	if err := b.pack(ctx, web); err != nil {
		return fmt.Errorf("builder: %w", err)
	}
	return writeResult(b.result, newResult(b.used, processes))
}

func (b *builder) prepare() (err error) {
	if b.contents == "" {
		b.contents = filepath.Join(b.temp, "contents")
	}
	if b.contents, err = filepath.Abs(b.contents); err != nil {
		return err
	}
	dirs := []string{
		filepath.Dir(b.droplet), filepath.Dir(b.cacheOut), b.profileDir(), filepath.Join(b.cache, "final"),
		filepath.Join(b.contents, "tmp"), filepath.Join(b.contents, "logs"),
	}
	n := 1
	if b.skipDetect {
		n = len(b.order)
	}
	needed := map[string]bool{"final": true}
	for i := range n {
		dirs = append(dirs, b.depsDir(i))
		if i < n-1 {
			needed[hash64(b.order[i])] = true
			dirs = append(dirs, b.supplyCache(b.order[i]))
		}
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	old, err := os.ReadDir(b.cache)
	if err != nil {
		return err
	}
	for _, e := range old {
		if !needed[e.Name()] {
			if err := os.RemoveAll(filepath.Join(b.cache, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// index names the folder of a buildpack in deps: padded, so that names sort as they ran.
func (b *builder) index(i int) string {
	return fmt.Sprintf("%0*d", len(fmt.Sprint(len(b.order))), i)
}

func (b *builder) deps() string                  { return filepath.Join(b.contents, "deps") }
func (b *builder) depsDir(i int) string          { return filepath.Join(b.deps(), b.index(i)) }
func (b *builder) profileDir() string            { return filepath.Join(b.contents, "profile.d") }
func (b *builder) finalCache() string            { return filepath.Join(b.cache, "final") }
func (b *builder) supplyCache(key string) string { return filepath.Join(b.cache, hash64(key)) }

// pack puts the droplet together and writes it and the cache.
func (b *builder) pack(ctx context.Context, web string) error {
	info := droplet.StagingInfo{StartCommand: web}
	if n := len(b.used); n > 0 {
		info.DetectedBuildpack, info.Config = b.used[n-1].Name, b.used[n-1].Config
	}
	if err := writeJSON(filepath.Join(b.contents, droplet.StagingInfoName), info); err != nil {
		return err
	}
	app := filepath.Join(b.contents, "app")
	build, err := filepath.EvalSymlinks(b.build) // to move the folder, not a link to it
	if err != nil {
		return err
	}
	if app != build {
		if err := b.move(build, app); err != nil {
			return err
		}
	}
	for _, empty := range []string{"tmp", "logs"} {
		if err := os.MkdirAll(filepath.Join(b.contents, empty), 0o755); err != nil {
			return err
		}
	}
	if err := writeArchive(ctx, b.droplet, b.contents); err != nil {
		return err
	}
	return writeArchive(ctx, b.cacheOut, b.cache)
}

// move gives the app's folder its place in the droplet. Another file system needs a copy.
func (b *builder) move(from, to string) error {
	if err := os.Rename(from, to); err == nil {
		return nil
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := b.scripts.run("cp", "-Rp", from+"/.", to); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}

// writeArchive keeps the files' times: interpreters compare them.
func writeArchive(ctx context.Context, file, dir string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = droplet.Write(ctx, f, dir, droplet.Options{KeepTimes: true, Skipped: func(path string) {
		fmt.Fprintf(os.Stderr, "WARNING: %s is neither file, folder nor link and is left out\n", path)
	}})
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
