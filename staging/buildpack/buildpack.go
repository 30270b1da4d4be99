package buildpack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
)

// Config says what a Runner works with.
type Config struct {
	// Catalogue of buildpacks. Required; it may be empty.
	Catalogue Lister
	// BaseEnv is what every staging's environment begins with, "K=V": the PATH of cells
	// without a root filesystem, a proxy. git is run with it, too. The library reads no
	// environment of its own.
	BaseEnv []string
	// Group is the environment group of all stagings; an app's own wins.
	Group []string
	// Dir is where packed and fetched buildpacks are kept, as files named by digest. "": a
	// temporary folder, made when it is first needed and removed by Close.
	Dir string
	// Keep, if set, moves an archive to where other machines reach it, and says where that
	// is: it makes a blob of it, say. Called for archives that lie in files of this
	// machine, also again for the same digest. Nil: they are named "dir:FILE".
	Keep func(ctx context.Context, sha256 string, open func() (io.ReadCloser, error)) (cell.Source, error)
	// NoCustom refuses URLs in requests; those in the Catalogue are allowed.
	NoCustom bool
	// Local lets requests name folders and archives of this machine by their path, or as
	// "dir:PATH". For programs whose every user owns the machine, never for a server.
	Local bool
	// Git is the program to clone with; "": "git".
	Git string
	// Client downloads zips; nil: one that gives up after 10 minutes.
	Client *http.Client
	// MaxFetch is the largest zip to download, in bytes; 0: 2 GiB.
	MaxFetch int64
	Now      func() time.Time // nil: time.Now
}

// Runner is the staging.BuildpackRunner for Cloud Foundry's v2 buildpacks. All methods may
// be called by any number of goroutines; it starts none.
type Runner struct {
	cfg Config

	mu    sync.Mutex
	dir   string // where archives are kept; "" until needed
	temp  bool   // dir is ours to remove
	locks map[string]*turn
	known map[string]archive // by path or URL
}

var _ staging.BuildpackRunner = (*Runner)(nil)

// New returns a Runner. Nothing is touched before the first Plan.
func New(c Config) (*Runner, error) {
	if c.Catalogue == nil {
		return nil, errors.New("buildpack: Config.Catalogue is missing; give a *Catalogue, which may be empty")
	}
	if c.Client == nil {
		c.Client = &http.Client{Timeout: 10 * time.Minute}
	}
	if c.MaxFetch <= 0 {
		c.MaxFetch = 2 << 30
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Git = cmp.Or(c.Git, "git")
	return &Runner{cfg: c, dir: c.Dir, locks: map[string]*turn{}, known: map[string]archive{}}, nil
}

// Close removes the temporary folder, if one was made. Works that were planned and not yet
// run can no longer fetch their buildpacks.
func (b *Runner) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.temp {
		return nil
	}
	dir := b.dir
	b.dir, b.temp, b.known = "", false, map[string]archive{}
	return os.RemoveAll(dir)
}

// Open yields what a Plan of this Runner named as "dir:FILE". Of all other sources:
// fs.ErrNotExist. Whoever answers for a cell's AgentConfig.Open can ask it.
func (b *Runner) Open(_ context.Context, s cell.Source) (io.ReadCloser, error) {
	file, ok := strings.CutPrefix(string(s), "dir:")
	if !ok || !b.planned(file) {
		return nil, fmt.Errorf("buildpack archive %s: %w", s, fs.ErrNotExist)
	}
	return os.Open(file)
}

// planned tells whether a file is an archive of ours, so that Open gives no other away.
func (b *Runner) planned(file string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dir != "" && filepath.Dir(file) == filepath.Clean(b.dir) && isArchive(filepath.Base(file)) {
		return true
	}
	for _, a := range b.known {
		if a.file == file {
			return true
		}
	}
	return false
}

// chosen is a buildpack that takes part.
type chosen struct {
	Entry
	key string // by which the builder knows it
}

// Plan implements staging.BuildpackRunner. Buildpacks given by URL are fetched here, and out
// is told; every other failure is known before anything is fetched.
func (b *Runner) Plan(ctx context.Context, r staging.Request, out func(logs.Line)) (cell.Work, error) {
	if err := ctx.Err(); err != nil {
		return cell.Work{}, err
	}
	list, err := b.choose(r)
	if err != nil {
		return cell.Work{}, err
	}
	say := func(text string) {
		if out != nil {
			out(logs.Line{App: r.App, Source: "STG", Instance: r.ID, Time: b.cfg.Now(), Text: text})
		}
	}
	w := work(r)
	var keys []string
	for _, c := range list {
		in, err := b.input(ctx, c, say)
		if err != nil {
			return cell.Work{}, err
		}
		w.Layers = append(w.Layers, in)
		keys = append(keys, c.key)
	}
	w.Process.Args = arguments(keys, len(r.Buildpacks) > 0)
	base := append([]string{"USER=vcap", "HOME={{path /home/vcap}}", "TMPDIR={{path /tmp}}"}, b.cfg.BaseEnv...)
	w.Process.Env = staging.Env(r, base, b.cfg.Group)
	return w, nil
}

// choose picks the buildpacks of a request: those that it names, or all.
func (b *Runner) choose(r staging.Request) ([]chosen, error) {
	all := b.cfg.Catalogue.List()
	fail := func(reason staging.Reason, text string) error {
		return &staging.Error{Reason: reason, Staging: r.ID, Name: r.AppName, Phase: staging.PhasePlan, Text: text}
	}
	var list []chosen
	if len(r.Buildpacks) == 0 {
		for _, e := range enabled(all, r.Stack) {
			list = append(list, chosen{e, e.Name})
		}
		if len(list) == 0 {
			text := "there are no buildpacks"
			if r.Stack != "" {
				text += " for stack " + r.Stack
			}
			return nil, fail(staging.NoBuildpacksFound, text)
		}
		return list, nil
	}
	for _, name := range r.Buildpacks {
		e, ok := find(all, name, r.Stack)
		switch {
		case ok && e.Disabled:
			return nil, fail(staging.BuildpackInvalid, fmt.Sprintf("buildpack %s is disabled", name))
		case ok:
			list = append(list, chosen{e, e.Name})
			continue
		case b.cfg.Local && isLocal(name):
			list = append(list, chosen{Entry{Name: filepath.Base(name), Location: "dir:" + strings.TrimPrefix(name, "dir:")}, urlKey(name)})
			continue
		case nameForm.MatchString(name):
			text := fmt.Sprintf("there is no buildpack %s", name)
			if r.Stack != "" {
				text += " for stack " + r.Stack
			}
			return nil, fail(staging.BuildpackInvalid, text)
		case b.cfg.NoCustom:
			return nil, fail(staging.CustomBuildpacksDisabled, "")
		}
		l, err := parseURL(name)
		if err != nil {
			return nil, fail(staging.BuildpackInvalid, "buildpack "+err.Error())
		}
		list = append(list, chosen{Entry{Name: l.shown, Location: name}, urlKey(name)})
	}
	return list, nil
}

// isLocal tells a path of this machine from a URL and from a name.
func isLocal(name string) bool {
	if strings.HasPrefix(name, "dir:") {
		return true
	}
	if strings.Contains(name, "://") {
		return false
	}
	_, err := os.Stat(name)
	return err == nil || !nameForm.MatchString(name) // a path that is wrong is told as such
}

// urlKey is what the builder knows a URL or path by: it must not fetch again what lies there, and a
// URL may hold a comma or a password.
func urlKey(url string) string { return "url-" + hash64(url) }

// hash64 names a buildpack's folder: upstream's xxh64 in hex.
func hash64(key string) string { return fmt.Sprintf("%016x", xxhash.Sum64String(key)) }

// work is what all stagings have in common: staging_action_builder.rb of Cloud Controller.
func work(r staging.Request) cell.Work {
	w := cell.Work{
		ID: r.ID, Spec: staging.Spec(r), Timeout: r.Timeout,
		Process: cell.Process{Path: "lifecycle:builder"},
		Log:     cell.LogTag{App: r.App, Source: "STG"},
		Outputs: []cell.Output{
			{Path: dropletPath, Key: r.DropletKey, Name: "droplet"},
			{Path: resultPath, Inline: true, OnFailure: true, MaxBytes: 50 << 10},
		},
	}
	p := r.Package
	p.Dir, p.Optional, p.Name = "/tmp/app", false, cmp.Or(p.Name, "app package")
	w.Inputs = append(w.Inputs, p)
	if r.Cache != nil {
		c := *r.Cache
		c.Dir, c.Optional, c.Name = "/tmp/cache", true, cmp.Or(c.Name, "build artifacts cache")
		w.Inputs = append(w.Inputs, c)
	}
	if r.CacheKey != "" {
		w.Outputs = append(w.Outputs, cell.Output{Path: cachePath, Key: r.CacheKey, Name: "build artifacts cache"})
	}
	return w
}

const (
	resultPath  = "/tmp/result.json"
	dropletPath = "/tmp/droplet"
	cachePath   = "/tmp/output-cache"
)

// arguments are the flags of upstream's builder_config.go, and our -contentsDir.
func arguments(keys []string, named bool) []string {
	dir := func(p string) string { return "{{path " + p + "}}" }
	return []string{
		"-buildpackOrder=" + strings.Join(keys, ","),
		fmt.Sprintf("-skipDetect=%t", named),
		"-buildDir=" + dir("/tmp/app"),
		"-outputDroplet=" + dir(dropletPath),
		"-outputMetadata=" + dir(resultPath),
		"-outputBuildArtifactsCache=" + dir(cachePath),
		"-buildpacksDir=" + dir("/tmp/buildpacks"),
		"-buildArtifactsCacheDir=" + dir("/tmp/cache"),
		"-contentsDir=" + dir("/tmp/contents"),
	}
}
